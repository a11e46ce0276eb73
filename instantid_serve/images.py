"""The image gate and the codecs. A photo's header is read before anything of it is decoded.

:func:`inspect` is cheap and safe enough for the process that answers HTTP. :func:`decode_photo` runs C decoders over
bytes a stranger made: servers call it through :class:`instantid_serve.decoding.GuardedDecoder`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import typing

import cv2
import numpy as np
from PIL import Image, ImageCms

from instantid_serve.containers import check_scans, check_structure, sniff
from instantid_serve.errors import (
    ImageAnimatedError,
    ImageCorruptError,
    ImageError,
    ImageFormatError,
    ImageTooLargeError,
    ImageTooManyPixelsError,
    ImageTooSmallError,
)

if typing.TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from instantid_serve.messages import ImageFormat

MEDIA_TYPES: typing.Final[dict[str, str]] = {"png": "image/png", "jpeg": "image/jpeg", "webp": "image/webp"}

MAX_PIXELS = 25_000_000
MIN_SIDE_PX = 64
MAX_SIDE_PX = 8192
LONG_SIDE_PX = 2048  # what the analysers get at most; faces that matter stay hundreds of pixels wide

_FORMATS = ("JPEG", "PNG", "WEBP")
_EXIF_ORIENTATION = 0x0112
_GRAY = 128  # what shows where a photo is transparent


@dataclasses.dataclass(frozen=True, slots=True)
class PhotoHeader:
    """What a photo says it is; ``width`` and ``height`` are pixels as stored, before its orientation is applied."""

    format: ImageFormat
    width: int
    height: int


def inspect(data: bytes, *, max_bytes: int) -> PhotoHeader:
    """Check a photo by its header alone: bytes, format, sides, pixels, frames.

    Raises the ImageError that names what is wrong. Neither the file's name nor its declared media type counts.
    """
    with _open(data, max_bytes) as image:
        return _header(image)


def decode_photo(data: bytes, *, max_bytes: int) -> NDArray[np.uint8]:
    """Decode a photo to (H, W, 3) uint8 sRGB: upright, opaque, at most 2048 px long, without any metadata.

    What was transparent becomes mid-gray. A broken colour profile or orientation is ignored. Raises as
    :func:`inspect` does, and ImageCorruptError where the pixels do not decode.
    """
    with _open(data, max_bytes) as image:
        if image.format == "JPEG":
            check_scans(data, image.width * image.height)
        image.draft(image.mode, (LONG_SIDE_PX, LONG_SIDE_PX))  # a large JPEG decodes at 1/2, 1/4 or 1/8 at once
        image.load()
        orientation = _orientation(image)
        pixels = _opaque(_to_srgb(_shrink(_to_eight_bits(image)), image.info.get("icc_profile")))
    return np.ascontiguousarray(_TURNS.get(orientation, _as_it_is)(pixels))


def encode(pixels: NDArray[np.uint8], image_format: ImageFormat, quality: int = 95) -> bytes:
    """Encode (H, W, 3) uint8 RGB. ``quality`` (1..100) is for JPEG and WebP; PNG is lossless.

    PNG is written with light compression: on a picture the next levels cost five times the time for 5 % of the bytes.
    """
    if image_format == "webp":
        stream = io.BytesIO()
        Image.fromarray(pixels).save(stream, "WEBP", quality=quality, method=2)
        return stream.getvalue()
    if image_format == "png":
        suffix, options = ".png", [cv2.IMWRITE_PNG_COMPRESSION, 1]
    else:
        suffix, options = ".jpg", [cv2.IMWRITE_JPEG_QUALITY, quality]
    done, encoded = cv2.imencode(suffix, cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), options)
    if not done:
        raise ValueError(f"OpenCV could not encode a {image_format}")
    return bytes(encoded)


def decode_png(data: bytes) -> NDArray[np.uint8]:
    """Decode a PNG that :func:`encode` wrote to (H, W, 3) uint8 RGB. Never for a stranger's bytes: see decode_photo."""
    decoded = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    if decoded is None:
        raise ImageCorruptError("the stored picture does not decode")
    pixels: NDArray[np.uint8] = cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB)
    return pixels


@contextlib.contextmanager
def _open(data: bytes, max_bytes: int) -> Iterator[Image.Image]:
    """Open a photo whose header passes the gate, and name every fault that reading it further brings up."""
    if len(data) > max_bytes:
        raise ImageTooLargeError(f"the photo must be at most {max_bytes} bytes", {"max_bytes": max_bytes})
    check_structure(data, sniff(data))
    try:
        # Pillow never tries another format than these, whatever the bytes look like.
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            _check(image)
            yield image
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _too_many_pixels() from error
    except ImageError:
        raise
    # Parsers of hostile bytes raise what they happen to hit: OSError, SyntaxError, ValueError (a zTXt or iCCP bomb),
    # struct.error, KeyError, MemoryError. Whichever it is, the photo is at fault, never the service.
    except Exception as error:
        raise ImageCorruptError("the photo's bytes do not decode") from error


def _check(image: Image.Image) -> None:
    if image.format not in _FORMATS:  # a JPEG that holds several pictures turns into an MPO while it is opened
        raise ImageFormatError("the photo holds several pictures (MPO); send one JPEG, PNG or WebP")
    width, height = image.size
    sides = {"width": width, "height": height}
    if width * height > MAX_PIXELS or max(width, height) > MAX_SIDE_PX:
        raise _too_many_pixels(sides)
    if min(width, height) < MIN_SIDE_PX:
        raise ImageTooSmallError(
            f"each side of the photo must be at least {MIN_SIDE_PX} px", {**sides, "min_side_px": MIN_SIDE_PX}
        )
    frames = getattr(image, "n_frames", 1)
    if frames > 1:
        raise ImageAnimatedError("the photo must be one still picture", {"frames": frames})


def _header(image: Image.Image) -> PhotoHeader:
    formats: dict[str | None, ImageFormat] = {"JPEG": "jpeg", "PNG": "png", "WEBP": "webp"}
    return PhotoHeader(formats[image.format], *image.size)


def _too_many_pixels(sides: dict[str, int] | None = None) -> ImageTooManyPixelsError:
    limits = {"max_pixels": MAX_PIXELS, "max_side_px": MAX_SIDE_PX}
    return ImageTooManyPixelsError(
        f"the photo must have at most {MAX_PIXELS} pixels and sides of at most {MAX_SIDE_PX}", (sides or {}) | limits
    )


def _orientation(image: Image.Image) -> int:
    try:
        value = image.getexif().get(_EXIF_ORIENTATION, 1)
    except Exception:  # noqa: BLE001 - as in _open, a parser of hostile bytes; a photo with broken EXIF is still a photo
        return 1
    return value if isinstance(value, int) else 1


def _to_eight_bits(image: Image.Image) -> Image.Image:
    """Return the picture in one of the modes L, LA, RGB, RGBA and CMYK."""
    if image.mode.startswith("I;16") or image.mode in {"I", "F"}:
        # Pillow's own conversion clips 16 bits to 8, which turns a photo white.
        image = Image.fromarray((np.asarray(image).astype(np.float32) / 257.0).clip(0, 255).astype(np.uint8))
    if image.mode in {"L", "LA", "RGBA", "CMYK"} and not image.has_transparency_data:
        return image
    if image.has_transparency_data:
        return image if image.mode in {"LA", "RGBA"} else image.convert("RGBA")
    return image if image.mode == "RGB" else image.convert("L" if image.mode == "1" else "RGB")


def _shrink(image: Image.Image) -> Image.Image:
    ratio = LONG_SIDE_PX / max(image.size)
    if ratio >= 1:
        return image
    size = (max(1, round(image.width * ratio)), max(1, round(image.height * ratio)))
    return image.resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0)


def _to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """Return RGB or RGBA in sRGB; a profile that is broken, or not one of this picture's mode, is ignored."""
    alpha = image.getchannel("A") if image.mode in {"LA", "RGBA"} else None
    colours = image.convert({"LA": "L", "RGBA": "RGB"}.get(image.mode, image.mode))
    converted = None
    if profile:
        with contextlib.suppress(ImageCms.PyCMSError, OSError, ValueError, TypeError):
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            converted = ImageCms.profileToProfile(colours, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
    result = converted or colours.convert("RGB")
    if alpha is not None:
        result.putalpha(alpha)
    return result


def _opaque(image: Image.Image) -> NDArray[np.uint8]:
    if image.mode == "RGBA":
        ground = Image.new("RGBA", image.size, (_GRAY, _GRAY, _GRAY, 255))
        image = Image.alpha_composite(ground, image).convert("RGB")
    return np.asarray(image)


def _as_it_is(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return pixels


# EXIF orientation → what makes the pixels upright (CIPA DC-008, tag 274).
_TURNS: dict[int, typing.Callable[[NDArray[np.uint8]], NDArray[np.uint8]]] = {
    2: np.fliplr,
    3: lambda pixels: np.rot90(pixels, 2),
    4: np.flipud,
    5: lambda pixels: pixels.transpose(1, 0, 2),
    6: lambda pixels: np.rot90(pixels, 3),
    7: lambda pixels: np.rot90(pixels, 2).transpose(1, 0, 2),
    8: np.rot90,
}
