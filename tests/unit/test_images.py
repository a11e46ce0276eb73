"""The gate refuses the whole corpus of bad photos by name, fast, and the rest comes out upright and bare."""

from __future__ import annotations

import io
import time

import numpy as np
import pytest
from bad_images import MAX_BYTES, SECRET, corpus, exif, jpeg_of_size, png, save, scene, turned
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms

from instantid_serve.errors import ImageError, ImageTooLargeError, ImageTooManyPixelsError
from instantid_serve.images import LONG_SIDE_PX, decode_photo, decode_png, encode, inspect

COLOURS = np.array([(220, 30, 30), (30, 200, 30), (30, 30, 220), (240, 240, 240)])
REFUSED = {name: entry for name, entry in corpus().items() if entry[1]}
ACCEPTED = {name: entry for name, entry in corpus().items() if not entry[1]}
BY_HEADER = {
    "image_unsupported_format",
    "image_too_many_pixels",
    "image_too_small",
    "image_animated",
    "image_too_large",
}


def corners(pixels: np.ndarray) -> np.ndarray:
    height, width = pixels.shape[:2]
    return np.array([pixels[y * height // 4, x * width // 4] for y in (1, 3) for x in (1, 3)]).astype(int)


@pytest.mark.parametrize("name", REFUSED)
def test_a_bad_photo_is_refused_by_its_own_code_within_two_seconds(name: str):
    data, code = REFUSED[name]
    started = time.process_time()

    with pytest.raises(ImageError) as refusal:
        decode_photo(data, max_bytes=MAX_BYTES)

    assert refusal.value.code == code
    assert time.process_time() - started < 2


@pytest.mark.parametrize("name", [name for name, (_, code) in REFUSED.items() if code in BY_HEADER])
def test_what_the_header_shows_is_refused_without_decoding(name: str):
    data, code = REFUSED[name]

    with pytest.raises(ImageError) as refusal:
        inspect(data, max_bytes=MAX_BYTES)

    assert refusal.value.code == code


@pytest.mark.parametrize("name", ACCEPTED)
def test_an_odd_photo_is_accepted_within_two_seconds(name: str):
    data, _ = ACCEPTED[name]
    started = time.process_time()

    pixels = decode_photo(data, max_bytes=MAX_BYTES)

    assert pixels.dtype == np.uint8
    assert pixels.shape[2] == 3
    assert time.process_time() - started < 2


@pytest.mark.parametrize("name", ACCEPTED)
def test_nothing_but_pixels_survives(name: str):
    data, _ = ACCEPTED[name]

    published = encode(decode_photo(data, max_bytes=MAX_BYTES), "png")

    assert SECRET not in published
    assert Image.open(io.BytesIO(published)).info == {}


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP"])
def test_a_photo_comes_out_upright(orientation: int, image_format: str):
    data = save(turned(orientation), image_format, quality=95, exif=exif(orientation))

    pixels = decode_photo(data, max_bytes=MAX_BYTES)

    assert pixels.shape == (120, 160, 3)
    assert np.abs(corners(pixels) - COLOURS).max() <= 8


@pytest.mark.parametrize(
    "name", ["075 cmyk", "076 cmyk with a profile of rgb", "080 palette with a transparent colour"]
)
def test_colours_survive_their_encoding(name: str):
    pixels = decode_photo(ACCEPTED[name][0], max_bytes=MAX_BYTES)

    assert np.abs(corners(pixels) - COLOURS).max() <= 12


def test_sixteen_bit_gray_is_scaled_and_not_clipped():
    pixels = decode_photo(ACCEPTED["078 16-bit gray"][0], max_bytes=MAX_BYTES)

    assert np.array_equal(pixels[:, :, 0], np.asarray(scene().convert("L")))


def test_a_transparent_photo_is_seen_on_gray():
    pixels = decode_photo(ACCEPTED["081 all clear"][0], max_bytes=MAX_BYTES)

    assert (pixels == 128).all()


def test_a_colour_profile_is_turned_into_srgb():
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
    swapped = bytearray(lab.tobytes())
    red, green = swapped.index(b"rXYZ"), swapped.index(b"gXYZ")
    swapped[red : red + 4], swapped[green : green + 4] = swapped[green : green + 4], swapped[red : red + 4]
    data = save(scene(), "PNG", icc_profile=bytes(swapped))

    top_left, top_right = corners(decode_photo(data, max_bytes=MAX_BYTES))[:2]

    assert top_left[1] > top_left[0]  # what the profile calls red is green
    assert top_right[0] > top_right[1]


@pytest.mark.parametrize(("width", "height"), [(5000, 64), (64, 5000), (4000, 3000), (2049, 2048)])
@pytest.mark.parametrize("image_format", ["JPEG", "PNG"])
def test_a_large_photo_is_bounded_and_keeps_its_shape(width: int, height: int, image_format: str):
    pixels = decode_photo(save(scene(width, height), image_format, quality=95), max_bytes=MAX_BYTES)

    assert max(pixels.shape) == LONG_SIDE_PX
    assert pixels.shape[1] / pixels.shape[0] == pytest.approx(width / height, rel=0.02)
    assert np.abs(corners(pixels) - COLOURS).max() <= 8


def test_the_limits_are_in_the_refusal():
    with pytest.raises(ImageTooManyPixelsError) as refusal:
        inspect(jpeg_of_size(9000, 100), max_bytes=MAX_BYTES)

    assert refusal.value.facts == {"width": 9000, "height": 100, "max_pixels": 25_000_000, "max_side_px": 8192}


def test_exactly_the_permitted_bytes_are_accepted():
    data = save(scene(), "PNG")

    assert inspect(data, max_bytes=len(data)).format == "png"
    with pytest.raises(ImageTooLargeError):
        inspect(data, max_bytes=len(data) - 1)


@given(data=st.data(), image_format=st.sampled_from(["JPEG", "PNG", "WEBP"]))
@settings(max_examples=150, deadline=None)
def test_a_damaged_photo_is_read_or_refused_but_never_an_accident(data: st.DataObject, image_format: str):
    photo = bytearray(save(scene(), image_format))
    for at, value in data.draw(st.lists(st.tuples(st.integers(0, len(photo) - 1), st.integers(0, 255)), max_size=6)):
        photo[at] = value
    del photo[data.draw(st.integers(len(photo) // 2, len(photo))) :]

    try:
        pixels = decode_photo(bytes(photo), max_bytes=MAX_BYTES)
    except ImageError:
        return
    assert pixels.shape[2] == 3


@pytest.mark.parametrize(("image_format", "loss"), [("png", 0), ("jpeg", 12), ("webp", 12)])
def test_a_picture_survives_its_encoding(image_format: str, loss: int):
    picture = np.asarray(scene())

    decoded = np.asarray(Image.open(io.BytesIO(encode(picture, image_format))).convert("RGB"))

    assert np.abs(corners(decoded) - corners(picture)).max() <= loss


def test_our_own_png_is_lossless():
    picture = np.random.default_rng(0).integers(0, 256, (64, 72, 3), np.uint8)

    assert np.array_equal(decode_png(encode(picture, "png")), picture)


def test_a_png_bomb_costs_no_memory():
    resource = pytest.importorskip("resource")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    with pytest.raises(ImageTooManyPixelsError):
        inspect(png(30_000, 30_000, 1, 0), max_bytes=MAX_BYTES)

    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 * 1024
