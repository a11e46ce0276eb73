"""What the engine needs of a model, as a Protocol: the engine knows no model, and no model knows the engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray


class Model(Protocol):
    """What the runner needs of a model; `models.instantid.InstantIDModel` says what each argument is."""

    device: torch.device
    latent_channels: int
    latent_scale: int
    precision: str

    def new_sampler(self, class_name: str, options: Mapping[str, Any]) -> Any: ...  # noqa: ANN401
    def condition(
        self, prompts: Sequence[str], faces: Sequence[torch.Tensor], picture: torch.Tensor, *, scope: str
    ) -> Mapping[str, torch.Tensor]: ...
    def row_bytes(self, text_windows: int, height: int, width: int) -> int: ...
    def identitynet(
        self,
        latents: torch.Tensor,
        timesteps: torch.Tensor,
        conditioning: Mapping[str, torch.Tensor],
        strengths: torch.Tensor,
    ) -> list[torch.Tensor]: ...
    def unet(
        self,
        latents: torch.Tensor,
        timesteps: torch.Tensor,
        conditioning: Mapping[str, torch.Tensor],
        *,
        text_mask: torch.Tensor | None,
        identity_strengths: torch.Tensor,
        residuals: list[torch.Tensor] | None,
    ) -> torch.Tensor: ...
    def decode(self, latents: torch.Tensor) -> NDArray[np.uint8]: ...
