"""Which files a model folder is made of, and which of a published SDXL base are taken for it."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable
from pathlib import Path

from instantid_serve.errors import WeightsError

# Each weighted part of an SDXL base and what diffusers and transformers call its weights.
_WEIGHTS = {
    "unet": "diffusion_pytorch_model",
    "vae": "diffusion_pytorch_model",
    "text_encoder": "model",
    "text_encoder_2": "model",
}
_REQUIRED = ("base/model_index.json", "base/scheduler/scheduler_config.json", "ControlNetModel/config.json")
ADAPTER_NAMES = ("ip-adapter.safetensors", "ip-adapter.bin")  # the loader takes the first it finds


def choose_configuration(names: Iterable[str]) -> dict[str, str]:
    """Of the files of an SDXL base, those that are no weights: name in the source to name in ``base/``."""
    return {name: name for name in names if _is_configuration(name)}


def copy_configuration(source: Path, base_folder: Path) -> None:
    """Copy the configurations and tokenizers of a local SDXL folder."""
    _copy(source, base_folder, choose_configuration(_names(source)))


def copy_base(source: Path, base_folder: Path) -> None:
    """Copy the files a model folder needs of a local SDXL folder. Raises WeightsError when it is not one."""
    _copy(source, base_folder, choose_base_files(_names(source)))


def choose_base_files(names: Iterable[str]) -> dict[str, str]:
    """Of the files of an SDXL base, those a model folder needs: name in the source to name in ``base/``.

    Half-precision weights are preferred and take the plain name, which loaders look for. Raises WeightsError naming the
    part that has no safetensors weights.
    """
    present = set(names)
    if "model_index.json" not in present:
        raise WeightsError("this is not a diffusers folder: it has no model_index.json")
    chosen = choose_configuration(present)
    for part, stem in _WEIGHTS.items():
        chosen |= _choose_weights(present, part, stem)
    return chosen


def require_parts(folder: Path) -> None:
    """Raise WeightsError naming the first part a model folder lacks. What is in the files is not looked at."""
    for name in _REQUIRED:
        if not (folder / name).is_file():
            raise WeightsError(f"{folder} is no model folder: {name} is missing", {"file": name})
    parts = [f"base/{part}" for part in _WEIGHTS] + ["ControlNetModel"]
    for part in parts:
        if not (folder / part / "config.json").is_file() or not any((folder / part).glob("*.safetensors")):
            raise WeightsError(f"{folder} is no model folder: {part} lacks a config.json or safetensors weights")
    for part in ("base/tokenizer", "base/tokenizer_2"):
        if not any((folder / part / name).is_file() for name in ("tokenizer.json", "vocab.json")):
            raise WeightsError(f"{folder} is no model folder: {part} has no vocabulary")
    if not any((folder / name).is_file() for name in ADAPTER_NAMES):
        raise WeightsError(f"{folder} is no model folder: {ADAPTER_NAMES[0]} is missing")


def _names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def _copy(source: Path, target: Path, chosen: dict[str, str]) -> None:
    for name, new_name in chosen.items():
        (target / new_name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / name, target / new_name)


def _is_configuration(name: str) -> bool:
    part, _, rest = name.rpartition("/")
    if part in _WEIGHTS:
        return rest == "config.json"
    if part in {"tokenizer", "tokenizer_2"}:
        return rest.endswith((".json", ".txt"))
    return name in {"model_index.json", "scheduler/scheduler_config.json"}


def _choose_weights(present: set[str], part: str, stem: str) -> dict[str, str]:
    plain = f"{part}/{stem}.safetensors"
    for name in (f"{part}/{stem}.fp16.safetensors", plain):
        if name in present:
            return {name: plain}
    index = f"{part}/{stem}.safetensors.index.json"
    if index not in present:
        raise WeightsError(f"this base has no safetensors weights of its {part}; pickles are not read")
    # No slash within: a name from outside must not lead out of its part.
    shard = re.compile(rf"{part}/{stem}-[^/]+\.safetensors")
    shards = {name for name in present if shard.fullmatch(name)}
    return {name: name for name in (index, *sorted(shards))}
