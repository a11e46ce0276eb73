"""What callers say in headers: how long they wait, when a job is too late, and which retry is which call."""

from __future__ import annotations

import re
from typing import Annotated

from fastapi import Depends, Header, Request
from pydantic import StringConstraints

from instantid_serve.errors import InvalidRequestError

REPLAYED = "Idempotent-Replayed"
_WAIT = re.compile(r"(?:^|[,;])\s*wait\s*(?:=\s*\"?(\d{1,6})\"?\s*)?(?:$|[,;])", re.IGNORECASE)
_SECONDS = {"s": 1, "m": 60, "h": 3600}
_LONGEST_DEADLINE_S = 86_400

# FastAPI checks and describes what is declared here. The functions read the request itself: of a header that is sent
# twice FastAPI takes the last, and a proxy may have taken the first.
_Prefer = Annotated[
    str | None,
    Header(
        alias="Prefer",
        description="`wait=N`: answer when the job is done, after N seconds at the latest (RFC 7240).",
    ),
]
_CancelAfter = Annotated[
    Annotated[str, StringConstraints(pattern=r"^[0-9]{1,5}[smh]?$")] | None,
    Header(
        alias="Cancel-After",
        description="How long the job may take, for example `15s`, `2m` or `1h`; a number alone is seconds. A job that "
        "is later ends as `expired`, and one that had not begun costs nothing. At most 24 hours.",
    ),
]
_Key = Annotated[
    Annotated[str, StringConstraints(max_length=255, pattern=r"^[\x21-\x7e]+$")] | None,
    Header(
        alias="Idempotency-Key",
        description="Up to 255 visible ASCII characters. A request with a key that was used within 24 hours creates "
        "nothing: it is answered with what the first one created, and `Idempotent-Replayed: true`.",
    ),
]


def _wait_s(request: Request, prefer: _Prefer = None) -> float | None:
    """Seconds that `Prefer: wait` asks for, at most what is configured; what makes no sense is ignored (RFC 7240)."""
    del prefer
    found = _WAIT.search(",".join(request.headers.getlist("prefer")))
    if found is None:
        return None
    longest_s: float = request.app.state.context.settings.api.max_wait_s
    return min(float(found[1]), longest_s) if found[1] else longest_s


def _deadline_s(request: Request, cancel_after: _CancelAfter = None) -> float | None:
    del cancel_after
    sent = _single(request, "cancel-after")
    if sent is None:
        return None
    seconds = int(sent.rstrip("smh")) * _SECONDS.get(sent[-1], 1)
    if not 1 <= seconds <= _LONGEST_DEADLINE_S:
        raise _fault("Cancel-After", "must be a time of 1s to 24h, for example 15s or 2m")
    return float(seconds)


def _idempotency_key(request: Request, idempotency_key: _Key = None) -> str | None:
    del idempotency_key
    return _single(request, "idempotency-key")


def _single(request: Request, name: str) -> str | None:
    sent = request.headers.getlist(name)
    if len(sent) > 1:
        raise _fault(name.title(), "must be sent once")
    return sent[0] if sent else None


def _fault(header: str, detail: str) -> InvalidRequestError:
    return InvalidRequestError(f"{header} {detail}", {"errors": [{"pointer": f"/{header}", "detail": detail}]})


WaitSeconds = Annotated[float | None, Depends(_wait_s)]
DeadlineSeconds = Annotated[float | None, Depends(_deadline_s)]
IdempotencyKeySent = Annotated[str | None, Depends(_idempotency_key)]
