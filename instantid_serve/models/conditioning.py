"""What a request is conditioned on, computed once for all its steps, and remembered where others may ask again."""

from __future__ import annotations

import hashlib
import math
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import cachetools
import torch

from instantid_serve.models import attention
from instantid_serve.models.checkpoint import Components
from instantid_serve.models.prompts import WINDOW, PromptEncoder

Named = dict[str, torch.Tensor]

FACE_AGE_S = 600.0


class Conditioner:
    """Turns prompts, face and landmark picture into the tensors that the two networks are handed at every step.

    Prompts and faces are remembered in memory, the least recently used forgotten first, and faces in any case
    ``face_age_s`` seconds after they came. A face is only found again under the ``scope`` that brought it, its
    tenant's; prompts are everybody's.
    """

    def __init__(
        self,
        parts: Components,
        *,
        cache_bytes: int,
        face_age_s: float = FACE_AGE_S,
        timer: Callable[[], float] = time.monotonic,
    ) -> None:
        """Takes the attention layers of both networks over: see :func:`attention.install`."""
        self._text, identity = attention.install(parts.unet)
        if identity is None:
            raise ValueError("this UNet has no identity adapter")
        self._identity = identity
        self._identitynet, _ = attention.install(parts.identitynet)
        self._prompts = PromptEncoder(parts.tokenizers, parts.text_encoders, zero_empty=parts.zero_empty_prompts)
        self._project = parts.image_projection
        # It depends on the landmarks alone: run once per request here, and passed through in IdentityNet's forward.
        self._encode_hint = parts.identitynet.controlnet_cond_embedding
        parts.identitynet.controlnet_cond_embedding = torch.nn.Identity()
        latents: Any = parts.image_projection.latents  # the queries of its tokens, (1, tokens, dim)
        self._identity_tokens = latents.shape[1]
        self._device, self._dtype = latents.device, latents.dtype

        def until(key: tuple[Any, ...], _named: Named, now: float) -> float:
            return now + face_age_s if key[0] == "face" else math.inf

        self._remembered: cachetools.TLRUCache[Any, Named] = cachetools.TLRUCache(cache_bytes, until, timer, _bytes_of)
        self._lock = threading.Lock()

    def text_windows(self, prompts: Sequence[str]) -> int:
        """Windows of 77 tokens that all of the prompts fit into."""
        return max(self._prompts.windows(prompt) for prompt in prompts)

    def row_bytes(self, windows: int) -> int:
        """Bytes of one row's keys and values, the bulk of what :meth:`condition` returns."""
        identity = sum(self._identity.widths) + sum(self._identitynet.widths)
        packed = 2 * (windows * WINDOW * sum(self._text.widths) + self._identity_tokens * identity)
        return int(packed * self._dtype.itemsize)

    def condition(
        self, prompts: Sequence[str], faces: Sequence[torch.Tensor], picture: torch.Tensor, *, scope: str
    ) -> Named:
        """One row per prompt and face. ``faces``: raw embeddings (512,). ``picture``: (H, W, 3) uint8 landmarks.

        Returned, with one row each: ``text`` (rows, 77 n, packed) and ``identity`` (rows, 16, packed), keys and values
        for the UNet; ``identitynet`` (rows, 16, packed), those for IdentityNet; ``pooled`` (rows, dim), ``time_ids``
        (rows, 6); and ``hint`` (1, channels, h, w), the same for all rows.
        """
        windows = self.text_windows(prompts)
        rows = [
            self._prompt(prompt, windows) | self._face(face, scope) for prompt, face in zip(prompts, faces, strict=True)
        ]
        height, width = picture.shape[:2]
        hint = picture.to(self._device).permute(2, 0, 1).unsqueeze(0).float() / 255.0
        size = torch.tensor([[height, width, 0, 0, height, width]] * len(rows), dtype=torch.float32)
        return {
            **{name: torch.stack([row[name] for row in rows]) for name in rows[0]},
            "time_ids": size.to(self._device),
            "hint": self._encode_hint(hint.to(self._dtype)),
        }

    def _prompt(self, prompt: str, windows: int) -> Named:
        def encode() -> Named:
            encoded = self._prompts.encode(prompt, windows)
            return {"text": self._text(encoded.tokens), "pooled": encoded.pooled}

        return self._recall(("prompt", prompt, windows), encode)

    def _face(self, embedding: torch.Tensor, scope: str) -> Named:
        def project() -> Named:
            tokens = self._project(embedding.to(self._device, self._dtype).reshape(1, 1, -1))[0]
            return {"identity": self._identity(tokens), "identitynet": self._identitynet(tokens)}

        # The digest, not the features, so that nothing biometric lies about as a key. Nobody's face is everybody's.
        digest = hashlib.sha256(embedding.numpy().tobytes()).digest()
        return self._recall(("face", scope if embedding.any() else "", digest), project)

    def _recall(self, key: tuple[Any, ...], make: Callable[[], Named]) -> Named:
        with self._lock:
            self._remembered.expire()  # what is too old goes now, not when room is needed
            if (found := self._remembered.get(key)) is not None:
                return found
        made = make()
        with self._lock:
            if _bytes_of(made) <= self._remembered.maxsize:
                self._remembered[key] = made
        return made


def _bytes_of(named: Named) -> int:
    return sum(tensor.nbytes for tensor in named.values())
