"""The deployment that finds faces."""

from __future__ import annotations

import asyncio
import hashlib
import threading
from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np
from cachetools import TTLCache
from numpy.typing import NDArray
from PIL import Image

from instantid_serve import images, sizing
from instantid_serve.errors import NotFoundError, PhotoGoneError
from instantid_serve.log_context import Fields
from instantid_serve.messages import FaceFeatures, GenerationSpec
from instantid_serve.models.faces import choose_face, open_analyzer
from instantid_serve.service.generation import Subject
from instantid_serve.service.results import open_store, tenant_of
from instantid_serve.serving.replicas.scope import stage_for
from instantid_serve.serving.telemetry import log_as_serve_does
from instantid_serve.settings import Settings

Size = tuple[int, int]


class FaceAnalyzer:
    """Finds the face a spec chooses in a stored photo.

    A tenant who asks again about a photo, in another job, is answered from memory for a while: by the photo's hash,
    never across tenants, and never from anywhere that outlives this process.
    """

    def __init__(self, args: Mapping[str, Any]) -> None:
        log_as_serve_does()
        settings = Settings.load(dict(args))
        cv2.setNumThreads(settings.faces.threads)
        self._store = open_store(settings.results)
        self._faces = open_analyzer(settings.faces, settings.model.folder)
        self._min_face_px = settings.faces.min_face_px
        self._known: TTLCache[tuple[str, bytes, Size | None], tuple[Size, list[FaceFeatures]]] = TTLCache(
            settings.faces.remembered_photos, settings.faces.remembered_s
        )
        self._lock = threading.Lock()

    async def analyze(self, photos: tuple[str, ...], spec: GenerationSpec, about: Fields | None = None) -> Subject:
        """Return the person to picture. Raises FaceError, PhotoGoneError, StoreError.

        ``about``: the caller's :func:`logged_fields`.
        """
        # A thread, so that health checks are answered. A cancel does not stop it; asyncio bounds how many there are.
        with stage_for(about):
            return await asyncio.to_thread(self._analyze, photos, spec)

    def _analyze(self, photos: tuple[str, ...], spec: GenerationSpec) -> Subject:
        # Upstream bends the photo first and finds the face in what it then is; so do we, or landmarks differ.
        bent_to = (spec.width, spec.height) if spec.fit == "stretch" else None
        size, faces = self._faces_in(photos[0], bent_to)
        face = choose_face(faces, spec.face, min_face_px=self._min_face_px)
        placement = sizing.place(size, (spec.width, spec.height), spec.fit, face.box)
        others = [self._embedding(photo, spec) for photo in photos[1:]]
        return Subject(_mean([face.embedding, *others]), placement.apply(face.landmarks))

    def _embedding(self, photo: str, spec: GenerationSpec) -> NDArray[np.float32]:
        _, faces = self._faces_in(photo, None)
        return choose_face(faces, spec.face, min_face_px=self._min_face_px).embedding

    def _faces_in(self, photo_key: str, bent_to: Size | None) -> tuple[Size, list[FaceFeatures]]:
        """The size (width, height) of the stored photo, bent or not, and all its faces."""
        try:
            data = self._store.get(photo_key)
        except NotFoundError:
            raise PhotoGoneError("the photo was deleted before the pictures were made") from None
        key = (tenant_of(photo_key), hashlib.sha256(data).digest(), bent_to)
        with self._lock:
            self._known.expire()  # what is too old goes now, not when room is needed
            known = self._known.get(key)
        if known is None:
            photo = images.decode_png(data)
            if bent_to is not None:
                photo = _stretch(photo, bent_to)
            known = (photo.shape[1], photo.shape[0]), self._faces.find(photo)
            with self._lock:
                self._known[key] = known
        return known


def _mean(embeddings: list[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Raw embeddings, not normalised, as InstantID was trained on: photos with a clearer face count for more."""
    mean: NDArray[np.float32] = np.mean(embeddings, axis=0, dtype=np.float32)
    return mean


def _stretch(photo: NDArray[np.uint8], size: Size) -> NDArray[np.uint8]:
    return np.asarray(Image.fromarray(photo).resize(size, Image.Resampling.BILINEAR))
