"""Loading a model folder with diffusers' own loaders. Nothing here reaches the network.

Layout: ``base/`` is an SDXL pipeline as diffusers saves it, ``ControlNetModel/`` is IdentityNet, and
``ip-adapter.safetensors`` (or InstantX's ``ip-adapter.bin``) holds the identity adapter: the projection of a face
embedding to tokens, and the key and value weights of every cross-attention layer.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from diffusers import AutoencoderKL, ControlNetModel, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from instantid_serve.errors import WeightsError
from instantid_serve.models.conversion import read_ip_adapter


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Components:
    """The parts of a loaded InstantID, in evaluation mode on one device."""

    unet: Any
    identitynet: Any
    image_projection: torch.nn.Module
    vae: Any
    text_encoders: tuple[Any, Any]
    tokenizers: tuple[Any, Any]
    sampler_config: dict[str, Any]
    zero_empty_prompts: bool


def load_components(folder: Path, *, device: str, dtype: torch.dtype) -> Components:
    """Load a model folder. Raises WeightsError when a part is missing or does not fit the others."""
    _quiet()
    base = folder / "base"
    try:
        unet = UNet2DConditionModel.from_pretrained(base, subfolder="unet", **_options(dtype))
        identitynet = ControlNetModel.from_pretrained(folder / "ControlNetModel", **_options(dtype))
        vae = AutoencoderKL.from_pretrained(base, subfolder="vae", **_options(_vae_dtype(base, dtype)))
        encoders = (
            CLIPTextModel.from_pretrained(base, subfolder="text_encoder", local_files_only=True, dtype=dtype),
            CLIPTextModelWithProjection.from_pretrained(
                base, subfolder="text_encoder_2", local_files_only=True, dtype=dtype
            ),
        )
        tokenizers = (
            CLIPTokenizer.from_pretrained(base, subfolder="tokenizer", local_files_only=True),
            CLIPTokenizer.from_pretrained(base, subfolder="tokenizer_2", local_files_only=True),
        )
        image_projection = _attach_adapter(unet, folder)
        pipeline = json.loads((base / "model_index.json").read_text())
        sampler_config = json.loads((base / "scheduler" / "scheduler_config.json").read_text())
    except (OSError, KeyError, RuntimeError, ValueError) as error:
        raise WeightsError(f"the model in {folder.name} does not load: {error}") from error
    for module in (unet, identitynet, vae, image_projection, *encoders):
        module.to(device=device).eval().requires_grad_(requires_grad=False)
    return Components(
        unet=unet,
        identitynet=identitynet,
        image_projection=image_projection.to(dtype=dtype),
        vae=vae,
        text_encoders=encoders,
        tokenizers=tokenizers,
        sampler_config={k: v for k, v in sampler_config.items() if not k.startswith("_")},
        zero_empty_prompts=bool(pipeline.get("force_zeros_for_empty_prompt", True)),
    )


def _quiet() -> None:
    """Keep the libraries' progress bars and remarks about unused configuration keys out of the replicas' logs."""
    for library in (diffusers.utils.logging, transformers.utils.logging):
        library.set_verbosity_error()
        library.disable_progress_bar()


def _options(dtype: torch.dtype) -> dict[str, Any]:
    return {"local_files_only": True, "use_safetensors": True, "torch_dtype": dtype}


def _vae_dtype(base: Path, dtype: torch.dtype) -> torch.dtype:
    """float32 where SDXL's VAE overflows in float16, as diffusers decides it; its own default is that it does."""
    config = json.loads((base / "vae" / "config.json").read_text())
    return torch.float32 if dtype == torch.float16 and config.get("force_upcast", True) else dtype


def _attach_adapter(unet: Any, folder: Path) -> torch.nn.Module:  # noqa: ANN401 - diffusers ships no types
    """Let diffusers convert the adapter into the UNet's processors; take its image projection out again.

    The engine hands identity tokens to the processors itself, so the UNet must not ask for image embeddings.
    """
    path = next((folder / n for n in ("ip-adapter.safetensors", "ip-adapter.bin") if (folder / n).exists()), None)
    if path is None:
        raise WeightsError(f"{folder.name} holds no ip-adapter.safetensors")
    unet._load_ip_adapter_weights([read_ip_adapter(path)])  # noqa: SLF001 - the only entry that takes loaded tensors
    projection: torch.nn.Module = unet.encoder_hid_proj.image_projection_layers[0]
    unet.encoder_hid_proj = None
    unet.config.encoder_hid_dim_type = None
    return projection
