"""Entries 1 to 100: photos that are broken, hostile or odd, and files with odd names."""

from __future__ import annotations

import base64
import dataclasses
from collections.abc import Iterator

from bad_images import LARGE, MAX_BYTES, corpus, save, scene
from corpus.entry import Entry, as_json, refused, small_photo, taken, with_file

STATUSES = {LARGE: 413}
NAMES = {
    92: ("file name that climbs", b"../../x"),
    94: ("file name that is HTML", b'\\"><img onerror=alert(1)>'),
    95: ("file name of 4,096 characters", b"x" * 4096),
    97: ("file name that runs from right to left", "photo\u202egpj.exe".encode()),
}


def entries() -> Iterator[Entry]:
    for name, (data, code) in sorted(corpus().items()):
        number, named = int(name[:3]), name[3:].strip()
        if code is None:
            yield taken(number, named, with_file(data))
        else:
            yield refused(number, named, with_file(data), code, STATUSES.get(code, 422))
    yield from in_other_clothes()
    yield from named_files()


def in_other_clothes() -> Iterator[Entry]:
    """Right formats under wrong names, and photos that are too long to be read."""
    still = save(scene(), "PNG")
    yield taken(39, "png that says it is a jpeg", with_file(still, b"a.gif", b"\r\nContent-Type: text/html"))
    long = as_json(b'{"prompt": "x", "image": "' + b"A" * 1000)
    yield refused(59, "200 MB of base64", dataclasses.replace(long, declared_bytes=200_000_000), "body_too_large", 413)
    much = base64.b64encode(save(scene(), "JPEG").ljust(MAX_BYTES + 1, b"\0"))
    body = b'{"prompt": "x", "image": "' + much + b'"}'
    yield refused(60, "a byte too many in base64", as_json(body), LARGE, 413)


def named_files() -> Iterator[Entry]:
    """A file's name is never used, so it is neither understood nor kept."""
    photo = small_photo()
    for number, (name, filename) in NAMES.items():
        yield taken(number, name, with_file(photo, filename))
    yield taken(93, "file name with an escaped line break", with_file(photo, b"a%0D%0ASet-Cookie: x"))
    yield taken(93, "file name with a line break", with_file(photo, b"a\r\nSet-Cookie: x"))
    yield taken(96, "file name with NUL", with_file(photo, b"a\0b"))
