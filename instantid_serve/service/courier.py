"""Delivers webhooks: claims what is due, signs it, posts it, and writes down what came of it.

Receivers are strangers: one that hangs costs its own deliveries' places and nothing else. A courier that dies loses
nothing: what it held is claimed again when its lease has run out, and is sent with the same id.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import datetime as dt
import json
import logging
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from instantid_serve.errors import DatabaseError, InstantIDError, StaleFenceError
from instantid_serve.service import webhook_signing
from instantid_serve.service.backoff import backoff_s
from instantid_serve.service.delivery import Attempt, Errand, Repute
from instantid_serve.service.delivery_queue import DeliveryQueue
from instantid_serve.service.delivery_turns import Places
from instantid_serve.service.guarded_http import GuardedHttp
from instantid_serve.service.guarded_urls import UrlRules
from instantid_serve.service.webhook_schedule import read_retry_after
from instantid_serve.settings import HousekeepingSettings, OutboundSettings

_THREADS = 4  # of its own, for the database: a burst of answers must not hold up the other chores'
_SETTLE_S = 30.0  # how long an outage of the database may last before an answer is forgotten
_SLACK_S = 5.0
_BUSY = (429, 503)  # the answers whose Retry-After is heard

T = TypeVar("T")
log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, slots=True)
class CourierLimits:
    """How much a courier has under way at once; an attempt takes ``timeout_s`` at most."""

    in_flight: int
    per_host: int
    per_tenant: int
    timeout_s: float
    poll_s: float

    @classmethod
    def of(cls, housekeeping: HousekeepingSettings, outbound: OutboundSettings) -> CourierLimits:
        """Those that the settings name."""
        return cls(
            in_flight=housekeeping.max_deliveries_in_flight,
            per_host=housekeeping.max_deliveries_per_host,
            per_tenant=housekeeping.max_deliveries_per_tenant,
            timeout_s=outbound.webhook_timeout_s,
            poll_s=housekeeping.poll_s,
        )

    @property
    def lease_s(self) -> float:
        """Longer than a delivery can be with a courier that lives."""
        return self.timeout_s + _SETTLE_S + _SLACK_S


def webhook_http(settings: OutboundSettings) -> GuardedHttp:
    """The client for what tenants name as receivers: it also says which URLs can be receivers at all."""
    rules = UrlRules(
        allowed_networks=settings.allowed_networks,
        ports=settings.ports,
        require_https=settings.webhooks_need_https,
        first_byte_timeout_s=settings.webhook_timeout_s,
    )
    return GuardedHttp(rules)


class Courier:
    """One per process. ``settled`` is told what every attempt came to (an :class:`Outcome`, or ``stale``)."""

    def __init__(
        self,
        queue: DeliveryQueue,
        http: GuardedHttp,
        limits: CourierLimits,
        *,
        settled: Callable[[str], object] = lambda _outcome: None,
    ) -> None:
        self._queue = queue
        self._http = http
        self._limits = limits
        self._settled = settled
        self._under_way: Counter[Repute] = Counter()
        self._news = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._settling = ThreadPoolExecutor(_THREADS, thread_name_prefix="courier-settles")
        # Hundreds of attempts can time out in one moment: claiming must not queue behind what they came to.
        self._claiming = ThreadPoolExecutor(1, thread_name_prefix="courier-claims")

    def wake(self) -> None:
        """Look at once whether something is due; from any thread."""
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop has ended
                self._loop.call_soon_threadsafe(self._news.set)

    async def run(self) -> None:
        """Deliver until canceled."""
        self._loop = asyncio.get_running_loop()
        async with asyncio.TaskGroup() as errands:
            while True:
                self._news.clear()
                claimed = await self._claim()
                for errand in claimed:
                    self._under_way[errand.repute] += 1
                    errands.create_task(self._run_errand(errand))
                if not claimed:
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(self._limits.poll_s):
                            await self._news.wait()

    async def _claim(self) -> list[Errand]:
        failures = 0
        places = self._places()
        while True:
            try:
                return await _in(self._claiming, lambda: self._queue.claim(places, self._limits.lease_s))
            except DatabaseError:
                failures += 1
                if failures == 1:
                    log.warning("the database does not answer; webhooks wait")
                await asyncio.sleep(backoff_s(failures))

    def _places(self) -> Places:
        """Three quarters for receivers that took nothing yet, half for those that did not take the last one."""
        most, busy = self._limits.in_flight, self._under_way
        suspect = busy[Repute.SUSPECT]
        unproven = busy[Repute.UNKNOWN] + suspect
        return Places(
            free=most - busy.total(),
            free_unproven=most - most // 4 - unproven,
            free_suspect=most - most // 2 - suspect,
            per_host=self._limits.per_host,
            per_tenant=self._limits.per_tenant,
        )

    async def _run_errand(self, errand: Errand) -> None:
        try:
            attempt = await self._send(errand)
            self._settled(await self._settle(errand, attempt))
        except StaleFenceError:
            self._settled("stale")
        except DatabaseError:
            log.warning("a webhook's outcome was not written down; it will be sent again: %s", errand.id)
        except Exception:  # one delivery must not end all; its lease runs out, and its tries have an end
            log.exception("a webhook could not be sent: %s", errand.id)
        finally:
            self._under_way[errand.repute] -= 1
            self._news.set()

    async def _send(self, errand: Errand) -> Attempt:
        now = dt.datetime.now(tz=dt.UTC)
        begun_s = time.perf_counter()
        body = json.dumps(errand.payload, sort_keys=True, separators=(",", ":"))
        headers = webhook_signing.headers(errand.secrets, errand.message_id, now, body)
        try:
            timeout_s = self._limits.timeout_s
            answer = await self._http.post(errand.url, body.encode(), headers, timeout_s=timeout_s)
        except InstantIDError as error:
            word = str(error.facts.get("reason", error.code))
            return Attempt(now.timestamp(), time.perf_counter() - begun_s, error=word)
        asked = answer.headers.get("retry-after", "") if answer.status in _BUSY else ""
        retry_after_s = read_retry_after(asked, time.time())
        return Attempt(now.timestamp(), answer.took_s, status=answer.status, retry_after_s=retry_after_s)

    async def _settle(self, errand: Errand, attempt: Attempt) -> str:
        ends_s, failures = time.monotonic() + _SETTLE_S, 0
        while True:
            try:
                return (await _in(self._settling, lambda: self._queue.settle(errand, attempt))).value
            except DatabaseError:
                failures += 1
                if time.monotonic() > ends_s:
                    raise
                await asyncio.sleep(backoff_s(failures))


async def _in(threads: ThreadPoolExecutor, do: Callable[[], T]) -> T:
    return await asyncio.get_running_loop().run_in_executor(threads, do)
