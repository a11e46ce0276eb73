"""Secrets and signatures of webhooks, as Standard Webhooks has them (https://www.standardwebhooks.com)."""

from __future__ import annotations

import base64
import datetime as dt
import secrets
from collections.abc import Mapping, Sequence
from typing import Any

from standardwebhooks import Webhook

_SECRET_BYTES = 32  # the specification asks for 24 to 64
MAX_LIVE = 3  # secrets that sign at once: a receiver that rotates twice in a row loses none of its own too early


def new_secret() -> str:
    """A new secret, ``whsec_…``."""
    return "whsec_" + base64.b64encode(secrets.token_bytes(_SECRET_BYTES)).decode()


def first() -> list[dict[str, Any]]:
    """The secrets of something new, as they are kept: the newest first, ``expires_at`` in seconds since the epoch."""
    return [{"secret": new_secret(), "expires_at": None}]


def rotated(kept: Sequence[Mapping[str, Any]], now_s: float, overlap_s: float) -> list[dict[str, Any]]:
    """A new secret before the live ones, which go on signing for ``overlap_s`` seconds at most."""
    until = now_s + overlap_s
    old = [
        {"secret": entry["secret"], "expires_at": until if entry["expires_at"] is None else entry["expires_at"]}
        for entry in live(kept, now_s)
    ]
    return [*first(), *({**entry, "expires_at": min(entry["expires_at"], until)} for entry in old)][:MAX_LIVE]


def live(kept: Sequence[Mapping[str, Any]], now_s: float) -> list[Mapping[str, Any]]:
    """Those that sign now."""
    return [entry for entry in kept if entry["expires_at"] is None or entry["expires_at"] > now_s]


def headers(whsecs: Sequence[str], message_id: str, at: dt.datetime, body: str) -> dict[str, str]:
    """The headers of one attempt, with a signature by every secret. ``at`` must be aware, and UTC."""
    # The library takes the date's digits for UTC, whatever its zone says.
    if at.utcoffset() != dt.timedelta(0):
        raise ValueError("a webhook is signed with a time in UTC")
    return {
        "content-type": "application/json",
        "webhook-id": message_id,
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": " ".join(Webhook(secret).sign(message_id, at, body) for secret in whsecs),
    }
