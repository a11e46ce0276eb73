"""A contact sheet: pictures in a grid, each with a caption, as one picture to look at."""

from __future__ import annotations

import dataclasses
import textwrap

from PIL import Image, ImageDraw, ImageFont

_TILE_PX = 256
_GAP_PX = 20
_TITLE_PX = 64
_CAPTION_PX = 66
_TITLE_CHARS, _NOTE_CHARS = 36, 46  # what fits a tile's width in the two sizes below
_TITLE_SIZE_PX, _NOTE_SIZE_PX = 14, 11
_BACKGROUND, _INK, _FAINT = (250, 250, 247), (28, 28, 30), (120, 120, 124)


@dataclasses.dataclass(frozen=True, slots=True)
class Tile:
    """One picture of the sheet: what it shows, and a note in smaller print."""

    picture: Image.Image
    caption: str
    note: str = ""


def draw_sheet(title: str, tiles: list[Tile], columns: int = 5) -> Image.Image:
    """Lay the tiles out row by row under a title. Pictures keep their shape, in squares of 256 px."""
    rows = -(-len(tiles) // columns)
    width = columns * (_TILE_PX + _GAP_PX) + _GAP_PX
    height = _TITLE_PX + rows * (_TILE_PX + _CAPTION_PX + _GAP_PX)
    sheet = Image.new("RGB", (width, height), _BACKGROUND)
    pen = ImageDraw.Draw(sheet)
    pen.text((_GAP_PX, _GAP_PX), title, _INK, ImageFont.load_default(22))
    for index, tile in enumerate(tiles):
        row, column = divmod(index, columns)
        left = _GAP_PX + column * (_TILE_PX + _GAP_PX)
        _draw_tile(sheet, tile, left, _TITLE_PX + row * (_TILE_PX + _CAPTION_PX + _GAP_PX))
    return sheet


def _draw_tile(sheet: Image.Image, tile: Tile, left: int, top: int) -> None:
    picture = tile.picture.convert("RGB")
    # Small pictures are enlarged to the square, too, so that every tile can be compared with its neighbours.
    scale = _TILE_PX / max(picture.size)
    picture = picture.resize((round(picture.width * scale), round(picture.height * scale)), Image.Resampling.LANCZOS)
    sheet.paste(picture, (left + (_TILE_PX - picture.width) // 2, top + (_TILE_PX - picture.height) // 2))
    pen = ImageDraw.Draw(sheet)
    below = top + _TILE_PX + 8
    for line in textwrap.wrap(tile.caption, _TITLE_CHARS)[:2]:
        pen.text((left, below), line, _INK, ImageFont.load_default(_TITLE_SIZE_PX))
        below += _TITLE_SIZE_PX + 4
    pen.text((left, below), textwrap.shorten(tile.note, _NOTE_CHARS), _FAINT, ImageFont.load_default(_NOTE_SIZE_PX))
