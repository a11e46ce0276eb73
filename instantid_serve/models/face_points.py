"""The five landmarks of a frontal face, without weights: template positions moved to the dark spots they stand for."""

from __future__ import annotations

import typing

import cv2
import numpy as np

from instantid_serve.models.alignment import ALIGNED_SIDE_PX, TEMPLATE
from instantid_serve.models.gradients import Frame, crop

if typing.TYPE_CHECKING:
    from numpy.typing import NDArray

_SIDE_PX = 96  # a face is looked at in this size, whatever its own
# ArcFace's template lies in a face's frame (the geometry of scikit-image's reference faces) at this scale and place:
# eyes at a third of the height, as in those faces' mean, and the middle between them on the middle line.
_SCALE = 0.0092


def _in_frame(aligned: NDArray[np.float64]) -> NDArray[np.float64]:
    """Move (n, 2) pixels of an aligned face to the unit square of its frame."""
    return (aligned - (55.91, 51.6)) * _SCALE + (0.5, 0.333)


_IN_FRAME = _in_frame(TEMPLATE.astype(np.float64))

_EYES, _NOSE, _MOUTH = slice(0, 2), 2, slice(3, 5)
_EYE_REACH = (0.09, 0.07)  # how far a landmark may lie from its template position, as a fraction of the frame
_MOUTH_REACH = (0.05, 0.06)
_BRIDGE_ALLOWANCE = 0.8
_NOISE = 2.0  # gray levels: below it there is no spot to move to


def find_landmarks(gray: NDArray[np.uint8] | NDArray[np.float32], frame: Frame) -> NDArray[np.float32]:
    """Return the (5, 2) landmarks, in pixels of the (H, W) photo, of a face that fills ``frame``.

    Each is near the template's; eyes and mouth corners move to the darkest spots about there, both of a pair by similar
    amounts, and the nose goes with them.
    """
    return frame.points(_landmarks(_face(gray, frame))).astype(np.float32)


def aligned_frame(frame: Frame) -> Frame:
    """The frame of ArcFace's aligned crop of a face that fills ``frame`` with landmarks where the template's are."""
    (x, y), side = _in_frame(np.full((1, 2), (ALIGNED_SIDE_PX - 1) / 2))[0], ALIGNED_SIDE_PX * _SCALE
    centre = frame.points(np.array([[x, y]]))[0]
    return frame._replace(x=float(centre[0]), y=float(centre[1]), side=frame.side * side)


def eye_contrast(gray: NDArray[np.uint8] | NDArray[np.float32], frame: Frame) -> float:
    """How much darker the eyes are than the cheeks below and the bridge between them, in deviations of the face.

    About 1.5 in scikit-image's reference faces, where the 25 px leave the bridge dark, and over 2 in sharp photos.
    """
    face = _face(gray, frame)
    eyes = _landmarks(face)[_EYES]
    tones = np.asarray(cv2.GaussianBlur(face, (0, 0), 0.02 * _SIDE_PX), np.float32)
    dark = _sample(tones, eyes)
    cheeks = float((_sample(tones, eyes + np.array([0.0, 0.16])) - dark).min())
    bridge = float((_sample(tones, eyes.mean(0)[None]) - dark).max())
    deviation = max(_NOISE * 2, float(face[10:86, 14:82].std()))
    return min(cheeks / deviation, bridge / deviation + _BRIDGE_ALLOWANCE)


def _face(gray: NDArray[np.uint8] | NDArray[np.float32], frame: Frame) -> NDArray[np.float32]:
    smooth = cv2.GaussianBlur(gray.astype(np.float32), (0, 0), max(0.3, frame.side / _SIDE_PX / 2))
    return crop(np.asarray(smooth, np.float32), frame, _SIDE_PX)


def _landmarks(face: NDArray[np.float32]) -> NDArray[np.float64]:
    """Landmarks in the unit square of a (96, 96) face."""
    darkness = _darkness(face)
    points = _IN_FRAME.copy()
    points[_EYES] = _move_pair(darkness, points[_EYES], _EYE_REACH)
    moved = (points[_EYES] - _IN_FRAME[_EYES]).mean(0)
    points[_MOUTH] = _move_pair(darkness, points[_MOUTH] + moved, _MOUTH_REACH)
    # The nose's tip has no dark spot of its own: it lies between eyes and mouth as in the template.
    points[_NOSE] += (moved + (points[_MOUTH] - _IN_FRAME[_MOUTH]).mean(0)) / 2
    return points


def _darkness(face: NDArray[np.float32]) -> NDArray[np.float32]:
    """How much darker than its surroundings each spot of the size of an iris is, in gray levels."""
    spot = cv2.GaussianBlur(face, (0, 0), 0.022 * _SIDE_PX)
    around = cv2.GaussianBlur(face, (0, 0), 0.09 * _SIDE_PX)
    return np.asarray(around - spot, np.float32)


def _move_pair(
    darkness: NDArray[np.float32], pair: NDArray[np.float64], reach: tuple[float, float]
) -> NDArray[np.float64]:
    """Move two points of the unit square to dark spots within reach, so that the pair stays about level and as wide."""
    steps = [np.arange(-r, r + 1e-9, 1 / _SIDE_PX) for r in reach]
    shifts = np.stack(np.meshgrid(*steps), -1).reshape(-1, 2)
    prior = ((shifts / np.array(reach)) ** 2).sum(1)
    spots = [_sample(darkness, point + shifts) for point in pair]
    scale = max(_NOISE, *(float(spot.std()) for spot in spots))
    alone = [spot / scale - prior for spot in spots]
    # Only the best few of each are paired; beyond them no pair wins.
    first, second = (np.argsort(-gain)[:40] for gain in alone)
    apart = (shifts[first][:, None] - shifts[second][None, :]) / np.array(reach)
    gain = alone[0][first][:, None] + alone[1][second][None, :] - 2 * (apart**2).sum(-1)
    at, to = np.unravel_index(int(gain.argmax()), gain.shape)
    return np.asarray(pair + np.stack([shifts[first[at]], shifts[second[to]]]))


def _sample(picture: NDArray[np.float32], unit: NDArray[np.float64]) -> NDArray[np.float32]:
    at = (unit * _SIDE_PX - 0.5).astype(np.float32)
    values = cv2.remap(picture, at[:, :1], at[:, 1:], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(values, np.float32)[:, 0]
