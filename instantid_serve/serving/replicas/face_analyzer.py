"""The deployment that finds faces."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from instantid_serve import images, sizing
from instantid_serve.messages import GenerationSpec
from instantid_serve.models.faces import choose_face, open_analyzer
from instantid_serve.service.generation import Subject
from instantid_serve.service.results import open_store
from instantid_serve.serving.telemetry import log_as_serve_does
from instantid_serve.settings import Settings


class FaceAnalyzer:
    """Finds the face a spec chooses in a stored photo."""

    def __init__(self, args: Mapping[str, Any]) -> None:
        log_as_serve_does()
        settings = Settings.load(dict(args))
        cv2.setNumThreads(settings.faces.threads)
        self._store = open_store(settings.results)
        self._faces = open_analyzer(settings.faces, settings.model.folder)
        self._min_face_px = settings.faces.min_face_px

    async def analyze(self, photo_key: str, spec: GenerationSpec) -> Subject:
        """Return the person to picture. Raises FaceError, StoreError."""
        # A thread: a sync handler would do as well, but Serve frees its slot on a cancel while it still runs.
        return await asyncio.to_thread(self._analyze, photo_key, spec)

    def _analyze(self, photo_key: str, spec: GenerationSpec) -> Subject:
        photo = images.decode_png(self._store.get(photo_key))
        if spec.fit == "stretch":
            # Upstream bends the photo first and finds the face in what it then is; so do we, or landmarks differ.
            photo = _stretch(photo, spec.width, spec.height)
        face = choose_face(self._faces.find(photo), spec.face, min_face_px=self._min_face_px)
        size = (photo.shape[1], photo.shape[0])
        placement = sizing.place(size, (spec.width, spec.height), spec.fit, face.box)
        return Subject(face.embedding, placement.apply(face.landmarks))


def _stretch(photo: NDArray[np.uint8], width: int, height: int) -> NDArray[np.uint8]:
    return np.asarray(Image.fromarray(photo).resize((width, height), Image.Resampling.BILINEAR))
