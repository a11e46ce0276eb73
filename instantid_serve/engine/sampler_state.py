"""What a diffusers sampler has come to: everything that differs from a new one of the same schedule.

Multistep samplers keep their last outputs, second-order ones where inside a step they are. All of it is attributes of
the sampler, numbers or tensors or lists of them, so none of the seventeen classes needs code of its own; a test runs
each of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

Plain = Any  # None, bool, int, float, str, a NumPy array, or a list of these


def exported(sampler: Any, new: Any) -> dict[str, Plain]:  # noqa: ANN401 - diffusers' samplers share no type
    """The attributes of ``sampler`` that are not as in ``new``, with tensors as NumPy arrays. Waits for the device."""
    fresh = vars(new)
    return {
        name: _to_plain(value)
        for name, value in vars(sampler).items()
        if not name.startswith("_internal") and not _same(value, fresh.get(name))
    }


def restore(new: Any, state: Mapping[str, Plain], device: torch.device) -> None:  # noqa: ANN401
    """Bring a new sampler to the state that :func:`exported` returned."""
    for name, value in state.items():
        setattr(new, name, _from_plain(value, device))


def _same(value: object, other: object) -> bool:
    if isinstance(value, torch.Tensor):
        return isinstance(other, torch.Tensor) and value.shape == other.shape and bool(torch.equal(value, other))
    if isinstance(value, np.ndarray):
        return isinstance(other, np.ndarray) and bool(np.array_equal(value, other))
    if isinstance(value, list):
        return isinstance(other, list) and len(value) == len(other) and all(map(_same, value, other))
    return bool(value is other or value == other)


def _to_plain(value: object) -> Plain:
    if isinstance(value, torch.Tensor):
        return value.cpu().numpy()
    if isinstance(value, list):
        return [_to_plain(item) for item in value]
    if value is None or isinstance(value, bool | int | float | str | np.ndarray | np.generic):
        return value
    raise TypeError(f"a sampler keeps a {type(value).__name__}")


def _from_plain(value: Plain, device: torch.device) -> object:
    if isinstance(value, np.ndarray):
        tensor = torch.from_numpy(value.copy())
        # Schedules and coefficients stay on the host, where no step waits for them; pictures live on the device.
        return tensor.to(device) if tensor.ndim >= 3 else tensor  # noqa: PLR2004 - (1, channels, h, w) is a picture
    if isinstance(value, list):
        return [_from_plain(item, device) for item in value]
    return value
