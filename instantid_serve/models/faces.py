"""Faces in photos: what an analyser is, which of the faces it found is meant, and which analyser is served."""

from __future__ import annotations

import typing
from pathlib import Path

from instantid_serve.errors import (
    FaceIndexError,
    FaceNotFoundError,
    FaceTooSmallError,
    MultipleFacesError,
)
from instantid_serve.models.builtin import BuiltinAnalyzer
from instantid_serve.models.insightface import InsightFaceAnalyzer

if typing.TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from instantid_serve.messages import FaceChoice, FaceFeatures
    from instantid_serve.settings import FaceSettings


class FaceAnalyzer(typing.Protocol):
    """Finds faces. Implementations may be used from several threads at once."""

    def find(self, photo: NDArray[np.uint8]) -> list[FaceFeatures]:
        """Return all faces in a (H, W, 3) RGB photo, largest first."""
        ...


def open_analyzer(settings: FaceSettings, model_folder: Path) -> FaceAnalyzer:
    """Load the analyser that the settings name. Raises ConfigurationError or WeightsError if it cannot be served."""
    if settings.analyzer == "builtin":
        return BuiltinAnalyzer(settings.detection_threshold)
    return InsightFaceAnalyzer(
        settings.folder or model_folder / "antelopev2",
        settings.providers,
        settings.threads,
        settings.detection_threshold,
    )


def choose_face(faces: Sequence[FaceFeatures], choice: FaceChoice, *, min_face_px: int) -> FaceFeatures:
    """Pick the face that is meant from those found, largest first.

    ``only``: there must be exactly one; ``largest``; or a number, counted from the largest, from 0. The errors' facts
    hold the boxes, so that a caller can ask again with a number. The chosen face's shorter side must be at least
    ``min_face_px``.
    """
    if not faces:
        raise FaceNotFoundError(
            "no face was found in the photo",
            {"advice": "send a well-lit photo of one face, seen from the front and not cut off"},
        )
    if choice == "only" and len(faces) > 1:
        raise MultipleFacesError(
            f"{len(faces)} faces were found in the photo and none was chosen",
            {"faces": _boxes(faces), "advice": 'set face to "largest" or to the index of one of these faces'},
        )
    index = 0 if isinstance(choice, str) else choice
    if not 0 <= index < len(faces):
        raise FaceIndexError(
            f"there is no face {index} in the photo",
            {"faces": _boxes(faces), "advice": f"choose an index from 0 to {len(faces) - 1}"},
        )
    return _large_enough(faces[index], _boxes(faces)[index], min_face_px)


def _large_enough(face: FaceFeatures, facts: dict[str, typing.Any], min_face_px: int) -> FaceFeatures:
    x1, y1, x2, y2 = face.box
    side = min(x2 - x1, y2 - y1)
    if side < min_face_px:
        raise FaceTooSmallError(
            f"the face is {side:.0f} px wide; it must be at least {min_face_px} px",
            {"face": facts, "min_face_px": min_face_px, "advice": "send a photo with more pixels, or taken closer"},
        )
    return face


def _boxes(faces: Sequence[FaceFeatures]) -> list[dict[str, typing.Any]]:
    return [{"index": index, "box": [round(edge) for edge in face.box]} for index, face in enumerate(faces)]
