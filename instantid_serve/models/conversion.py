"""Turning published weights into the files of a model folder.

InstantX publishes the identity adapter as ``ip-adapter.bin``, a pickle. It is read once, with torch's restricted
unpickler, and kept as safetensors, which cannot run code.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from instantid_serve.errors import WeightsError

# The two groups of an InstantID adapter and what its tensors are called (instantid-contract 1c).
_KEYS = {
    "image_proj": re.compile(r"(latents|(proj_in|proj_out|norm_out|layers(\.\d{1,3}){2,3})(\.[a-z0-9_]{1,16}){1,2})"),
    "ip_adapter": re.compile(r"\d{1,4}\.to_[kv]_ip\.weight"),
}
_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
_READABLE = 0o644  # safetensors writes private files; a server may run as another user


def read_ip_adapter(path: Path) -> dict[str, dict[str, torch.Tensor]]:
    """Read an identity adapter, ``.bin`` or ``.safetensors``, as diffusers takes it: ``image_proj``, ``ip_adapter``.

    No code in the file is run. Raises WeightsError when the file is not such an adapter and nothing but it.
    """
    state = _ungroup(_read_safetensors(path)) if path.suffix == ".safetensors" else _read_pickle(path)
    if not isinstance(state, dict) or set(state) != set(_KEYS):
        raise WeightsError(f"{path.name} is not an InstantID adapter: it must hold exactly image_proj and ip_adapter")
    for group, tensors in state.items():
        _check_group(path, group, tensors)
    return {group: dict(tensors) for group, tensors in state.items()}


def convert_ip_adapter(bin_path: Path, safetensors_path: Path) -> None:
    """Write the adapter of ``bin_path`` as safetensors with the same numbers, keys ``image_proj.*``, ``ip_adapter.*``.

    Raises WeightsError as read_ip_adapter does; then nothing is written.
    """
    state = read_ip_adapter(bin_path)
    flat = {
        f"{group}.{key}": tensor.clone(memory_format=torch.contiguous_format)
        for group, tensors in state.items()
        for key, tensor in tensors.items()
    }
    part = safetensors_path.with_name(f"{safetensors_path.name}.part")
    save_file(flat, part)
    part.replace(safetensors_path)
    safetensors_path.chmod(_READABLE)


def save_quietly(part: Any, folder: Path) -> None:  # noqa: ANN401 - anything of diffusers' or transformers'
    """``part.save_pretrained(folder)`` without transformers' progress bars, readable by other users."""
    with _no_progress_bars():
        part.save_pretrained(folder)
    make_readable(folder)


def make_readable(folder: Path) -> None:
    """Let others read the safetensors files of a folder."""
    for path in folder.rglob("*.safetensors"):
        path.chmod(_READABLE)


@contextlib.contextmanager
def _no_progress_bars() -> Iterator[None]:
    enabled = transformers.utils.logging.is_progress_bar_enabled()
    transformers.utils.logging.disable_progress_bar()
    try:
        yield
    finally:
        if enabled:
            transformers.utils.logging.enable_progress_bar()


def _read_pickle(path: Path) -> Any:  # noqa: ANN401 - a pickle may hold anything; the caller checks
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a broken or hostile file may fail in any way
        raise WeightsError(f"{path.name} is not a pickle of tensors only ({type(error).__name__})") from error


def _read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{path.name} is not a readable safetensors file ({error})") from error


def _ungroup(flat: dict[str, torch.Tensor]) -> dict[str, dict[str, torch.Tensor]]:
    state: dict[str, dict[str, torch.Tensor]] = {}
    for key, tensor in flat.items():
        group, _, rest = key.partition(".")
        state.setdefault(group, {})[rest] = tensor
    return state


def _check_group(path: Path, group: str, tensors: Any) -> None:  # noqa: ANN401 - unpickled
    if not isinstance(tensors, dict) or not tensors:
        raise WeightsError(f"{path.name} holds no tensors under {group}")
    for key, tensor in tensors.items():
        if not isinstance(key, str) or not _KEYS[group].fullmatch(key):
            raise WeightsError(f"{path.name} holds {group}.{str(key)[:60]}, which an InstantID adapter has not")
        if not _is_plain(tensor):
            raise WeightsError(f"{path.name}: {group}.{key} is not a dense tensor of floats")


def _is_plain(tensor: Any) -> bool:  # noqa: ANN401 - unpickled
    if not isinstance(tensor, torch.Tensor) or tensor.layout != torch.strided or tensor.device.type != "cpu":
        return False
    # A view of a few stored bytes can claim terabytes: all of its elements must be stored.
    stored = tensor.untyped_storage().nbytes()
    return tensor.dtype in _DTYPES and 0 < tensor.numel() * tensor.element_size() <= stored
