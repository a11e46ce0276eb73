"""The landmark picture: what IdentityNet sees of a face's place and pose."""

from __future__ import annotations

import math
import typing

import cv2
import numpy as np

if typing.TYPE_CHECKING:
    from numpy.typing import NDArray

# Every number here is InstantID's (instantid-contract, section 1b): IdentityNet was trained on exactly this drawing.
_COLOURS = ((255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (255, 0, 255))
_NOSE = 2
_LIMB_STARTS = (0, 1, 3, 4)  # each limb runs from here to the nose, in this order
_LIMB_HALF_WIDTH_PX = 4
_LIMB_BRIGHTNESS = 0.6
_POINT_RADIUS_PX = 10


def draw_landmarks(landmarks: NDArray[np.floating] | NDArray[np.integer], width: int, height: int) -> NDArray[np.uint8]:
    """Draw five landmarks as InstantID's ``draw_kps`` does, pixel for pixel.

    ``landmarks``: (5, 2) pixels of the picture, in the order of FaceFeatures; they may lie outside it. Returns
    (height, width, 3) uint8 RGB. The limbs' lengths are reckoned in the landmarks' own dtype, as upstream does:
    another precision can move an edge by a pixel.
    """
    if landmarks.shape != (5, 2):
        raise ValueError(f"five landmarks of two coordinates are drawn, not {landmarks.shape}")
    picture = np.zeros((height, width, 3), np.uint8)
    for start in _LIMB_STARTS:
        dimmed = [int(channel * _LIMB_BRIGHTNESS) for channel in _COLOURS[start]]
        cv2.fillConvexPoly(picture, _limb(landmarks[[start, _NOSE]]), dimmed)
    for (x, y), colour in zip(landmarks, _COLOURS, strict=True):
        cv2.circle(picture, (int(x), int(y)), _POINT_RADIUS_PX, colour, cv2.FILLED)
    return picture


def _limb(ends: NDArray[np.floating] | NDArray[np.integer]) -> NDArray[np.int32]:
    """Outline, as (n, 2) points, of the ellipse that lies between two ends."""
    (x1, y1), (x2, y2) = ends
    centre = (int(ends[:, 0].mean()), int(ends[:, 1].mean()))
    length = ((x1 - x2) ** 2 + (y1 - y2) ** 2) ** 0.5
    turn = int(math.degrees(math.atan2(y1 - y2, x1 - x2)))
    return np.asarray(cv2.ellipse2Poly(centre, (int(length / 2), _LIMB_HALF_WIDTH_PX), turn, 0, 360, 1), np.int32)
