"""InstantID as the engine's runner uses it: every argument is per row, and nothing is remembered between calls."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import diffusers
import numpy as np
import torch
from numpy.typing import NDArray

from instantid_serve.errors import InvalidRequestError, NonFiniteOutputError
from instantid_serve.models.acceleration import Acceleration, accelerate
from instantid_serve.models.checkpoint import Components, load_components
from instantid_serve.models.conditioning import FACE_AGE_S, Conditioner
from instantid_serve.models.weights import check_manifest
from instantid_serve.samplers import CLASS_NAMES

Residuals = list[torch.Tensor]
CACHE_BYTES = 256_000_000
PLAIN = Acceleration()


class InstantIDModel:
    """A loaded checkpoint. Its methods are safe to call from several threads at once."""

    def __init__(
        self,
        components: Components,
        *,
        device: str,
        dtype: torch.dtype,
        cache_bytes: int = CACHE_BYTES,
        face_age_s: float = FACE_AGE_S,
        acceleration: Acceleration = PLAIN,
    ) -> None:
        """``cache_bytes``: what prompts and faces that may be asked for again may take, faces for ``face_age_s``."""
        self._parts = components
        self._conditioner = Conditioner(components, cache_bytes=cache_bytes, face_age_s=face_age_s)
        accelerate(components, acceleration)
        self._safe_vae: Any = None  # in float32, made when it is needed
        self.device, self.dtype = torch.device(device), dtype
        self.precision = str(dtype).removeprefix("torch.") + ("+fp8" if acceleration.fp8_linears else "")
        self.latent_channels = int(components.unet.config.in_channels)
        self.latent_scale: int = 2 ** (len(components.vae.config.block_out_channels) - 1)

    @classmethod
    def open(cls, folder: Path, *, device: str, dtype: str) -> Self:
        """Check a model folder against its manifest, then load it. Raises WeightsError, naming the file at fault."""
        check_manifest(folder)
        return cls.load(folder, device=device, dtype=dtype)

    @classmethod
    def load(
        cls,
        folder: Path,
        *,
        device: str = "cpu",
        dtype: str = "float32",
        cache_bytes: int = CACHE_BYTES,
        face_age_s: float = FACE_AGE_S,
        acceleration: Acceleration = PLAIN,
    ) -> Self:
        """Load a folder whose files are already trusted. Raises WeightsError when they do not fit together."""
        torch_dtype: torch.dtype = getattr(torch, dtype)
        parts = load_components(folder, device=device, dtype=torch_dtype)
        return cls(
            parts,
            device=device,
            dtype=torch_dtype,
            cache_bytes=cache_bytes,
            face_age_s=face_age_s,
            acceleration=acceleration,
        )

    def new_sampler(self, class_name: str, options: Mapping[str, Any]) -> Any:  # noqa: ANN401 - their classes are unrelated
        """Return a diffusers scheduler of the base's configuration with ``options`` changed; one per request."""
        if class_name not in CLASS_NAMES:
            raise InvalidRequestError(f"there is no sampler {class_name[:40]!r}")
        return getattr(diffusers, class_name).from_config(self._parts.sampler_config, **options)

    @torch.inference_mode()
    def condition(
        self, prompts: Sequence[str], faces: Sequence[torch.Tensor], picture: torch.Tensor, *, scope: str = ""
    ) -> dict[str, torch.Tensor]:
        """What stays the same over a request's steps, one row per prompt and face: see :meth:`Conditioner.condition`.

        ``faces``: raw embeddings (512,) float32 on the CPU, zeros for nobody. ``picture``: (H, W, 3) uint8 landmarks.
        """
        return self._conditioner.condition(prompts, faces, picture, scope=scope)

    def row_bytes(self, text_windows: int, height: int, width: int) -> int:
        """About how many bytes one row of a request takes for its life. ``height`` and ``width`` are the picture's."""
        hint = self._parts.identitynet.config.block_out_channels[0] * self.dtype.itemsize
        latents = 3 * self.latent_channels * 4  # with two of the sampler's own
        pixels = (height // self.latent_scale) * (width // self.latent_scale)
        return self._conditioner.row_bytes(text_windows) + int(hint + latents) * pixels

    @torch.inference_mode()
    def identitynet(
        self,
        latents: torch.Tensor,
        timesteps: torch.Tensor,
        conditioning: Mapping[str, torch.Tensor],
        strengths: torch.Tensor,
    ) -> Residuals:
        """Residuals for the UNet, those of the middle block last. ``strengths``: (rows,)."""
        down, mid = self._parts.identitynet(
            latents.to(self.dtype),
            timesteps,
            encoder_hidden_states=conditioning["identitynet"],
            controlnet_cond=conditioning["hint"],
            conditioning_scale=strengths.to(self.dtype).view(-1, 1, 1, 1),
            added_cond_kwargs={"text_embeds": conditioning["pooled"], "time_ids": conditioning["time_ids"]},
            return_dict=False,
        )
        return [*down, mid]

    @torch.inference_mode()
    def unet(
        self,
        latents: torch.Tensor,
        timesteps: torch.Tensor,
        conditioning: Mapping[str, torch.Tensor],
        *,
        text_mask: torch.Tensor | None,
        identity_strengths: torch.Tensor,
        residuals: Residuals | None,
    ) -> torch.Tensor:
        """Model output (rows, channels, h, w) float32. ``text_mask``: (rows, tokens) of 0 and 1, None for all ones."""
        (out,) = self._parts.unet(
            latents.to(self.dtype),
            timesteps,
            encoder_hidden_states=conditioning["text"],
            encoder_attention_mask=text_mask,
            added_cond_kwargs={"text_embeds": conditioning["pooled"], "time_ids": conditioning["time_ids"]},
            cross_attention_kwargs={
                "identity": conditioning["identity"],
                "identity_strength": identity_strengths.to(self.dtype).view(-1, 1, 1),
            },
            down_block_additional_residuals=residuals[:-1] if residuals else None,
            mid_block_additional_residual=residuals[-1] if residuals else None,
            return_dict=False,
        )
        return out.float()  # type: ignore[no-any-return]

    @torch.inference_mode()
    def decode(self, latents: torch.Tensor) -> NDArray[np.uint8]:
        """Decode latents (n, channels, h, w) to RGB pictures (n, H, W, 3) uint8.

        A VAE in half precision that overflows is run again in float32. Raises NonFiniteOutputError when that does not
        help either.
        """
        pixels = _decoded(self._parts.vae, latents)
        if not torch.isfinite(pixels).all() and self._parts.vae.dtype != torch.float32:
            if self._safe_vae is None:
                self._safe_vae = copy.deepcopy(self._parts.vae).float()
            pixels = _decoded(self._safe_vae, latents)
        if not torch.isfinite(pixels).all():
            raise NonFiniteOutputError("the VAE decoded to NaN")
        # On the device, so that a quarter of the bytes has to be copied.
        eight_bit = ((pixels.float() / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8)
        pictures: NDArray[np.uint8] = eight_bit.permute(0, 2, 3, 1).contiguous().cpu().numpy()
        return pictures


def _decoded(vae: Any, latents: torch.Tensor) -> torch.Tensor:  # noqa: ANN401 - diffusers ships no types
    pixels: torch.Tensor = vae.decode(latents.to(vae.dtype) / vae.config.scaling_factor, return_dict=False)[0]
    return pixels
