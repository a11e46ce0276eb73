"""A request alone equals InstantID as plain diffusers runs it: an oracle that shares no code with the engine.

diffusers' SDXL ControlNet pipeline with the identity adapter loaded is InstantID but for one thing, which this file
adds: IdentityNet is given the identity tokens instead of the text.
"""

import diffusers
import numpy as np
import pytest
import torch
from diffusers import ControlNetModel, StableDiffusionXLControlNetPipeline
from doubles.engine import engine_by_hand, run_all
from PIL import Image

from instantid_serve.engine.runner import Runner
from instantid_serve.landmarks import draw_landmarks
from instantid_serve.messages import Request
from instantid_serve.models.conversion import read_ip_adapter

TOLERANCE = 1e-4
LANDMARKS = np.array([[40, 50], [85, 47], [64, 68], [48, 92], [80, 90]], np.float32)


@pytest.fixture(scope="module")
def pipeline(miniature_folder):
    net = ControlNetModel.from_pretrained(miniature_folder / "ControlNetModel")
    pipe = StableDiffusionXLControlNetPipeline.from_pretrained(
        miniature_folder / "base", controlnet=net, local_files_only=True
    )
    adapter = read_ip_adapter(miniature_folder / "ip-adapter.safetensors")
    pipe.load_ip_adapter(adapter, subfolder="", weight_name="", image_encoder_folder=None)
    pipe.set_progress_bar_config(disable=True)
    pipe.base_sampler = dict(pipe.scheduler.config)  # what a request sets on the pipeline's own would stay for the next
    return pipe


def oracle_latents(pipe, request):
    embeds = torch.from_numpy(request.embedding).reshape(1, 1, 1, 512)
    if request.guidance_scale > 1:
        embeds = torch.cat([torch.zeros_like(embeds), embeds])
    tokens = pipe.unet.encoder_hid_proj.image_projection_layers[0](embeds[:, 0])
    stock_forward = ControlNetModel.forward

    def identitynet_forward(*args, **kwargs):
        return stock_forward(pipe.controlnet, *args, **{**kwargs, "encoder_hidden_states": tokens})

    pipe.controlnet.forward = identitynet_forward
    pipe.scheduler = getattr(diffusers, request.sampler).from_config(pipe.base_sampler, **request.sampler_options)
    pipe.set_ip_adapter_scale(request.identity_strength)
    return pipe(
        prompt=request.prompt,
        negative_prompt=request.negative_prompt or None,
        image=Image.fromarray(draw_landmarks(request.landmarks, request.width, request.height)),
        ip_adapter_image_embeds=[embeds],
        width=request.width,
        height=request.height,
        num_inference_steps=request.steps,
        guidance_scale=request.guidance_scale,
        controlnet_conditioning_scale=request.identitynet_strength,
        control_guidance_start=request.identitynet_start,
        control_guidance_end=request.identitynet_end,
        generator=torch.Generator().manual_seed(request.seed),
        output_type="latent",
    ).images.numpy()


def request(name, **changes):
    values = {
        "prompt": "film photo of a woman, 35mm",
        "negative_prompt": "lowres",
        "seed": 7,
        "width": 128,
        "height": 128,
        "embedding": np.random.default_rng(3).normal(size=512).astype(np.float32),
        "landmarks": LANDMARKS,
        "steps": 5,
    }
    return Request(id=name, **(values | changes))


REQUESTS = [
    request("defaults"),
    request("no guidance", guidance_scale=1.0),
    request("no negative prompt", negative_prompt="", seed=8),
    request("wide", width=192, seed=9),
    request("off the 64 px grid", width=136, height=104, seed=10),
    request("window", steps=8, identitynet_start=0.25, identitynet_end=0.75),
    request("strengths", identity_strength=1.2, identitynet_strength=0.3),
    request("no identity", identity_strength=0.0, identitynet_strength=0.0),
    request("ancestral", sampler="EulerAncestralDiscreteScheduler"),
    request("heun", sampler="HeunDiscreteScheduler"),
    request("tcd", sampler="TCDScheduler", guidance_scale=1.0, steps=4),
    request(
        "sde karras",
        sampler="DPMSolverMultistepScheduler",
        sampler_options={"use_karras_sigmas": True, "algorithm_type": "sde-dpmsolver++"},
    ),
]


def engine_latents(model, requests):
    latents = {}
    runner = Runner(model, observe=lambda id_, _, values: latents.__setitem__(id_, values.copy()))
    engine = engine_by_hand(runner, max_batch_rows=32, max_resident_requests=32)
    for one in requests:
        engine.submit(one)
    run_all(engine)
    return latents


def relative_error(actual, wanted):
    return np.linalg.norm(actual - wanted) / np.linalg.norm(wanted)


@pytest.mark.parametrize("one", REQUESTS, ids=lambda r: r.id)
def test_a_request_alone_equals_plain_diffusers(pipeline, miniature_model, one):
    ours = engine_latents(miniature_model, [one])[one.id]

    assert relative_error(ours, oracle_latents(pipeline, one)) <= TOLERANCE


def test_all_of_them_in_one_engine_equal_plain_diffusers(pipeline, miniature_model):
    together = engine_latents(miniature_model, REQUESTS)

    for one in REQUESTS:
        assert relative_error(together[one.id], oracle_latents(pipeline, one)) <= TOLERANCE, one.id
