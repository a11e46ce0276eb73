"""InstantID as the engine's runner uses it: every argument is per row, and nothing is remembered between calls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import diffusers
import numpy as np
import torch
from numpy.typing import NDArray

from instantid_serve.errors import InvalidRequestError, NonFiniteOutputError
from instantid_serve.models import attention
from instantid_serve.models.checkpoint import Components, load_components
from instantid_serve.models.prompts import PromptEncoder, TextConditioning
from instantid_serve.models.weights import check_manifest
from instantid_serve.samplers import CLASS_NAMES

Residuals = tuple[list[torch.Tensor], torch.Tensor]


class InstantIDModel:
    """A loaded checkpoint. Its methods are safe to call from several threads at once."""

    def __init__(self, components: Components, *, device: str, dtype: torch.dtype) -> None:
        attention.install(components.unet)
        self._parts = components
        self._prompts = PromptEncoder(
            components.tokenizers, components.text_encoders, zero_empty=components.zero_empty_prompts
        )
        self.device, self.dtype = torch.device(device), dtype
        self.latent_channels = int(components.unet.config.in_channels)
        self.latent_scale = 2 ** (len(components.vae.config.block_out_channels) - 1)

    @classmethod
    def open(cls, folder: Path, *, device: str, dtype: str) -> Self:
        """Check a model folder against its manifest, then load it. Raises WeightsError, naming the file at fault."""
        check_manifest(folder)
        return cls.load(folder, device=device, dtype=dtype)

    @classmethod
    def load(cls, folder: Path, *, device: str = "cpu", dtype: str = "float32") -> Self:
        """Load a folder whose files are already trusted. Raises WeightsError when they do not fit together."""
        torch_dtype: torch.dtype = getattr(torch, dtype)
        return cls(load_components(folder, device=device, dtype=torch_dtype), device=device, dtype=torch_dtype)

    def new_sampler(self, class_name: str, options: Mapping[str, Any]) -> Any:  # noqa: ANN401 - their classes are unrelated
        """Return a diffusers scheduler of the base's configuration with ``options`` changed; one per request."""
        if class_name not in CLASS_NAMES:
            raise InvalidRequestError(f"there is no sampler {class_name[:40]!r}")
        return getattr(diffusers, class_name).from_config(self._parts.sampler_config, **options)

    @torch.inference_mode()
    def encode_prompts(self, prompts: Sequence[str]) -> list[TextConditioning]:
        """Encode the prompts of one request to the same number of tokens."""
        return self._prompts.encode(prompts)

    @torch.inference_mode()
    def identity_tokens(self, embeddings: torch.Tensor) -> torch.Tensor:
        """Project raw face embeddings (rows, 512) to identity tokens (rows, tokens, dim). Zeros mean nobody."""
        faces = embeddings.to(self.device, self.dtype).unsqueeze(1)
        tokens: torch.Tensor = self._parts.image_projection(faces)
        return tokens

    @torch.inference_mode()
    def identitynet(
        self,
        latents: torch.Tensor,
        timesteps: torch.Tensor,
        *,
        identity_tokens: torch.Tensor,
        hints: torch.Tensor,
        strengths: torch.Tensor,
        pooled: torch.Tensor,
        time_ids: torch.Tensor,
    ) -> Residuals:
        """Residuals for the UNet. ``hints``: (rows, 3, H, W) landmark pictures in 0..1. ``strengths``: (rows,)."""
        down, mid = self._parts.identitynet(
            latents.to(self.dtype),
            timesteps,
            encoder_hidden_states=identity_tokens,
            controlnet_cond=hints.to(self.dtype),
            conditioning_scale=strengths.to(self.dtype).view(-1, 1, 1, 1),
            added_cond_kwargs={"text_embeds": pooled, "time_ids": time_ids},
            return_dict=False,
        )
        return list(down), mid

    @torch.inference_mode()
    def unet(
        self,
        latents: torch.Tensor,
        timesteps: torch.Tensor,
        *,
        text: torch.Tensor,
        text_mask: torch.Tensor | None,
        identity_tokens: torch.Tensor,
        identity_strengths: torch.Tensor,
        pooled: torch.Tensor,
        time_ids: torch.Tensor,
        residuals: Residuals | None,
    ) -> torch.Tensor:
        """Model output (rows, channels, h, w) float32. ``text_mask``: (rows, tokens) of 0 and 1, None for all ones."""
        down, mid = residuals or (None, None)
        (out,) = self._parts.unet(
            latents.to(self.dtype),
            timesteps,
            encoder_hidden_states=text,
            encoder_attention_mask=text_mask,
            added_cond_kwargs={"text_embeds": pooled, "time_ids": time_ids},
            cross_attention_kwargs={
                "identity_tokens": identity_tokens,
                "identity_strength": identity_strengths.to(self.dtype).view(-1, 1, 1),
            },
            down_block_additional_residuals=down,
            mid_block_additional_residual=mid,
            return_dict=False,
        )
        return out.float()  # type: ignore[no-any-return]

    @torch.inference_mode()
    def decode(self, latents: torch.Tensor) -> NDArray[np.uint8]:
        """Decode latents (n, channels, h, w) to RGB pictures (n, H, W, 3) uint8."""
        vae = self._parts.vae
        pixels = vae.decode(latents.to(vae.dtype) / vae.config.scaling_factor, return_dict=False)[0]
        scaled = (pixels.float() / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).cpu().numpy()
        if not np.isfinite(scaled).all():
            raise NonFiniteOutputError("the VAE decoded to NaN; this precision is too low for it")
        rounded: NDArray[np.uint8] = (scaled * 255).round().astype(np.uint8)
        return rounded
