"""A picture's size is what was asked for or upstream's rule, and a photo is placed on it unbent."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instantid_serve.errors import InvalidRequestError
from instantid_serve.sizing import check_size, default_size, place

photo_sides = st.integers(64, 8192)
picture_sides = st.integers(8, 160).map(lambda cells: cells * 8)


@pytest.mark.parametrize(
    ("photo", "at_1280", "at_1024"),
    [
        ((512, 512), (1280, 1280), (1024, 1024)),
        ((1024, 1024), (1280, 1280), (1024, 1024)),
        ((640, 480), (1280, 960), (1024, 768)),
        ((1920, 1080), (1280, 704), (1024, 576)),
        ((3000, 2000), (1280, 832), (1024, 640)),
        ((500, 2000), (320, 1280), (256, 1024)),
        ((307, 512), (704, 1280), (576, 1024)),  # its two roundings: with one it would be 768
        ((295, 1478), (256, 1280), (192, 1024)),  # and here 192
    ],
)
def test_the_default_size_is_upstreams(photo: tuple[int, int], at_1280: tuple[int, int], at_1024: tuple[int, int]):
    assert default_size(photo, 1280) == at_1280
    assert default_size(photo, 1024) == at_1024


@settings(deadline=None)
@given(photo_sides, photo_sides)
def test_a_default_size_is_on_the_grid_and_within_the_side(width: int, height: int):
    picture = default_size((width, height), 1024)

    assert max(picture) == 1024
    assert min(picture) >= 64
    assert all(side % 64 == 0 for side in picture)


@pytest.mark.parametrize(
    ("width", "height", "named"),
    [(1000 + 4, 512, "width"), (512, 63, "height"), (2056, 512, "width"), (512, 8, "height")],
)
def test_a_size_off_the_grid_or_limits_is_refused_by_name(width: int, height: int, named: str):
    with pytest.raises(InvalidRequestError) as refusal:
        check_size(width, height, min_side=64, max_side=2048, max_pixels=2_000_000)

    assert refusal.value.facts["parameter"] == named


def test_too_many_pixels_are_refused():
    with pytest.raises(InvalidRequestError, match="2000000 pixels"):
        check_size(2048, 1024, min_side=64, max_side=2048, max_pixels=2_000_000)


boxes = st.tuples(*[st.floats(0, 1)] * 4)


@settings(deadline=None)
@given(photo_sides, photo_sides, picture_sides, picture_sides, boxes)
def test_cropping_covers_the_picture_and_never_bends(
    pw: int, ph: int, w: int, h: int, box: tuple[float, float, float, float]
):
    face = (box[0] * pw, box[1] * ph, box[2] * pw, box[3] * ph)

    placed = place((pw, ph), (w, h), "crop", face)

    assert placed.scale_x == placed.scale_y
    assert placed.offset_x <= 1e-6
    assert placed.offset_y <= 1e-6
    assert placed.offset_x + pw * placed.scale_x >= w - 1e-6
    assert placed.offset_y + ph * placed.scale_y >= h - 1e-6


@settings(deadline=None)
@given(photo_sides, photo_sides, picture_sides, picture_sides)
def test_padding_shows_the_whole_photo_in_the_middle(pw: int, ph: int, w: int, h: int):
    placed = place((pw, ph), (w, h), "pad", (0, 0, 10, 10))

    assert placed.scale_x == placed.scale_y
    assert placed.offset_x == pytest.approx((w - pw * placed.scale_x) / 2, abs=1e-6)
    assert placed.offset_y == pytest.approx((h - ph * placed.scale_y) / 2, abs=1e-6)
    assert min(placed.offset_x, placed.offset_y) >= -1e-6


def test_stretching_bends_only_when_asked():
    placed = place((100, 200), (64, 64), "stretch", (0, 0, 10, 10))

    assert (placed.scale_x, placed.scale_y, placed.offset_x, placed.offset_y) == (0.64, 0.32, 0.0, 0.0)


def test_a_cropped_face_in_the_middle_stays_in_the_middle():
    placed = place((2000, 1000), (512, 512), "crop", (900, 400, 1100, 600))

    centre = placed.apply(np.array([[1000, 500]], np.float32))

    assert centre[0] == pytest.approx([256, 256])


def test_a_cropped_face_at_the_edge_is_not_cut_off():
    placed = place((2000, 1000), (512, 512), "crop", (0, 400, 200, 600))

    corners = placed.apply(np.array([[0, 400], [200, 600]], np.float32))

    assert (corners >= 0).all()
    assert (corners <= 512).all()
