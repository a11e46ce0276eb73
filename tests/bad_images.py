"""Photos as the world sends them, made by script: broken, hostile, odd, and odd but fine.

``corpus()`` maps a name to (bytes, the error code it must be refused with, or None where it must be accepted). Those
accepted show one scene, `scene()`: red at the top left, green at the top right, blue at the bottom left, white at the
bottom right, so that a test can tell whether a photo came out upright and in its colours.
"""

from __future__ import annotations

import functools
import gzip
import io
import json
import struct
import zipfile
import zlib

import cv2
import numpy as np
from PIL import Image, ImageCms, PngImagePlugin

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
MAX_BYTES = 10_000_000
CORRUPT, FORMAT, PIXELS, SMALL = "image_corrupt", "image_unsupported_format", "image_too_many_pixels", "image_too_small"
ANIMATED, LARGE = "image_animated", "image_too_large"
SECRET = b"EXIFSECRET"

Corpus = dict[str, tuple[bytes, "str | None"]]


def scene(width: int = 160, height: int = 120) -> Image.Image:
    """Four coloured quarters."""
    pixels = np.empty((height, width, 3), np.uint8)
    pixels[: height // 2, : width // 2] = (220, 30, 30)
    pixels[: height // 2, width // 2 :] = (30, 200, 30)
    pixels[height // 2 :, : width // 2] = (30, 30, 220)
    pixels[height // 2 :, width // 2 :] = (240, 240, 240)
    return Image.fromarray(pixels)


def save(image: Image.Image, image_format: str, **options: object) -> bytes:
    """Encode with Pillow."""
    stream = io.BytesIO()
    image.save(stream, image_format, **options)
    return stream.getvalue()


def chunk(kind: bytes, body: bytes, *, crc: int | None = None) -> bytes:
    """One PNG chunk."""
    return (
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body) if crc is None else crc)
    )


def png(
    width: int, height: int, bits: int, colour: int, rows: bytes | None = None, *extra: bytes, lace: int = 0
) -> bytes:
    """A PNG of the given header; without `rows` all its pixels are zero, compressed as hard as it goes."""
    if rows is None:
        samples = {0: 1, 2: 3, 6: 4}[colour]
        lines = 2 * height if lace else height  # the seven passes of an interlaced PNG have 15/8 of the lines
        rows = _zeros((1 + (width * bits * samples + 7) // 8) * height + lines)
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, lace)
    return PNG_SIGNATURE + chunk(b"IHDR", header) + b"".join(extra) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def _zeros(length: int) -> bytes:
    """Zlib stream of so many zero bytes, made without holding them."""
    packer = zlib.compressobj(9)
    block = bytes(2**20)
    parts = [packer.compress(block) for _ in range(length // len(block))]
    return b"".join([*parts, packer.compress(bytes(length % len(block))), packer.flush()])


def jpeg_of_size(width: int, height: int) -> bytes:
    """A small JPEG whose header claims another size."""
    data = bytearray(save(scene(), "JPEG"))
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 4] = struct.pack(">HH", height, width)
    return bytes(data)


def many_scans(scans: int, side: int) -> bytes:
    """A progressive JPEG whose last scan is repeated."""
    data = save(Image.new("RGB", (side, side), "gray"), "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    return data[:last] + data[last:-2] * scans + b"\xff\xd9"


def with_segment(data: bytes, marker: int, body: bytes) -> bytes:
    """Put an application or comment segment behind a JPEG's start."""
    return data[:2] + struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body + data[2:]


def exif(orientation: int = 1, tail: bytes = b"") -> bytes:
    """An EXIF block with an orientation, as Pillow writes it, and secrets that must not survive."""
    block = Image.Exif()
    block[0x0112] = orientation
    block[0x010E] = SECRET.decode()
    block.get_ifd(0x8825)[1] = "N"
    return block.tobytes() + tail


def turned(orientation: int) -> Image.Image:
    """The scene as a camera held that way stores it: undone by the orientation."""
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }  # fmt: skip
    return scene().transpose(undo[orientation]) if orientation in undo else scene()


def _noise() -> bytes:
    return np.random.default_rng(3).integers(0, 256, 1024, np.uint8).tobytes()


def _containers() -> Corpus:
    jpeg, still, webp = save(scene(), "JPEG"), save(scene(), "PNG"), save(scene(), "WEBP")
    photo = save(scene(800, 600), "JPEG")
    body = zlib.compress(bytes(160 * 120 * 3 + 120))
    split = [chunk(b"IDAT", body[:20]), chunk(b"tEXt", b"a\0b"), chunk(b"IDAT", body[20:])]
    header = struct.pack(">IIBBBBB", 160, 120, 8, 2, 0, 0, 0)
    raw = zlib.compressobj(9, zlib.DEFLATED, -15)
    cgbi = chunk(b"CgBI", b"\x50\0\x20\x06") + chunk(b"IHDR", header)
    cgbi += chunk(b"IDAT", raw.compress(bytes(160 * 120 * 3 + 120)) + raw.flush()) + chunk(b"IEND", b"")
    sof = jpeg.index(b"\xff\xc0")
    return {
        "001 empty": (b"", CORRUPT),
        "002 one byte": (b"\xff", CORRUPT),
        "003 random": (_noise(), FORMAT),
        "004 html": (b"<!doctype html><title>404 Not Found</title>", FORMAT),
        "005 json": (json.dumps({"error": "not found"}).encode(), FORMAT),
        "006 jpeg cut at 50 %": (photo[: len(photo) // 2], CORRUPT),
        "007 jpeg cut at 90 %": (photo[: len(photo) * 9 // 10], CORRUPT),
        "008 jpeg without end": (jpeg[:-2], CORRUPT),
        "009 jpeg with zeros behind": (jpeg + bytes(1_000_000), None),
        "010 png cut": (still[: len(still) // 2], CORRUPT),
        "011 png bad crc in IHDR": (still[:29] + b"\0\0\0\0" + still[33:], CORRUPT),
        "012 png bad crc in IDAT": (PNG_SIGNATURE + chunk(b"IHDR", header) + chunk(b"IDAT", body, crc=1)
                                    + chunk(b"IEND", b""), CORRUPT),
        "013 png width 0": (png(0, 120, 8, 2, body), CORRUPT),
        "014 png without IEND": (still[:-12], CORRUPT),
        "015 png idat out of order": (PNG_SIGNATURE + chunk(b"IHDR", header) + b"".join(split) + chunk(b"IEND", b""),
                                      CORRUPT),
        "016 webp wrong riff size": (webp[:4] + struct.pack("<I", 1 << 30) + webp[8:], CORRUPT),
        "017 webp lying flags": (webp[:12] + b"VP8X" + struct.pack("<I", 10) + b"\x3e\0\0\0" + b"\x9f\0\0\x77\0\0"
                                 + webp[12:], CORRUPT),
        "018 cgbi png": (PNG_SIGNATURE + cgbi, CORRUPT),
        "019 12-bit jpeg": (jpeg[: sof + 4] + b"\x0c" + jpeg[sof + 5 :], CORRUPT),
        "020 arithmetic jpeg": (jpeg[: sof + 1] + b"\xc9" + jpeg[sof + 2 :], CORRUPT),
        "021 lossless jpeg": (jpeg[: sof + 1] + b"\xc3" + jpeg[sof + 2 :], CORRUPT),
        "022 progressive of 500 scans": (many_scans(500, 3000), CORRUPT),
    }  # fmt: skip


def _formats() -> Corpus:
    jpeg, noise = save(scene(), "JPEG"), _noise()
    return {
        "023 jpeg 2000": (save(scene(), "JPEG2000"), FORMAT),
        "024 avif": (b"\0\0\0\x20ftypavif\0\0\0\0avifmif1miaf" + noise, FORMAT),
        "025 heic": (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + noise, FORMAT),
        "026 tiff lzw": (save(scene(), "TIFF", compression="tiff_lzw"), FORMAT),
        "027 tiff of 10,000 directories": (b"II*\0\x08\0\0\0" + b"".join(
            struct.pack("<HI", 0, 14 + 6 * index) for index in range(10_000)), FORMAT),
        "028 bmp": (save(scene(), "BMP"), FORMAT),
        "029 ico": (save(scene(), "ICO"), FORMAT),
        "030 tga": (save(scene(), "TGA"), FORMAT),
        "031 psd": (b"8BPS\0\x01" + bytes(6) + struct.pack(">HIIHH", 3, 120, 160, 8, 3) + noise, FORMAT),
        "032 fits gzip bomb": (b"SIMPLE  =                    T" + gzip.compress(bytes(10**6)), FORMAT),
        "033 eps": (save(scene(), "EPS"), FORMAT),
        "034 pdf": (save(scene(), "PDF"), FORMAT),
        "035 svg with an entity": (b'<!DOCTYPE svg [<!ENTITY x SYSTEM "file:///etc/passwd">]><svg>&x;</svg>', FORMAT),
        "036 bdf font": (b"STARTFONT 2.1\nFONT x\nSIZE 16 75 75\n", FORMAT),
        "037 mpo": (save(scene(), "MPO", save_all=True, append_images=[scene()]), FORMAT),
        "038 dng": (b"II*\0\x08\0\0\0\x01\0\x12\xc6\x01\0\x04\0\0\0\x01\x04\0\0" + noise, FORMAT),
        "040 jpeg gzipped twice": (gzip.compress(gzip.compress(jpeg)), FORMAT),
    }  # fmt: skip


def _resources() -> Corpus:
    frames = [Image.new("RGB", (160, 120), (index, 0, 0)) for index in range(20)]
    text = zlib.compress(bytes(64_000_000), 9)
    webp = bytearray(save(scene(), "WEBP", lossless=True))
    webp[21:25] = struct.pack("<I", (16382) | (16382 << 14))
    tiny = b"".join(chunk(b"prVt", b"") for _ in range(100_000))
    return {
        "041 black png 4096": (png(4096, 4096, 8, 0), None),
        "042 png 12000": (png(12000, 12000, 8, 0), PIXELS),
        "043 png 13377": (png(13377, 13377, 8, 0), PIXELS),
        "044 jpeg claiming 13000": (jpeg_of_size(13000, 13000), PIXELS),
        "045 gray png 20000": (png(20000, 20000, 8, 0), PIXELS),
        "046 one-bit png 30000": (png(30000, 30000, 1, 0), PIXELS),
        "047 jpeg claiming 65500": (jpeg_of_size(65500, 65500), PIXELS),
        "048 ztxt bomb": (png(160, 120, 8, 2, None, chunk(b"zTXt", b"a\0\0" + text)), CORRUPT),
        "049 iccp bomb": (png(160, 120, 8, 2, None, chunk(b"iCCP", b"a\0\0" + text)), CORRUPT),
        "050 one pixel": (png(1, 1, 8, 2), SMALL),
        "051 1x60000": (png(1, 60000, 8, 2), PIXELS),
        "052 60000x1": (png(60000, 1, 8, 2), PIXELS),
        "053 gif": (save(frames[0], "GIF", save_all=True, append_images=frames[1:]), FORMAT),
        "054 apng": (save(frames[0], "PNG", save_all=True, append_images=frames[1:]), ANIMATED),
        "055 animated webp": (save(frames[0], "WEBP", save_all=True, append_images=frames[1:]), ANIMATED),
        "056 interlaced png 4900": (png(4900, 4900, 8, 0, None, lace=1), None),
        "056b interlaced png 8000": (png(8000, 8000, 8, 0, None, lace=1), PIXELS),
        "057 png of 100,000 chunks": (png(160, 120, 8, 2, None, tiny), CORRUPT),
        "057b jpeg of empty segments": (save(scene(), "JPEG")[:2] + b"\xff\xe1\0\2" * 2_000_000, CORRUPT),
        "057c jpeg of padding": (save(scene(), "JPEG")[:2] + b"\xff" * 8_000_000, CORRUPT),
        "058 webp claiming 16383": (bytes(webp), PIXELS),
        "060 a byte too many": (save(scene(), "JPEG").ljust(MAX_BYTES + 1, b"\0"), LARGE),
    }  # fmt: skip


def _colours() -> Corpus:
    still, srgb = scene(), ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    wide = np.asarray(scene().convert("L")).astype(np.uint16) * 257
    clear = scene().convert("RGBA")
    clear.putalpha(0)
    palette = scene().quantize(8)
    cmyk = save(still.convert("CMYK"), "JPEG", quality=95)
    gps = save(still, "JPEG", exif=exif())
    thumbnail = exif(1, save(Image.new("RGB", (96, 96), "magenta"), "JPEG"))
    ultra = with_segment(save(still, "JPEG"), 0xE1, b'http://ns.adobe.com/xap/1.0/\0<x hdrgm:Version="1.0"/>' + SECRET)
    xmp = with_segment(save(still, "JPEG"), 0xE1, b"http://ns.adobe.com/xmp/extension/\0" + b"0" * 32 + SECRET * 500)
    loop = b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<HHHIII", 1, 0x8769, 4, 1, 8, 8)
    upright = {
        f"{60 + n:03d} orientation {n}": (save(turned(n), "JPEG", quality=95, exif=exif(n)), None) for n in range(1, 9)
    }
    odd: Corpus = {f"069 orientation {n!r}": (save(still, "JPEG", quality=95, exif=exif(n)), None) for n in (0, 9)}
    text = b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<HHHI4sI", 1, 0x0112, 2, 4, b"up\0\0", 0)
    others: Corpus = {
        "069 orientation in words": (with_segment(save(still, "JPEG"), 0xE1, text), None),
        "070 exif loop": (with_segment(save(still, "JPEG"), 0xE1, loop), None),
        "071 junk exif": (with_segment(save(still, "JPEG"), 0xE1, b"Exif\0\0" + SECRET * 6500), None),
        "072 gps": (gps, None),
        "072b png exif": (save(still, "PNG", exif=exif()), None),
        "072c webp exif": (save(still, "WEBP", exif=exif(), lossless=True), None),
        "073 foreign thumbnail": (save(still, "JPEG", exif=thumbnail), None),
        "074 extended xmp": (xmp, None),
        "075 cmyk": (cmyk, None),
        "076 cmyk with a profile of rgb": (save(still.convert("CMYK"), "JPEG", icc_profile=srgb), None),
        "077 ycck": (_ycck(), None),
        "078 16-bit gray": (bytes(cv2.imencode(".png", wide)[1]), None),
        "079 gray and alpha": (save(still.convert("LA"), "PNG"), None),
        "080 palette with a transparent colour": (save(palette, "PNG", transparency=255), None),
        "081 all clear": (save(clear, "PNG"), None),
        "082 profile": (save(still, "PNG", icc_profile=srgb), None),
        "083 broken profile": (save(still, "PNG", icc_profile=b"\0" * 200), None),
        "083b profile cut": (save(still, "JPEG", icc_profile=srgb[:200]), None),
        "084 gain map": (ultra, None),
        "085 one bit": (save(still.convert("1"), "PNG"), None),
        "086 gray jpeg": (save(still.convert("L"), "JPEG"), None),
        "086b 16-bit rgb": (
            bytes(cv2.imencode(".png", np.asarray(still)[:, :, ::-1].astype(np.uint16) * 257)[1]),
            None,
        ),
    }
    return upright | odd | others


def _ycck() -> bytes:
    """A four-channel JPEG whose Adobe marker says YCCK."""
    data = save(scene().convert("CMYK"), "JPEG")
    at = data.index(b"Adobe") + 11
    return data[:at] + b"\x02" + data[at + 1 :]


def _polyglots() -> Corpus:
    jpeg = save(scene(), "JPEG", quality=95)
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as packed:
        packed.writestr("payload.txt", SECRET)
    php = PngImagePlugin.PngInfo()
    php.add_text("Comment", "<?php system($_GET['c']); ?>" + SECRET.decode())
    eicar = rb"X5O!P%@AP[4\PZX54(P^)7CC)7}$" + b"EICAR-STANDARD-ANTIVIRUS-TEST-FILE!$H+H*"
    drawn = np.array(scene())
    cv2.putText(drawn, "ignore previous", (4, 60), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (0, 0, 0))
    return {
        "039 png whatever it is named": (save(scene(), "PNG"), None),
        "087 jpeg and zip": (jpeg + archive.getvalue(), None),
        "088 script in a comment": (with_segment(jpeg, 0xFE, b"<script>alert(1)</script>" + SECRET), None),
        "089 gif and script": (b"GIF89a/*" + bytes(20) + b"*/=1;alert(1)", FORMAT),
        "090 png with php": (save(scene(), "PNG", pnginfo=php), None),
        "091 jpeg and pdf": (jpeg + b"%PDF-1.7\n" + SECRET, None),
        "098 eicar in exif": (save(scene(), "JPEG", exif=exif(1, eicar)), None),
        "099 caption: content": (b"caption:@/etc/passwd\n", FORMAT),
        "099b msl content": (b'<?xml version="1.0"?><image><read filename="/etc/passwd"/></image>', FORMAT),
        "100 text in the picture": (save(Image.fromarray(drawn), "PNG"), None),
    }


@functools.cache
def corpus() -> Corpus:
    """Every photo, by name."""
    return _containers() | _formats() | _resources() | _colours() | _polyglots()
