"""What callers say in headers: how long they wait, when a job is too late, and which retry is which call."""

from __future__ import annotations

import re
from typing import Annotated

from fastapi import Depends, Header, Request

from instantid_serve.errors import InvalidRequestError

REPLAYED = "Idempotent-Replayed"
_WAIT = re.compile(r"(?:^|[,;])\s*wait\s*(?:=\s*\"?(\d{1,6})\"?\s*)?(?:$|[,;])", re.IGNORECASE)
_CANCEL_AFTER = re.compile(r"(\d{1,5})(s|m|h)?")
_SECONDS = {None: 1, "s": 1, "m": 60, "h": 3600}
_LONGEST_DEADLINE_S = 86_400
_IDEMPOTENCY_KEY = re.compile(r"[\x21-\x7e]{1,255}")

# In these names FastAPI takes the header's own from the parameter's, so that it describes them in OpenAPI. The
# functions read the request itself: of a header that is sent twice FastAPI would take the last.
_Prefer = Annotated[
    str | None,
    Header(description="`wait=N`: answer when the job is done, after N seconds at the latest (RFC 7240)."),
]
_CancelAfter = Annotated[
    str | None,
    Header(
        description="How long the job may take, for example `15s`, `2m` or `1h`; a number alone is seconds. A job that "
        "is later ends as `expired`, and one that had not begun costs nothing. At most 24 hours.",
    ),
]
_Key = Annotated[
    str | None,
    Header(
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
    found = _CANCEL_AFTER.fullmatch(sent.strip())
    seconds = int(found[1]) * _SECONDS[found[2]] if found else 0
    if not 1 <= seconds <= _LONGEST_DEADLINE_S:
        raise _fault("Cancel-After", "must be a time of 1s to 24h, for example 15s or 2m")
    return float(seconds)


def _idempotency_key(request: Request, idempotency_key: _Key = None) -> str | None:
    del idempotency_key
    sent = _single(request, "idempotency-key")
    if sent is not None and not _IDEMPOTENCY_KEY.fullmatch(sent):
        raise _fault("Idempotency-Key", "must be 1 to 255 visible ASCII characters")
    return sent


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
