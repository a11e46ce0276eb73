"""Whether a request would be served now: the database, the result store, and at least one warm generator."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor

from instantid_serve.errors import InstantIDError

Check = Callable[[], Awaitable[None]]  # raises one of our errors

_TIMEOUT_S = 2.0  # per check; a probe's own timeout is usually one to five seconds
_KEPT_S = 1.0  # however many probes ask

log = logging.getLogger(__name__)


class Readiness:
    """Runs the named checks together, and keeps the answer for a second."""

    def __init__(self, checks: Mapping[str, Check]) -> None:
        self._checks = checks
        self._asked_s = -float("inf")
        self._faults: dict[str, str] = {}
        self._asking = asyncio.Lock()

    async def faults(self) -> dict[str, str]:
        """What is not ready, by name of the check, with a word on why; empty when all is well."""
        async with self._asking:
            if time.monotonic() - self._asked_s > _KEPT_S:
                found = await asyncio.gather(*(_fault(check) for check in self._checks.values()))
                self._faults = {name: fault for name, fault in zip(self._checks, found, strict=True) if fault}
                self._asked_s = time.monotonic()
            return self._faults


def on_own_thread(ask: Callable[[], None]) -> Check:
    """A check that blocks. One that hangs is never asked beside itself, and takes no thread from those who serve."""
    thread = ThreadPoolExecutor(1, thread_name_prefix="readiness")

    async def check() -> None:
        await asyncio.get_running_loop().run_in_executor(thread, ask)

    return check


async def _fault(check: Check) -> str | None:
    try:
        await asyncio.wait_for(check(), _TIMEOUT_S)
    except TimeoutError:
        return "timeout"
    except InstantIDError as error:
        return error.code
    except Exception:  # a probe must answer, whatever is broken
        log.exception("a readiness check failed")
        return "internal"
    return None
