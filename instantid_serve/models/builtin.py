"""A face analyser that needs no weights: for laptops, tests and demos."""

from __future__ import annotations

import typing

import cv2
import numpy as np

from instantid_serve.messages import FaceFeatures
from instantid_serve.models.alignment import ALIGNED_SIDE_PX, align
from instantid_serve.models.face_descriptor import describe
from instantid_serve.models.face_likeness import likeness
from instantid_serve.models.face_points import find_landmarks
from instantid_serve.models.face_search import search
from instantid_serve.models.gradients import SIDE_PX

if typing.TYPE_CHECKING:
    from numpy.typing import NDArray

    from instantid_serve.models.face_search import Find


class BuiltinAnalyzer:
    """Finds upright frontal faces with what scikit-image brings; a photo without a face is told as one.

    Its embeddings have the shape and size of ArcFace's but do not recognise people: pictures of the miniature depend on
    the face they are given, and no more is claimed. Safe to use from several threads.
    """

    def __init__(self, detection_threshold: float = 0.5) -> None:
        self._threshold = detection_threshold
        # What is learned at first use (about a second, once per process) is learned before the first photo.
        likeness(np.zeros((1, SIDE_PX, SIDE_PX), np.float32))
        describe(np.zeros((ALIGNED_SIDE_PX, ALIGNED_SIDE_PX, 3), np.uint8))

    def find(self, photo: NDArray[np.uint8]) -> list[FaceFeatures]:
        """Return all faces in a (H, W, 3) RGB photo, largest first."""
        gray = np.asarray(cv2.cvtColor(photo, cv2.COLOR_RGB2GRAY), np.uint8)
        faces = [_features(photo, gray, find) for find in search(photo, self._threshold)]
        return sorted(faces, key=lambda face: -face.area)


def _features(photo: NDArray[np.uint8], gray: NDArray[np.uint8], find: Find) -> FaceFeatures:
    landmarks = find_landmarks(gray, find.frame)
    half = find.frame.side / 2
    x, y = find.frame.x, find.frame.y
    box = (x - half, y - half, x + half, y + half)
    return FaceFeatures(describe(align(photo, landmarks)), landmarks, box, find.score)
