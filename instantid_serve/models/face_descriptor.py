"""A 512-number description of an aligned face, without weights.

It stands in for ArcFace's embedding where antelopev2 is not installed: the same shape, about the same norm, the same
for the same photo, and nearer for two photos of one person taken alike than for two persons. It is not trained to
recognise people and is of no use for that.
"""

from __future__ import annotations

import functools
import typing

import cv2
import numpy as np

from instantid_serve.models.face_likeness import reference_faces
from instantid_serve.models.face_points import aligned_frame
from instantid_serve.models.gradients import LENGTH, SIDE_PX, Frame, crop, histograms

if typing.TYPE_CHECKING:
    from numpy.typing import NDArray

EMBEDDING_LENGTH = 512
_NORM = 20.0  # what glintr100's raw embeddings have, give or take five
_TONES_PX = 10
_TINTS_PX = 4
_TINT_WEIGHT = 0.5  # tints move with the light more than shapes do


def describe(aligned: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Describe a (112, 112, 3) RGB face, aligned to ArcFace's template: (512,) float32 of norm 20."""
    gray = cv2.cvtColor(aligned, cv2.COLOR_RGB2GRAY).astype(np.float32)
    square = np.asarray(cv2.resize(gray, (SIDE_PX, SIDE_PX), interpolation=cv2.INTER_AREA), np.float32)
    shapes = _shapes(square[None])[0] - _mean_shapes()
    features = np.concatenate([shapes, _TINT_WEIGHT * _tints(aligned)])
    description = features @ _projection()
    return (description * (_NORM / max(float(np.linalg.norm(description)), 1e-6))).astype(np.float32)


def _shapes(squares: NDArray[np.float32]) -> NDArray[np.float32]:
    """Gradient directions and smoothed tones of (n, 40, 40) gray faces, each part of them of norm about 1."""
    tones = np.stack([cv2.resize(s, (_TONES_PX, _TONES_PX), interpolation=cv2.INTER_AREA).ravel() for s in squares])
    tones = tones - tones.mean(1, keepdims=True)
    tones /= np.maximum(np.linalg.norm(tones, axis=1, keepdims=True), 1.0)
    directions = histograms(squares)
    directions /= np.maximum(np.linalg.norm(directions, axis=1, keepdims=True), 1e-3)
    return np.hstack([directions, tones]).astype(np.float32)


@functools.cache
def _mean_shapes() -> NDArray[np.float32]:
    """What all faces share; what is left after taking it away tells them apart."""
    faces = reference_faces()
    frame = aligned_frame(Frame((faces.shape[2] - 1) / 2, (faces.shape[1] - 1) / 2, faces.shape[1]))
    mean: NDArray[np.float32] = _shapes(np.stack([crop(face, frame) for face in faces])).mean(0)
    return mean


def _tints(aligned: NDArray[np.uint8]) -> NDArray[np.float32]:
    small = cv2.resize(aligned, (_TINTS_PX, _TINTS_PX), interpolation=cv2.INTER_AREA).astype(np.float32)
    red, green, blue = small.reshape(-1, 3).T
    bright = red + green + blue + 24
    return np.concatenate([(red - green) / bright, (green - blue) / bright]).astype(np.float32)


@functools.cache
def _projection() -> NDArray[np.float32]:
    """A fixed random map that keeps angles: every number of the description depends on the whole face."""
    length = LENGTH + _TONES_PX**2 + 2 * _TINTS_PX**2
    random = np.random.RandomState(512)  # its stream is frozen for ever, a Generator's is not
    return np.asarray(random.standard_normal((length, EMBEDDING_LENGTH)) / np.sqrt(EMBEDDING_LENGTH), np.float32)
