"""What an entry of the corpus is: a numbered request, and the answer it must get."""

from __future__ import annotations

import base64
import dataclasses
import io
import json
import re
from collections.abc import Mapping
from typing import Any

from doubles.api_process import KEYS
from PIL import Image

JSON_TYPE = ("Content-Type", "application/json")
ACME = ("Authorization", f"Bearer {KEYS['acme']}")
BOUNDARY = "a-line"
GENERATIONS = "/v1/generations"


@dataclasses.dataclass(frozen=True)
class Request:
    """An HTTP request, byte by byte. ``<<name>>`` in it stands for an id, a key or a port of the run.

    ``body`` may be less than ``declared_bytes``, what is said of its length. ``chunk_bytes``: sent in such chunks
    instead, without a length.
    """

    method: str = "POST"
    target: str = GENERATIONS
    headers: tuple[tuple[str, str], ...] = (ACME, JSON_TYPE)
    body: bytes = dataclasses.field(default=b"", repr=False)
    declared_bytes: int | None = None
    chunk_bytes: int | None = None

    def encoded(self, names: Mapping[str, str]) -> bytes:
        """The bytes to send."""
        head = "".join(f"{name}: {value}\r\n" for name, value in (("Host", "localhost"), *self.headers))
        start = f"{self.method} {self.target} HTTP/1.1\r\n{head}".encode("utf-8", "surrogateescape")
        start, body = _filled(start, names), _filled(self.body, names)
        if self.chunk_bytes is not None:
            parts = (body[at : at + self.chunk_bytes] for at in range(0, len(body), self.chunk_bytes))
            body = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"
            return start + b"Transfer-Encoding: chunked\r\n\r\n" + body
        length = len(body) if self.declared_bytes is None else self.declared_bytes
        return start + (b"Content-Length: %d\r\n" % length if length else b"") + b"\r\n" + body


@dataclasses.dataclass(frozen=True)
class Entry:
    """``statuses``: those that are right. ``code``: the problem's; None: taken, or refused by the HTTP server itself.

    ``waits``: its time is a network's, so only the service's own limit for that bounds it.
    """

    number: int
    name: str
    request: Request
    statuses: tuple[int, ...]
    code: str | None = None
    waits: bool = False

    def __str__(self) -> str:
        return f"{self.number:03d} {self.name}"


def refused(number: int, name: str, request: Request, code: str = "invalid_request", status: int = 422) -> Entry:
    """An entry that must be refused with this code."""
    return Entry(number, name, request, (status,), code)


def taken(number: int, name: str, request: Request, status: int = 202) -> Entry:
    """An entry that must be taken."""
    return Entry(number, name, request, (status,))


def malformed(number: int, name: str, request: Request) -> Entry:
    """An entry whose body is not what it says it is."""
    return refused(number, name, request, "malformed_body", 400)


def small_photo() -> bytes:
    """A photo that nothing is wrong with."""
    stream = io.BytesIO()
    Image.new("RGB", (160, 120), (120, 90, 60)).save(stream, "JPEG")
    return stream.getvalue()


PHOTO_TEXT = base64.b64encode(small_photo()).decode()


def generation(**fields: Any) -> Request:
    """A request for a generation in JSON, with these fields; one that is Ellipsis is left out."""
    values = {"prompt": "a portrait", "image": PHOTO_TEXT} | fields
    return Request(body=json.dumps({name: value for name, value in values.items() if value is not ...}).encode())


def as_json(body: bytes, *, content_type: str | None = "application/json") -> Request:
    """A request for a generation with this body."""
    return Request(headers=(ACME, ("Content-Type", content_type)) if content_type else (ACME,), body=body)


def part(name: str, data: bytes, more: bytes = b"") -> bytes:
    """One part of a form; ``more``: what follows the name in its head, a file's name for example."""
    head = b'Content-Disposition: form-data; name="' + name.encode() + b'"' + more
    return b"--" + BOUNDARY.encode() + b"\r\n" + head + b"\r\n\r\n" + data + b"\r\n"


def form(*parts: bytes, content_type: str = f"multipart/form-data; boundary={BOUNDARY}") -> Request:
    """A request for a generation with these parts."""
    body = b"".join(parts) + b"--" + BOUNDARY.encode() + b"--\r\n"
    return Request(headers=(ACME, ("Content-Type", content_type)), body=body)


def with_file(data: bytes, filename: bytes = b"photo.jpg", more: bytes = b"") -> Request:
    """A request for a generation with a prompt and this photo."""
    return form(part("prompt", b"a portrait"), part("image", data, b'; filename="' + filename + b'"' + more))


def _filled(data: bytes, names: Mapping[str, str]) -> bytes:
    return re.sub(rb"<<(\w+)>>", lambda found: names[found[1].decode()].encode(), data)
