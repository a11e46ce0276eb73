"""How often something may happen in a minute, counted where all replicas look: in memory for one, in Redis for many.

A sliding window made of two counters, this minute's and the last one's fading share. In the long run nobody gets more
than the limit; a burst on both sides of a minute's turn can be more, up to twice as much within sixty seconds (measured
1.2 times at 1,200 a minute), which an exact window would refuse, for a list of every request's time.

A storage that does not answer limits nobody: being able to serve is worth
more than the limit, and the log says so.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import math
import time
from typing import Any

from limits import RateLimitItemPerMinute
from limits.aio.storage import RedisStorage, Storage
from limits.aio.strategies import SlidingWindowCounterRateLimiter
from limits.errors import ConfigurationError as UnknownStorageError
from limits.errors import StorageError
from limits.storage import storage_from_string

from instantid_serve.errors import ConfigurationError

WINDOW_S = 60
_LEFT_ALONE_S = 5.0  # after a failure the storage is not asked for so long, or every request would wait for it
_LOG_EVERY_S = 60.0

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, slots=True)
class Allowance:
    """What is left of a limit after a request was counted.

    ``limit``: requests per minute; ``more_in_s``: whole seconds until more is let in than now, at least 1.
    """

    granted: bool
    limit: int
    left: int
    more_in_s: int


class RateLimits:
    """Counters at a URL: ``memory://`` (of this process), ``redis://…`` or ``rediss://…``.

    ``timeout_s`` bounds the wait for the storage. Raises ConfigurationError for another URL.
    """

    def __init__(self, url: str, *, timeout_s: float) -> None:
        self._limiter = SlidingWindowCounterRateLimiter(_open(url))
        self._timeout_s = timeout_s
        self._ask_again_at = -math.inf
        self._log_again_at = -math.inf

    async def take(self, kind: str, whose: str, per_minute: int) -> Allowance | None:
        """Count one of a ``kind``; None when the storage does not answer, which limits nothing."""
        if time.monotonic() < self._ask_again_at:
            return None
        item = RateLimitItemPerMinute(per_minute)
        try:
            async with asyncio.timeout(self._timeout_s):
                granted = await self._limiter.hit(item, kind, whose)
                stats = await self._limiter.get_window_stats(item, kind, whose)
        except (StorageError, TimeoutError) as error:
            self._give_up_for_now(error)
            return None
        more_in_s = max(1, math.ceil(stats.reset_time - time.time()))
        return Allowance(granted, per_minute, stats.remaining if granted else 0, more_in_s)

    async def close(self) -> None:
        """Close the connections to Redis, if there are any."""
        storage = self._limiter.storage
        if isinstance(storage, RedisStorage):
            bridge: Any = storage.bridge  # its base class does not promise what all bridges have
            await bridge.get_connection().aclose()

    def _give_up_for_now(self, error: Exception) -> None:
        now = time.monotonic()
        self._ask_again_at = now + _LEFT_ALONE_S
        if now >= self._log_again_at:
            self._log_again_at = now + _LOG_EVERY_S
            log.error("rate limits are not enforced: their storage does not answer (%s)", type(error).__name__)


def _open(url: str) -> Storage:
    if not url.startswith(("memory://", "redis://", "rediss://")):
        raise ConfigurationError("tenancy.rate_limit_storage must be memory:// or redis://…")
    options = {} if url.startswith("memory://") else {"implementation": "redispy"}
    try:
        storage = storage_from_string(f"async+{url}", wrap_exceptions=True, **options)
    except (UnknownStorageError, ValueError):  # the cause may hold a password
        raise ConfigurationError("tenancy.rate_limit_storage cannot be used") from None
    if not isinstance(storage, Storage):
        raise ConfigurationError("tenancy.rate_limit_storage cannot be used")
    return storage
