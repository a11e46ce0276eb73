"""Requests for the benchmarks: endless, reproducible, every prompt, face, landmark picture and seed distinct."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import numpy as np

from instantid_serve.messages import Request

GUIDANCE_SCALES = (1.0, 3.0, 5.0, 7.0, 7.5)  # 1.0 is guidance off: one row instead of two
SAMPLERS = ("EulerDiscreteScheduler", "DPMSolverMultistepScheduler", "DDIMScheduler")
SCENES = ("film photo of a woman", "a watercolor of a man", "portrait in a garden", "a sketch in ink", "film noir")
# Of a picture of side 1: eyes, nose tip, mouth corners.
FACE = np.array([[0.32, 0.38], [0.66, 0.37], [0.50, 0.53], [0.38, 0.72], [0.63, 0.70]], np.float32)


def make_request(number: int, *, side_px: int, **changes: Any) -> Request:  # noqa: ANN401 - Request's own fields
    """Return the ``number``-th request, square, with ``changes`` to the defaults of `Request`."""
    draw = random.Random(number)
    values: dict[str, Any] = {
        "id": f"r{number}",
        "prompt": f"{draw.choice(SCENES)}, number {number}",
        "negative_prompt": f"lowres, watermark {number}",
        "seed": number,
        "width": side_px,
        "height": side_px,
        "embedding": np.random.default_rng(number).normal(size=512).astype(np.float32),
        "landmarks": (FACE + draw.uniform(-0.05, 0.05)) * side_px,
    }
    return Request(**(values | changes))


def arrivals_s(seed: int, rate_per_s: float, duration_s: float) -> Iterator[float]:
    """Yield the arrival times of a Poisson stream, in seconds from its start."""
    draw = random.Random(f"arrivals {seed}")
    now_s = draw.expovariate(rate_per_s)
    while now_s < duration_s:
        yield now_s
        now_s += draw.expovariate(rate_per_s)
