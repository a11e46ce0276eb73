"""Ids: a prefix that says of what, and a UUIDv7 in lowercase base32hex (26 characters), so they sort by time."""

from __future__ import annotations

import base64
import secrets
import time
import uuid
from typing import Literal

Kind = Literal["gen", "bat", "idn", "upl", "whk", "whd", "msg"]


def new_id(kind: Kind) -> str:
    """A new id, for example ``gen_06f…``.

    RFC 9562, 5.7, with 12 bits of sub-millisecond time in rand_a (method 3 of 6.2).
    """
    milliseconds, rest = divmod(time.time_ns(), 1_000_000)
    value = milliseconds << 80 | 0x7 << 76 | (rest << 12) // 1_000_000 << 64 | 0b10 << 62 | secrets.randbits(62)
    return f"{kind}_{base64.b32hexencode(uuid.UUID(int=value).bytes).decode().rstrip('=').lower()}"


def made_at(an_id: str) -> float:
    """When :func:`new_id` made the id, on its process's clock: seconds since the epoch. Raises ValueError."""
    digits = an_id.partition("_")[2].upper()
    value = uuid.UUID(bytes=base64.b32hexdecode(digits + "=" * (-len(digits) % 8)))
    if value.version != 7:  # noqa: PLR2004 - that of the ids made here
        raise ValueError("the id was not made here")
    return float(value.int >> 80) / 1000
