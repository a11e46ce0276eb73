"""When a webhook that was not taken is sent again: the schedule that Standard Webhooks recommends."""

from __future__ import annotations

import email.utils
import random

_MINUTE_S, _HOUR_S = 60.0, 3600.0
# Before each attempt: three days in all, so that a receiver may be broken over a weekend.
DELAYS_S = (
    0.0,
    5.0,
    5 * _MINUTE_S,
    30 * _MINUTE_S,
    2 * _HOUR_S,
    5 * _HOUR_S,
    10 * _HOUR_S,
    14 * _HOUR_S,
    20 * _HOUR_S,
    24 * _HOUR_S,
)
MAX_TRIES = len(DELAYS_S)
MAX_RETRY_AFTER_S = 24 * _HOUR_S
_JITTER = 0.2  # so that the deliveries of an outage do not come back all at once


def delay_s(tries: int, seed: str, retry_after_s: float | None = None) -> float:
    """Seconds from attempt number ``tries`` (from 1) to the next; the same for the same ``seed`` and number.

    ``retry_after_s``: what the receiver asked for; it can only make the wait longer.
    """
    spread = random.Random(f"{seed}/{tries}").uniform(1 - _JITTER, 1 + _JITTER)  # noqa: S311 - no secret hangs on it
    return max(DELAYS_S[tries] * spread, min(retry_after_s or 0.0, MAX_RETRY_AFTER_S))


def read_retry_after(text: str, now_s: float) -> float | None:
    """Seconds that a ``Retry-After`` asks for, in either of its forms (RFC 9110, 10.2.3); None if it is neither."""
    if text.isascii() and text.isdecimal():
        return float(text)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - now_s)
    except (ValueError, OverflowError):
        return None
