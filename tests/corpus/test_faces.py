"""Entries 101 to 123 that can be drawn: each ends with the one face, or with a refusal that has a name."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import pytest
import skimage.data
from corpus import suite

from instantid_serve.errors import FaceError
from instantid_serve.messages import FaceFeatures
from instantid_serve.models.builtin import BuiltinAnalyzer
from instantid_serve.models.faces import choose_face

ANALYZER = BuiltinAnalyzer()
ASTRONAUT = np.ascontiguousarray(skimage.data.astronaut()[20:260, 100:360])
EYES_Y, FACE_X = slice(72, 92), slice(92, 160)
FOUND, NONE, SMALL, SEVERAL = "found", "face_not_found", "face_too_small", "multiple_faces"


def on_gray(width: int, height: int, *placed: tuple[int, int, np.ndarray]) -> np.ndarray:
    photo = np.full((height, width, 3), 128, np.uint8)
    for x, y, picture in placed:
        photo[y : y + picture.shape[0], x : x + picture.shape[1]] = picture
    return photo


def scaled(by: float) -> np.ndarray:
    return cv2.resize(ASTRONAUT, None, fx=by, fy=by, interpolation=cv2.INTER_AREA)


def turned(degrees: float) -> np.ndarray:
    movement = cv2.getRotationMatrix2D((126, 103), degrees, 1)
    return cv2.warpAffine(ASTRONAUT, movement, (260, 240), borderMode=cv2.BORDER_REPLICATE)


def covered(rows: slice) -> np.ndarray:
    photo = ASTRONAUT.copy()
    photo[rows, FACE_X] = (20, 20, 20)
    return photo


def crowd() -> np.ndarray:
    places = [(x, y) for x in range(0, 1200, 200) for y in range(0, 900, 180)]
    return on_gray(1200, 900, *((x, y, scaled(0.7)) for x, y in places))


# Number: the photo, and what may come of it.
PHOTOS: dict[int, tuple[Callable[[], np.ndarray], set[str]]] = {
    101: (skimage.data.rocket, {NONE}),
    102: (skimage.data.chelsea, {NONE}),
    107: (lambda: on_gray(540, 240, (0, 0, ASTRONAUT), (280, 0, ASTRONAUT)), {SEVERAL}),
    108: (crowd, {SEVERAL}),
    109: (lambda: on_gray(540, 240, (0, 0, ASTRONAUT), (300, 40, scaled(0.7))), {SEVERAL}),
    110: (lambda: on_gray(400, 400, (150, 150, scaled(0.3))), {NONE, SMALL}),
    111: (lambda: np.ascontiguousarray(ASTRONAUT[45:150, 75:177]), {FOUND}),
    112: (lambda: cv2.resize(scaled(0.4), (260, 240)), {FOUND, NONE}),
    114: (lambda: np.ascontiguousarray(ASTRONAUT[::-1]), {FOUND, NONE}),
    115: (lambda: turned(45), {FOUND, NONE}),
    116: (lambda: covered(EYES_Y), {FOUND, NONE}),
    117: (lambda: covered(slice(100, 150)), {FOUND, NONE}),
    119: (lambda: cv2.blur(ASTRONAUT, (25, 1)), {FOUND, NONE}),
    120: (lambda: np.zeros((512, 512, 3), np.uint8), {NONE}),
    121: (lambda: np.full((512, 512, 3), 255, np.uint8), {NONE}),
    123: (lambda: (ASTRONAUT * 0.04).astype(np.uint8), {FOUND, NONE}),
}


def chosen(photo: np.ndarray, choice: str) -> FaceFeatures:
    return choose_face(ANALYZER.find(np.ascontiguousarray(photo)), choice, min_face_px=40)


def outcome(photo: np.ndarray) -> str:
    try:
        chosen(photo, "only")
    except FaceError as refusal:
        return refusal.code
    return FOUND


def test_every_number_that_is_left_to_the_analyser_is_here():
    assert PHOTOS.keys() == suite.FACES


@pytest.mark.parametrize("number", PHOTOS)
def test_a_photo_gives_a_face_or_a_named_refusal(number: int):
    draw, may_be = PHOTOS[number]

    assert outcome(draw()) in may_be


def test_the_larger_face_is_chosen_though_it_is_on_the_left():
    draw, _ = PHOTOS[109]

    assert chosen(draw(), "largest").box[0] < 260
