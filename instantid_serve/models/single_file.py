"""SDXL checkpoints published as one file in the layout of the original code, made into the folder diffusers loads."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.loaders.single_file_utils import create_diffusers_clip_model_from_ldm
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from instantid_serve.errors import WeightsError
from instantid_serve.models.conversion import save_quietly
from instantid_serve.models.layout import copy_configuration

# Where a single file keeps each part of SDXL, and the numbers in it that no part needs.
_PARTS = {
    "unet": "model.diffusion_model.",
    "vae": "first_stage_model.",
    "text_encoder": "conditioner.embedders.0.transformer.",
    "text_encoder_2": "conditioner.embedders.1.model.",
}
_UNUSED = ("position_ids", "logit_scale")
_DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def convert_single_file(file: Path, config_folder: Path, base_folder: Path) -> None:
    """Write the SDXL checkpoint ``file`` (the original layout, safetensors) as a diffusers folder, in its precision.

    ``config_folder``: an SDXL folder of diffusers' with its configurations and tokenizers; its weights are not looked
    at. Nothing is fetched. Raises WeightsError when the file is a pickle, is not SDXL, or lacks a part or a tensor.
    """
    if file.suffix != ".safetensors":
        raise WeightsError(f"{file.name} is not a safetensors file; a pickle could run code and is not read")
    stored = _stored_parameters(file)
    try:
        modules = _load_parts(file, config_folder, _dtype(file))
    except (KeyError, OSError, RuntimeError, ValueError) as error:
        raise WeightsError(f"{file.name} is not a whole SDXL checkpoint ({error})") from error
    for part, module in modules.items():
        # diffusers leaves what it does not find at random values, and says nothing.
        needed = sum(tensor.numel() for tensor in module.parameters())
        if needed != stored[part]:
            raise WeightsError(f"{file.name} holds {stored[part]} numbers for the {part}, which has {needed}")
    copy_configuration(config_folder, base_folder)
    for part, module in modules.items():
        save_quietly(module, base_folder / part)


def _load_parts(file: Path, config_folder: Path, dtype: torch.dtype) -> dict[str, Any]:
    # Part by part, as StableDiffusionXLPipeline.from_single_file does; importing a pipeline brings image processors.
    tensors = load_file(file)
    options = {"config": str(config_folder), "torch_dtype": dtype, "local_files_only": True}
    encoders = {"text_encoder": CLIPTextModel, "text_encoder_2": CLIPTextModelWithProjection}
    return {
        "unet": UNet2DConditionModel.from_single_file(tensors, subfolder="unet", **options),
        "vae": AutoencoderKL.from_single_file(tensors, subfolder="vae", **options),
        **{
            name: create_diffusers_clip_model_from_ldm(kind, tensors, subfolder=name, **options)
            for name, kind in encoders.items()
        },
    }


def _stored_parameters(file: Path) -> dict[str, int]:
    """How many numbers the file holds for each part, from its header alone."""
    counts = dict.fromkeys(_PARTS, 0)
    with _open_safetensors(file) as tensors:
        for key in tensors.keys():  # noqa: SIM118 - not a mapping
            for part, prefix in _PARTS.items():
                if key.startswith(prefix) and not key.endswith(_UNUSED):
                    counts[part] += math.prod(tensors.get_slice(key).get_shape())
    missing = [part for part, count in counts.items() if not count]
    if missing:
        raise WeightsError(f"{file.name} is not a whole SDXL checkpoint: it has no {', '.join(missing)}")
    return counts


def _dtype(file: Path) -> torch.dtype:
    with _open_safetensors(file) as tensors:
        name = next(key for key in tensors.keys() if key.startswith(_PARTS["unet"]))  # noqa: SIM118
        stored = tensors.get_slice(name).get_dtype()
    if stored not in _DTYPES:
        raise WeightsError(f"{file.name} stores its UNet as {stored}; float32, float16 and bfloat16 are read")
    return _DTYPES[stored]


def _open_safetensors(file: Path) -> Any:  # noqa: ANN401 - safetensors' class has no public name
    try:
        return safe_open(file, framework="pt")
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{file.name} is not a readable safetensors file ({error})") from error
