"""`Idempotency-Key` on requests that make a secret: what was shown once cannot be answered again, so it is refused."""

from __future__ import annotations

import re
from typing import Any

from fastapi import Request
from pydantic import BaseModel

from instantid_serve.errors import InvalidRequestError
from instantid_serve.service.idempotency import IdempotencyKey, fingerprint

HEADER = "Idempotency-Key"
_KEY = re.compile(r"[\x21-\x7e]{1,255}")

# What a route adds to its `openapi_extra`.
PARAMETER: dict[str, Any] = {
    "name": HEADER,
    "in": "header",
    "schema": {"type": "string", "maxLength": 255, "pattern": "^[\\x21-\\x7e]+$"},
    "description": "A second request with it is refused with 409 `secret_shown_once`, which names the key it made.",
}


def once(request: Request, fields: BaseModel, *, space: str = "") -> IdempotencyKey | None:
    """The key a caller gave; None without. ``space`` keeps operators' keys apart from the tenant's own.

    Raises InvalidRequestError for a key that is too long or has characters beyond visible ASCII, or is one of two.
    """
    sent = request.headers.getlist(HEADER)
    if not sent:
        return None
    if len(sent) > 1 or not _KEY.fullmatch(sent[0]):
        raise InvalidRequestError(f"{HEADER} must be sent once, as 1 to 255 visible ASCII characters")
    # No tenant's key can begin with a space of another's: these hold no blank.
    prefix = f"{space} " if space else ""
    route = f"{request.method} {request.url.path}"
    return IdempotencyKey(prefix + sent[0], fingerprint(route, fields.model_dump(mode="json")))
