"""The deployment that makes files of pixels."""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from instantid_serve import images
from instantid_serve.log_context import Fields
from instantid_serve.messages import GenerationSpec, StoredImage
from instantid_serve.service.generation import Finished
from instantid_serve.service.results import open_store
from instantid_serve.serving.replicas.scope import stage_for
from instantid_serve.serving.telemetry import log_as_serve_does
from instantid_serve.settings import Settings


class Publisher:
    """Encodes finished pictures and puts them into the result store."""

    def __init__(self, args: Mapping[str, Any]) -> None:
        log_as_serve_does()
        cv2.setNumThreads(1)
        self._store = open_store(Settings.load(dict(args)).results)

    async def publish(
        self, finished: Finished, key: str, spec: GenerationSpec, seed: int, about: Fields | None = None
    ) -> StoredImage:
        """Store the picture under ``key``. Raises StoreError. ``about``: the caller's :func:`logged_fields`."""
        with stage_for(about):
            pixels = await finished.pixels
            return await asyncio.to_thread(self._publish, pixels, finished, key, spec, seed)

    def _publish(
        self, pixels: NDArray[np.uint8], finished: Finished, key: str, spec: GenerationSpec, seed: int
    ) -> StoredImage:
        data = images.encode(pixels, spec.output_format, spec.quality)
        media_type = images.MEDIA_TYPES[spec.output_format]
        self._store.put(key, data, media_type)
        return StoredImage(
            key=key,
            media_type=media_type,
            size_bytes=len(data),
            sha256=hashlib.sha256(data).hexdigest(),
            width=pixels.shape[1],
            height=pixels.shape[0],
            seed=seed,
            precision=finished.precision,
            stats=dataclasses.asdict(finished.stats),
        )
