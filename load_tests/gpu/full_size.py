"""SDXL, IdentityNet and the identity adapter at their full size with random weights, made on the device in seconds.

How long a step takes does not depend on what the weights are, only that no number overflows.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    ControlNetModel,
    EulerDiscreteScheduler,
    StableDiffusionXLControlNetPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from instantid_serve.models.checkpoint import Components
from instantid_serve.models.miniature_tokenizer import WINDOW, make_tokenizer

_GAIN = 0.7  # of a layer: below 1, so that signals shrink a little rather than grow
_QUERIES, _DEPTH, _EMBEDDING = 16, 4, 512  # of the adapter's projection


@dataclasses.dataclass(frozen=True, slots=True)
class Size:
    """The widths of a model, and what is measured with it."""

    name: str
    widths: tuple[int, int, int]
    heads: tuple[int, int, int]
    layers: tuple[int, int, int]
    groups: int
    time_id: int
    hint_widths: tuple[int, ...]
    vae_widths: tuple[int, ...]
    texts: tuple[tuple[int, int, int, int, str], ...]  # width, inner width, layers, heads, activation
    vocabulary: int
    adapter: int

    @property
    def context(self) -> int:
        """Width of the text tokens: both encoders side by side."""
        return sum(text[0] for text in self.texts)


# As published: stabilityai/stable-diffusion-xl-base-1.0, and InstantID's IdentityNet and adapter.
FULL = Size(
    name="full",
    widths=(320, 640, 1280),
    heads=(5, 10, 20),
    layers=(1, 2, 10),
    groups=32,
    time_id=256,
    hint_widths=(16, 32, 96, 256),
    vae_widths=(128, 256, 512, 512),
    texts=((768, 3072, 12, 12, "quick_gelu"), (1280, 5120, 32, 20, "gelu")),
    vocabulary=49408,
    adapter=1280,
)
# The same architecture for a CPU, to see that everything here runs.
SMALL = Size(
    name="small",
    widths=(32, 32, 64),
    heads=(2, 2, 2),
    layers=(1, 1, 1),
    groups=16,
    time_id=8,
    hint_widths=(4, 8, 8, 16),
    vae_widths=(16, 16, 16, 16),
    texts=((32, 64, 2, 2, "quick_gelu"), (64, 128, 2, 2, "gelu")),
    vocabulary=49408,
    adapter=64,
)

SAMPLER: dict[str, Any] = {
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "interpolation_type": "linear",
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
    "steps_offset": 1,
    "timestep_spacing": "leading",
    "use_karras_sigmas": False,
}


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Built:
    """The parts for the engine, and the same weights as the plain diffusers pipeline that it is compared with."""

    parts: Components
    pipeline: Any
    parameters: dict[str, int]


def build(size: Size, device: torch.device, dtype: torch.dtype) -> Built:
    """Make both from the same random weights."""
    unet = _made(UNet2DConditionModel, device, dtype, **_shared(size), up_block_types=_UP, sample_size=128)
    hints = {"conditioning_embedding_out_channels": size.hint_widths}
    identitynet = _made(ControlNetModel, device, dtype, **_shared(size), **hints)
    vae = _made(AutoencoderKL, device, dtype, **_vae(size))
    tokenizers = make_tokenizer(), make_tokenizer(pad_token="!")  # noqa: S106 - no password
    encoders = tuple(
        _made(kind, device, dtype, config=_text_config(size, number, tokenizer))
        for number, (kind, tokenizer) in enumerate(
            zip((CLIPTextModel, CLIPTextModelWithProjection), tokenizers, strict=True)
        )
    )
    counts = {"unet": _count(unet), "identitynet": _count(identitynet), "vae": _count(vae)}
    unet._load_ip_adapter_weights([_adapter(size, unet, device, dtype)])  # noqa: SLF001 - the only entry for tensors
    pipeline = StableDiffusionXLControlNetPipeline(
        vae=vae,
        text_encoder=encoders[0],
        text_encoder_2=encoders[1],
        tokenizer=tokenizers[0],
        tokenizer_2=tokenizers[1],
        unet=copy.deepcopy(unet),
        controlnet=copy.deepcopy(identitynet),
        scheduler=EulerDiscreteScheduler(**SAMPLER),
        add_watermarker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    projection = unet.encoder_hid_proj.image_projection_layers[0]
    unet.encoder_hid_proj = None
    unet.config.encoder_hid_dim_type = None
    parts = Components(unet, identitynet, projection, vae, encoders, tokenizers, dict(SAMPLER), zero_empty_prompts=True)
    return Built(parts, pipeline, counts)


_UP = ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D")


def _shared(size: Size) -> dict[str, Any]:
    return {
        "in_channels": 4,
        "block_out_channels": size.widths,
        "layers_per_block": 2,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "transformer_layers_per_block": size.layers,
        "attention_head_dim": size.heads,  # the number of heads: diffusers' name for it is a known mistake
        "cross_attention_dim": size.context,
        "norm_num_groups": size.groups,
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": size.time_id,
        "projection_class_embeddings_input_dim": size.texts[1][0] + 6 * size.time_id,
    }


def _vae(size: Size) -> dict[str, Any]:
    return {
        "block_out_channels": size.vae_widths,
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "layers_per_block": 2,
        "latent_channels": 4,
        "norm_num_groups": min(size.groups, size.vae_widths[0]),
        "sample_size": 1024,
        "scaling_factor": 0.13025,
    }


def _text_config(size: Size, number: int, tokenizer: Any) -> CLIPTextConfig:  # noqa: ANN401 - no types
    width, inner, layers, heads, activation = size.texts[number]
    return CLIPTextConfig(
        vocab_size=size.vocabulary,
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        max_position_embeddings=WINDOW,
        hidden_act=activation,
        projection_dim=width,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def _made(kind: Any, device: torch.device, dtype: torch.dtype, **options: Any) -> Any:  # noqa: ANN401 - no types
    """A module whose weights never exist on the host, nor in another precision."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with device:
            module = kind(**options)
    finally:
        torch.set_default_dtype(before)
    module = module.to(device=device, dtype=dtype).eval().requires_grad_(requires_grad=False)
    draw = torch.Generator(device).manual_seed(0)
    with torch.no_grad():
        for name, weight in module.named_parameters():
            _fill(name, weight, draw)
    return module


def _fill(name: str, weight: torch.Tensor, draw: torch.Generator) -> None:
    if weight.ndim > 1:
        weight.normal_(0.0, _GAIN / math.sqrt(weight[0].numel()), generator=draw)
    elif name.endswith("bias"):
        weight.normal_(0.0, 0.02, generator=draw)
    else:
        weight.fill_(1.0)


def _count(module: torch.nn.Module) -> int:
    return sum(weight.numel() for weight in module.parameters())


def _adapter(
    size: Size, unet: torch.nn.Module, device: torch.device, dtype: torch.dtype
) -> dict[str, dict[str, torch.Tensor]]:
    """An identity adapter as diffusers takes it, in the names and order of the published file."""
    draw = torch.Generator(device).manual_seed(1)

    def tensor(name: str, *shape: int) -> torch.Tensor:
        made = torch.empty(shape, device=device, dtype=dtype)
        _fill(name, made, draw)
        return made

    shapes: dict[str, tuple[int, ...]] = {}
    for number, name in enumerate(unet.attn_processors):
        if name.endswith("attn2.processor"):
            width = unet.get_submodule(name.removesuffix(".processor")).to_q.in_features
            shapes |= {f"{number}.to_{part}_ip.weight": (width, size.context) for part in "kv"}
    return {
        "image_proj": {name: tensor(name, *shape) for name, shape in _projection(size).items()},
        "ip_adapter": {name: tensor(name, *shape) for name, shape in shapes.items()},
    }


def _projection(size: Size) -> dict[str, tuple[int, ...]]:
    wide = size.adapter
    shapes: dict[str, tuple[int, ...]] = {
        "latents": (1, _QUERIES, wide),
        "proj_in.weight": (wide, _EMBEDDING),
        "proj_in.bias": (wide,),
        "proj_out.weight": (size.context, wide),
        "proj_out.bias": (size.context,),
        "norm_out.weight": (size.context,),
        "norm_out.bias": (size.context,),
    }
    for layer in range(_DEPTH):
        attention, forward = f"layers.{layer}.0", f"layers.{layer}.1"
        for norm in (f"{attention}.norm1", f"{attention}.norm2", f"{forward}.0"):
            shapes |= {f"{norm}.weight": (wide,), f"{norm}.bias": (wide,)}
        shapes |= {f"{attention}.{name}.weight": (wide, wide) for name in ("to_q", "to_out")}
        shapes[f"{attention}.to_kv.weight"] = (2 * wide, wide)
        shapes |= {f"{forward}.1.weight": (4 * wide, wide), f"{forward}.3.weight": (wide, 4 * wide)}
    return shapes
