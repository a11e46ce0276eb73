"""The deployment that does the work beside generations, so that nothing of it can hold one up."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any

from instantid_serve.errors import UnavailableError
from instantid_serve.service import wakeups
from instantid_serve.service.backoff import backoff_s
from instantid_serve.service.courier import Courier, CourierLimits, webhook_http
from instantid_serve.service.database import ready_database
from instantid_serve.service.delivery_queue import DeliveryQueue
from instantid_serve.service.job_queue import JobQueue
from instantid_serve.service.results import open_store
from instantid_serve.service.sweeper import Sweeper
from instantid_serve.serving.telemetry import LeaseMetrics, WebhookMetrics, log_as_serve_does
from instantid_serve.settings import Settings

log = logging.getLogger(__name__)

_TIDY_EVERY_S = 1.0
_RECONCILE_EVERY_S = 86_400.0


class Housekeeper:
    """Ends jobs that are past their deadline, puts back those of silent workers, delivers webhooks, and sweeps."""

    def __init__(self, args: Mapping[str, Any]) -> None:
        log_as_serve_does()
        settings = Settings.load(dict(args))
        database = ready_database(settings.database)
        most_attempts = settings.dispatcher.max_attempts
        queue = JobQueue(database, max_attempts=most_attempts, reclaimed=LeaseMetrics().reclaimed)
        chores = {"tidy": _every(_TIDY_EVERY_S, partial(asyncio.to_thread, queue.tidy))}
        deliveries = DeliveryQueue(database)
        limits = CourierLimits.of(settings.housekeeping, settings.outbound)
        courier = Courier(deliveries, webhook_http(settings.outbound), limits, settled=WebhookMetrics().settled)
        self._listener = wakeups.listen(database, [wakeups.DELIVERIES], lambda _channel, _payload: courier.wake())
        forget = partial(asyncio.to_thread, deliveries.tidy, settings.housekeeping.keep_deliveries_s)
        chores["deliver"] = _every(_TIDY_EVERY_S, courier.run)
        chores["forget deliveries"] = _every(settings.housekeeping.sweep_every_s, forget)
        sweeper = Sweeper(database, open_store(settings.results), retention_s=settings.tenancy.retention_s)
        chores["sweep"] = _every(settings.housekeeping.sweep_every_s, partial(asyncio.to_thread, sweeper.sweep))
        chores["reconcile"] = _every(_RECONCILE_EVERY_S, partial(asyncio.to_thread, sweeper.reconcile))
        # Serve runs constructors on the loop that will run the calls.
        loop = asyncio.get_running_loop()
        self._chores = {name: loop.create_task(chore, name=name) for name, chore in chores.items()}

    def check_health(self) -> None:
        """Serve replaces the replica after three failures in a row."""
        ended = [name for name, chore in self._chores.items() if chore.done()]
        if ended:
            raise UnavailableError(f"these chores ended: {', '.join(ended)}")

    async def __del__(self) -> None:
        """Serve calls this when the replica stops; what is not done is done by the next one."""
        for chore in getattr(self, "_chores", {}).values():
            chore.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await chore
        listener = getattr(self, "_listener", None)
        if listener is not None:
            await asyncio.to_thread(listener.close)


async def _every(seconds: float, do: Callable[[], Awaitable[object]]) -> None:
    """Do it again and again; what fails is tried again, later and later."""
    failures = 0
    while True:
        try:
            await do()
            failures = 0
        except Exception as error:  # noqa: BLE001 - a chore outlives every fault
            failures += 1
            log.warning("a chore failed: %s", type(error).__name__)
        await asyncio.sleep(max(seconds, backoff_s(failures) if failures else 0.0))
