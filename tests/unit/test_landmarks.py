"""The landmark picture is upstream's, pixel for pixel."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instantid_serve.landmarks import draw_landmarks

# Landmarks and what upstream's draw_kps makes of them, from the golden data.
GOLDEN = np.load(Path(__file__).parents[1] / "data" / "landmark_pictures.npz")
NAMES = sorted({name.removesuffix(".picture").removesuffix(".landmarks") for name in GOLDEN.files})
FULL = {(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (255, 0, 255)}
DIM = {(153, 0, 0), (0, 153, 0), (153, 153, 0), (153, 0, 153)}

coordinates = st.floats(-20_000, 20_000, width=32)
landmark_sets = st.lists(st.tuples(coordinates, coordinates), min_size=5, max_size=5)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64])
@pytest.mark.parametrize("name", NAMES)
def test_it_equals_upstreams_drawing(name: str, dtype: type[np.generic]):
    expected = GOLDEN[f"{name}.picture"]
    height, width, _ = expected.shape

    drawn = draw_landmarks(GOLDEN[f"{name}.landmarks"].astype(dtype), width, height)

    assert np.array_equal(drawn, expected)


@settings(deadline=None)
@given(landmark_sets)
def test_landmarks_anywhere_give_a_picture_in_the_nine_colours_and_black(points: list[tuple[float, float]]):
    drawn = draw_landmarks(np.array(points, np.float32), 96, 64)

    assert drawn.shape == (64, 96, 3)
    assert {tuple(map(int, colour)) for colour in np.unique(drawn.reshape(-1, 3), axis=0)} <= FULL | DIM | {(0, 0, 0)}


@settings(deadline=None)
@given(st.tuples(st.integers(0, 95), st.integers(0, 63)))
def test_the_last_point_is_drawn_over_all_others(point: tuple[int, int]):
    drawn = draw_landmarks(np.full((5, 2), point, np.float32), 96, 64)

    assert tuple(drawn[point[1], point[0]]) == (255, 0, 255)


def test_the_landmarks_are_left_as_they_were():
    landmarks = np.array([[10, 10], [30, 10], [20, 20], [12, 30], [28, 30]], np.float32)
    before = landmarks.copy()

    draw_landmarks(landmarks, 40, 40)

    assert np.array_equal(landmarks, before)


def test_another_number_of_points_is_refused():
    with pytest.raises(ValueError, match="five landmarks"):
        draw_landmarks(np.zeros((4, 2), np.float32), 64, 64)
