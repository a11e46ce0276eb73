"""How long to wait before something that failed is tried again."""

from __future__ import annotations

_FIRST_S = 0.1
_LONGEST_S = 5.0
_DOUBLINGS = 10  # more than reach the longest wait; without a bound, an hour's outage overflows a float


def backoff_s(failures: int) -> float:
    """Seconds to wait after ``failures`` failures in a row (from 1): each twice the one before, up to five seconds."""
    return min(_FIRST_S * 2.0 ** min(failures - 1, _DOUBLINGS), _LONGEST_S)
