"""An endless list of small requests that differ in everything a request can differ in."""

import random

import numpy as np

from instantid_serve.messages import Request

LANDMARKS = np.array([[22, 25], [42, 24], [32, 34], [25, 45], [40, 44]], np.float32)
LONG_PROMPT = ", ".join(["portrait of a person in a garden at dusk, soft light, 35mm film"] * 12)


def make_request(number):
    """Request `number` of the list."""
    draw = random.Random(number)
    width, height = draw.choice([(64, 64), (64, 64), (96, 64)])
    start, end = draw.choice([(0.0, 1.0), (0.0, 1.0), (0.3, 0.8), (0.0, 0.5)])
    return Request(
        id=f"r{number}",
        prompt=draw.choice(["a watercolor of a man", "film noir, a woman in the rain", LONG_PROMPT, ""]),
        negative_prompt=draw.choice(["", "lowres, watermark"]),
        seed=number,
        width=width,
        height=height,
        embedding=np.random.default_rng(number).normal(size=512).astype(np.float32),
        landmarks=LANDMARKS + draw.uniform(-6, 6),
        steps=draw.randint(2, 4),
        guidance_scale=draw.choice([1.0, 3.0, 5.0, 7.5]),
        sampler=draw.choice(
            [
                "EulerDiscreteScheduler",
                "EulerAncestralDiscreteScheduler",
                "DPMSolverMultistepScheduler",
                "DDIMScheduler",
            ]
        ),
        identity_strength=draw.choice([0.0, 0.5, 0.8, 1.3]),
        identitynet_strength=draw.choice([0.0, 0.4, 0.8]),
        identitynet_start=start,
        identitynet_end=end,
    )
