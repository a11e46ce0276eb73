"""Whether a square of a picture shows a face from the front: a linear judge, learned in a second when first asked.

The cascade that proposes faces is trigger-happy. scikit-image's wheel brings a hundred aligned faces of many people and
a hundred squares without one (its ``lfw_subset``); a linear discriminant between those faces and everything like but
not a face (faces shifted, scaled, turned; clouds; heaps of ellipses) weeds its finds out. Nothing is downloaded and no
weights are shipped.
"""

from __future__ import annotations

import functools
import pathlib
import typing

import cv2
import numpy as np
import skimage

from instantid_serve.models.gradients import LENGTH, SIDE_PX, Frame, crop, histograms

if typing.TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

_FACES = 100  # the first half of the subset; the second is without faces
_SOURCE_PX = 25
_WHOLE = Frame((_SOURCE_PX - 1) / 2, (_SOURCE_PX - 1) / 2, _SOURCE_PX)
_SHRINKAGE = 0.3  # of the covariance towards a sphere; flat between 0.1 and 1 under cross-validation
_CLOUDS = 600
_HEAPS = 600


@functools.cache
def reference_squares() -> NDArray[np.float32]:
    """scikit-image's 200 squares as (200, 25, 25) gray levels: 100 aligned faces, then 100 squares without one."""
    folder = pathlib.Path(skimage.__file__).parent / "data"
    squares: NDArray[np.float32] = np.load(folder / "lfw_subset.npy").astype(np.float32) * 255
    return squares


def reference_faces() -> NDArray[np.float32]:
    """The 100 faces among them, (100, 25, 25): eyes at a third of the height, from brow to chin."""
    return reference_squares()[:_FACES]


@functools.cache
def _judge() -> tuple[NDArray[np.float32], float]:
    squares = reference_squares()
    return fit(reference_faces(), squares[_FACES:])


def likeness(squares: NDArray[np.float32]) -> NDArray[np.float32]:
    """How like a frontal face (n, 40, 40) crops are: 1 is a typical face, -1 a typical other thing."""
    direction, offset = _judge()
    return histograms(squares) @ direction + offset


def fit(faces: NDArray[np.float32], others: NDArray[np.float32]) -> tuple[NDArray[np.float32], float]:
    """Fit the judge to (n, 25, 25) squares with and without a face: its direction (LENGTH,) and offset."""
    random = np.random.RandomState(7)  # its stream is frozen for ever, a Generator's is not
    yes = histograms(np.stack(list(_faces(faces, random))))
    no = histograms(np.stack([*_not_quite_faces(faces, random), *_other_things(others, random)]))
    spread = (np.cov(yes.T) + np.cov(no.T)) / 2
    spread += np.eye(LENGTH) * _SHRINKAGE * np.trace(spread) / LENGTH
    direction = np.linalg.solve(spread, yes.mean(0) - no.mean(0))
    offset = -direction @ (yes.mean(0) + no.mean(0)) / 2
    scale = direction @ (yes.mean(0) - no.mean(0)) / 2
    return (direction / scale).astype(np.float32), float(offset / scale)


def _faces(faces: NDArray[np.float32], random: np.random.RandomState) -> Iterator[NDArray[np.float32]]:
    for face in _mirrored(faces):
        for _ in range(3):
            shift = random.normal(0, 0.4, 2)
            yield _shifted(face, *shift, scale=1 + random.normal(0, 0.03), turn=random.normal(0, 3))


def _not_quite_faces(faces: NDArray[np.float32], random: np.random.RandomState) -> Iterator[NDArray[np.float32]]:
    for face in _mirrored(faces):
        far, near = random.choice([-1, 1]) * random.uniform(4, 9), random.uniform(-9, 9)
        yield _shifted(face, far, near, scale=random.uniform(0.5, 1.3))
        yield _shifted(face, near, far, scale=random.uniform(0.5, 1.3))
        yield _shifted(face, 0, 0, turn=random.choice([90, 180, 270]))
        yield _shifted(face, *random.uniform(-3, 3, 2), scale=random.uniform(0.3, 0.6))


def _other_things(others: NDArray[np.float32], random: np.random.RandomState) -> Iterator[NDArray[np.float32]]:
    for square in others:
        for turned in (square, square[::-1], square.T, square.T[:, ::-1]):
            yield _shifted(turned, 0, 0)
    for _ in range(_CLOUDS):
        yield _cloud(random)
    for _ in range(_HEAPS):
        yield _heap(random)


def _mirrored(faces: NDArray[np.float32]) -> Iterator[NDArray[np.float32]]:
    for face in faces:
        yield face
        yield face[:, ::-1]


def _shifted(
    square: NDArray[np.float32], x: float, y: float, *, scale: float = 1.0, turn: float = 0.0
) -> NDArray[np.float32]:
    frame = Frame(_WHOLE.x + x, _WHOLE.y + y, _SOURCE_PX * scale, turn)
    return crop(np.ascontiguousarray(square), frame)


def _cloud(random: np.random.RandomState) -> NDArray[np.float32]:
    """Noise of some smoothness, as cloth, grass and gravel have it."""
    noise = cv2.GaussianBlur(random.normal(0, 1, (SIDE_PX, SIDE_PX)), (0, 0), random.uniform(0.5, 3))
    span = random.uniform(40, 255) / (noise.max() - noise.min())
    return np.asarray((noise - noise.min()) * span, np.float32)


def _heap(random: np.random.RandomState) -> NDArray[np.float32]:
    """Ellipses over one another, sometimes within a large one: emblems, wheels, plates."""
    picture = np.full((SIDE_PX, SIDE_PX), random.uniform(0, 255), np.float32)
    if random.uniform() < 0.5:  # noqa: PLR2004 - a coin
        half = (random.randint(12, 20), random.randint(14, 22))
        cv2.ellipse(picture, (SIDE_PX // 2, SIDE_PX // 2), half, 0, 0, 360, random.uniform(0, 255), cv2.FILLED)
    for _ in range(random.randint(8, 60)):
        centre, axes = random.randint(-5, 45, 2), 1 + np.abs(random.normal(0, 4, 2)).astype(int)
        shade, turn = random.uniform(0, 255), random.uniform(0, 180)
        cv2.ellipse(picture, centre.tolist(), axes.tolist(), turn, 0, 360, shade, cv2.FILLED)
    return np.asarray(cv2.GaussianBlur(picture, (0, 0), random.uniform(0.4, 1.5)), np.float32)
