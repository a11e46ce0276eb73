"""Entries 193 to 196: requests that HTTP allows, or half allows."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from corpus.entry import (
    ACME,
    GENERATIONS,
    JSON_TYPE,
    Entry,
    Request,
    as_json,
    form,
    generation,
    malformed,
    part,
    refused,
    small_photo,
    taken,
)
from doubles.api_process import MAX_BODY

MEDIA_TYPE = "unsupported_media_type"
FILE = b'; filename="a.jpg"'
PICTURE = f"{GENERATIONS}/<<finished_job>>/images/0"


def entries() -> Iterator[Entry]:
    yield from media_types()
    yield from forms()
    yield from long_bodies()
    yield from ranges()
    yield from odd_heads()


def media_types() -> Iterator[Entry]:
    body = generation().body
    for content_type in ("text/plain", None, "application/json; charset=utf-16", "application/x-www-form-urlencoded"):
        request = as_json(body, content_type=content_type)
        yield refused(193, f"media type {content_type}", request, MEDIA_TYPE, 415)
    yield malformed(193, "no boundary", form(part("prompt", b"x"), content_type="multipart/form-data"))


def forms() -> Iterator[Entry]:
    prompt, photo = part("prompt", b"x"), part("image", small_photo(), FILE)
    yield malformed(193, "10,000 parts", form(*(part(f"p{n}", b"") for n in range(10_000))))
    yield malformed(193, "10,000 files", form(*(part(f"p{n}", b"", FILE) for n in range(10_000))))
    long_head = part("image", small_photo(), FILE + b"\r\nX-Long: " + b"x" * 1_000_000)
    yield malformed(193, "part with a head of 1 MB", form(prompt, long_head))
    yield malformed(193, "field of 14 MB", form(photo, part("prompt", b"x" * 14_000_000)))
    long_field = form(photo, part("prompt", b"x" * 1000))
    yield refused(
        193,
        "field of 100 MB",
        dataclasses.replace(long_field, declared_bytes=100_000_000),
        "body_too_large",
        413,
    )
    yield malformed(193, "two photos", form(prompt, photo, photo))


def long_bodies() -> Iterator[Entry]:
    declared = Request(body=b"{", declared_bytes=MAX_BODY + 1)
    yield refused(194, "body that says it is too long", declared, "body_too_large", 413)
    chunked = Request(body=b" " * (MAX_BODY + 1), chunk_bytes=1_000_000)
    yield refused(194, "body that becomes too long", chunked, "body_too_large", 413)


def ranges() -> Iterator[Entry]:
    """Pictures are sent whole: no number of ranges costs more than one."""
    for name, target in (("picture", PICTURE), ("document", "/openapi.json")):
        many = ("Range", "bytes=" + ",".join(["0-"] * 10_000))
        yield taken(195, f"10,000 ranges of a {name}", Request("GET", target, (ACME, many)), 200)


def odd_heads() -> Iterator[Entry]:
    expecting = generation()
    headers = (*expecting.headers, ("Expect", "100-continue"))
    yield taken(196, "Expect: 100-continue", dataclasses.replace(expecting, headers=headers))
    both = Request(headers=(ACME, JSON_TYPE, ("Content-Length", "5")), body=b"{}", chunk_bytes=2)
    yield Entry(196, "two lengths", both, (400,))
    long = ("X-Long", "x" * 65_536)
    yield Entry(196, "header of 64 KB", Request("GET", "/v1/models", (ACME, long)), (200, 400, 431))
    for name in ("X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override"):
        request = Request("POST", "/v1/models", (ACME, (name, "GET")))
        yield refused(196, name, request, "method_not_allowed", 405)
