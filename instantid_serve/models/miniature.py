"""The miniature: InstantID's full architecture in small, made here from nothing, the same bytes on every run.

It draws no people. Its weights are random, but laid out so that it behaves like a denoiser: the UNet predicts the noise
it was given and adds a picture of its own, which depends on the prompt, the face, the landmarks and the strengths; the
VAE paints it in mid-range contrast. So every stage, sampler and setting runs on it as on the real model.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import AutoencoderKL, ControlNetModel, UNet2DConditionModel
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from instantid_serve.errors import WeightsError
from instantid_serve.models.conversion import make_readable, save_quietly
from instantid_serve.models.miniature_tokenizer import WINDOW, make_tokenizer
from instantid_serve.models.miniature_weights import balance_colors, draw, fill, pass_noise_through
from instantid_serve.models.weights import Origin, check_manifest, write_manifest

PRESET = "miniature"
ORIGIN = Origin("made: miniature recipe 1", "Apache-2.0")  # count the recipe up when its numbers change

_LATENTS = 4
_TEXT, _TEXT_2 = 32, 64  # widths of the two text encoders, side by side in the UNet's context
_CONTEXT = _TEXT + _TEXT_2
_WIDTHS = (32, 48, 48)
_HINT_WIDTHS = (4, 8, 16, 32)  # the landmark picture is read at full size: wider, and this would be most of a step
_TIME_ID = 8  # width of each of SDXL's six size numbers
_ADAPTER = 64  # width of the adapter's projection: one head, which the reader of the format fixes at 64
_TOKENS, _DEPTH, _EMBEDDING = 16, 4, 512

_SHARED: dict[str, Any] = {
    "in_channels": _LATENTS,
    "block_out_channels": _WIDTHS,
    "layers_per_block": 2,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "transformer_layers_per_block": (1, 1, 2),
    "attention_head_dim": (2, 3, 3),  # the number of heads, as in SDXL's own configuration
    "cross_attention_dim": _CONTEXT,
    "norm_num_groups": 16,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": _TIME_ID,
    "projection_class_embeddings_input_dim": _TEXT_2 + 6 * _TIME_ID,
}

_PIPELINE: dict[str, Any] = {
    "_class_name": "StableDiffusionXLPipeline",
    "_diffusers_version": diffusers.__version__,
    "feature_extractor": [None, None],
    "force_zeros_for_empty_prompt": True,
    "image_encoder": [None, None],
    "scheduler": ["diffusers", "EulerDiscreteScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "tokenizer_2": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}

# SDXL's own noise schedule, with the keys for other samplers: without them DDIM clips latents to -1..1.
_SCHEDULER: dict[str, Any] = {
    "_class_name": "EulerDiscreteScheduler",
    "_diffusers_version": diffusers.__version__,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "clip_sample": False,
    "interpolation_type": "linear",
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
    "sample_max_value": 1.0,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "timestep_spacing": "leading",
    "trained_betas": None,
    "use_karras_sigmas": False,
}


def make(folder: Path, *, overwrite: bool = False) -> None:
    """Make the miniature's model folder, in seconds. One that is there already and whole is left as it is.

    Raises WeightsError when ``folder`` holds something else, unless ``overwrite`` says to replace it.
    """
    folder = folder.absolute()
    if folder.exists() and not overwrite and _is_made(folder):
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        _build(staging)
        staging.chmod(0o755)  # mkdtemp made it private
        if overwrite and folder.exists():
            shutil.rmtree(folder)
        staging.rename(folder)
    except OSError:
        # Another process may have made it meanwhile: a folder that is not empty cannot be renamed over.
        if not (folder.exists() and _is_made(folder)):
            raise
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _is_made(folder: Path) -> bool:
    """Whether the folder is a whole miniature; False when it is empty. Raises WeightsError when it is neither."""
    if not any(folder.iterdir()):
        return False
    try:
        manifest = check_manifest(folder)
    except WeightsError as error:
        raise WeightsError(f"{folder} is not a whole miniature, and is left as it is: {error}", error.facts) from error
    if manifest.preset != PRESET or {file.source for file in manifest.files} != {ORIGIN.source}:
        raise WeightsError(f"{folder} holds the model {manifest.preset}, not this miniature; it is left as it is")
    return True


def _build(folder: Path) -> None:
    unet = UNet2DConditionModel(
        **_SHARED, sample_size=32, up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D")
    )
    tokenizer, tokenizer_2 = make_tokenizer(), make_tokenizer(pad_token="!")  # noqa: S106 - no password
    modules: dict[str, Any] = {
        "base/unet": unet,
        "base/vae": _vae(),
        "base/text_encoder": CLIPTextModel(_text_config(_TEXT, tokenizer, "quick_gelu")),
        "base/text_encoder_2": CLIPTextModelWithProjection(_text_config(_TEXT_2, tokenizer_2, "gelu")),
        "ControlNetModel": ControlNetModel(**_SHARED, conditioning_embedding_out_channels=_HINT_WIDTHS),
    }
    for name, module in modules.items():
        fill(name, module)
    pass_noise_through(unet)
    balance_colors(modules["base/vae"])
    parts = {"base/tokenizer": tokenizer, "base/tokenizer_2": tokenizer_2}
    for name, part in (modules | parts).items():
        save_quietly(part, folder / name)
    _write_json(folder / "base" / "model_index.json", _PIPELINE)
    _write_json(folder / "base" / "scheduler" / "scheduler_config.json", _SCHEDULER)
    save_file(_adapter(unet), folder / "ip-adapter.safetensors")
    make_readable(folder)
    write_manifest(folder, PRESET, {"": ORIGIN})


def _vae() -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(16, 32, 32, 32),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        latent_channels=_LATENTS,
        norm_num_groups=8,
        sample_size=256,
        scaling_factor=0.13025,
    )


def _text_config(width: int, tokenizer: Any, activation: str) -> CLIPTextConfig:  # noqa: ANN401 - no types
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=WINDOW,
        hidden_act=activation,
        projection_dim=width,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def _write_json(path: Path, values: dict[str, Any]) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _adapter(unet: UNet2DConditionModel) -> dict[str, torch.Tensor]:
    """The identity adapter, in the names and order of InstantX's file (instantid-contract 1c)."""
    shapes: dict[str, tuple[int, ...]] = {
        "latents": (1, _TOKENS, _ADAPTER),
        **_linear("proj_in", _ADAPTER, _EMBEDDING),
        **_linear("proj_out", _CONTEXT, _ADAPTER),
        **_norm("norm_out", _CONTEXT),
    }
    for layer in range(_DEPTH):
        attention, forward = f"layers.{layer}.0", f"layers.{layer}.1"
        shapes |= _norm(f"{attention}.norm1", _ADAPTER) | _norm(f"{attention}.norm2", _ADAPTER)
        shapes[f"{attention}.to_q.weight"] = shapes[f"{attention}.to_out.weight"] = (_ADAPTER, _ADAPTER)
        shapes[f"{attention}.to_kv.weight"] = (2 * _ADAPTER, _ADAPTER)
        shapes |= _norm(f"{forward}.0", _ADAPTER)
        shapes[f"{forward}.1.weight"] = (4 * _ADAPTER, _ADAPTER)
        shapes[f"{forward}.3.weight"] = (_ADAPTER, 4 * _ADAPTER)
    named = {f"image_proj.{key}": shape for key, shape in shapes.items()} | _adapter_attention(unet)
    return {name: torch.from_numpy(draw(name, shape)) for name, shape in named.items()}


def _adapter_attention(unet: UNet2DConditionModel) -> dict[str, tuple[int, ...]]:
    """Key and value weights of each cross-attention layer, numbered by its place in ``unet.attn_processors``."""
    shapes: dict[str, tuple[int, ...]] = {}
    for number, name in enumerate(unet.attn_processors):
        if name.endswith("attn2.processor"):
            width = unet.get_submodule(name.removesuffix(".processor")).to_q.in_features
            shapes[f"ip_adapter.{number}.to_k_ip.weight"] = (width, _CONTEXT)
            shapes[f"ip_adapter.{number}.to_v_ip.weight"] = (width, _CONTEXT)
    return shapes


def _linear(name: str, outputs: int, inputs: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def _norm(name: str, width: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}
