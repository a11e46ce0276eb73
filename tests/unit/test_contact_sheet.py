from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from instantid_serve.contact_sheet import Tile, draw_sheet


def tile(size: tuple[int, int] = (64, 64), colour: str = "red") -> Tile:
    return Tile(Image.new("RGB", size, colour), "a caption that is longer than one line can show at this size", "note")


def test_every_tile_is_on_the_sheet():
    colours = ["red", "lime", "blue", "yellow", "fuchsia", "cyan", "navy"]

    sheet = draw_sheet("title", [tile(colour=colour) for colour in colours], columns=3)

    shown = {colour for _, colour in sheet.getcolors(2**24) or ()}
    assert {Image.new("RGB", (1, 1), colour).getpixel((0, 0)) for colour in colours} <= shown


@given(width=st.integers(8, 2048), height=st.integers(8, 2048))
def test_a_picture_of_any_shape_fits_and_keeps_it(width: int, height: int):
    sheet = draw_sheet("", [tile((width, height))], columns=1)

    red = sheet.split()[1].point(lambda green: 255 * (green == 0)).getbbox()
    assert red is not None
    shown_width, shown_height = red[2] - red[0], red[3] - red[1]
    assert max(shown_width, shown_height) == 256
    assert abs(shown_width * height - shown_height * width) <= max(width, height)
