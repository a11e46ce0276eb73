"""Takes known shapes of secrets out of text: the second wall, for what should never have been written at all."""

from __future__ import annotations

import re

REDACTED = "[redacted]"

_MAX_CHARS = 4000  # of one text; who logs more does not log words
_SHAPES = [
    # This service's API keys and its secrets for signing webhooks.
    (re.compile(r"iid_[A-Za-z0-9-]+_[A-Za-z0-9]+_[A-Za-z0-9]+"), REDACTED),
    (re.compile(r"whsec_[A-Za-z0-9+/=_-]+"), REDACTED),
    # Headers.
    (re.compile(r"(?i)\b(bearer)\s+[^\s\"',;]+"), rf"\1 {REDACTED}"),
    (
        re.compile(r"(?i)(authorization[\"']?\s*[:=]\s*[\"']?)(?:(?:bearer|basic|digest)\s+)?[^\s\"',;]+"),
        rf"\1{REDACTED}",
    ),
    # Signed URLs, and passwords in URLs (also such that should have been escaped).
    (
        re.compile(
            r"(?i)(?<!\w)(X-Amz-(?:Signature|Credential|Security-Token)|X-Goog-(?:Signature|Credential)|AWSAccessKeyId"
            r"|sig|signature|password|api_key|access_token)=[^&\s\"'<>]+"
        ),
        rf"\1={REDACTED}",
    ),
    (re.compile(r"//[^/\s]+@"), f"//{REDACTED}@"),
    # Photos, pictures and feature vectors as base64, in one piece or in lines.
    (re.compile(r"[A-Za-z0-9+/=_-]{201,}"), REDACTED),
    (re.compile(r"(?:[A-Za-z0-9+/=_-]{60,}\s+){2,}[A-Za-z0-9+/=_-]*"), f"{REDACTED} "),
]
_SECRET_NAME = re.compile(r"(?i)authorization|cookie|passw|secret|signature|token|api_?key|prompt|embedding|landmarks")


def redacted(text: str) -> str:
    """``text`` without what looks like a secret, and not longer than a few thousand characters."""
    for shape, instead in _SHAPES:
        text = shape.sub(instead, text)
    return text if len(text) <= _MAX_CHARS else text[:_MAX_CHARS] + "…"


def names_a_secret(name: str) -> bool:
    """Whether what is called so should not be written, whatever it looks like."""
    return _SECRET_NAME.search(name) is not None
