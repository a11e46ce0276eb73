"""Whether the queue takes more, asked before anything is done for a request: overload is refused early and cheaply.

Accepting counts again, in its transaction, so what is remembered here lets nobody past a limit.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import sqlalchemy as sa
from cachetools import TTLCache

from instantid_serve.errors import OverloadedError, QueueFullError
from instantid_serve.service.database import Database
from instantid_serve.service.job import JobStatus
from instantid_serve.service.tables import jobs, owned_by
from instantid_serve.service.tenants import Tenant

# A place comes free with every job that is claimed; nobody is refused longer than this for want of looking.
_REMEMBERED_S = 0.25
_TENANTS = 10_000
_RETRY_AFTER_S = 5
_EVERYONE = ""


def tenants_queue_full(tenant: Tenant, queued: int) -> QueueFullError:
    """What a tenant is told that has as many jobs waiting as it may have."""
    facts = {"max_queued_jobs": tenant.max_queued_jobs, "queued": queued, "retry_after_s": _RETRY_AFTER_S}
    return QueueFullError("as many generations wait as may", facts)


class QueueRoom:
    """Refuses while a queue is full; a full queue is remembered for a moment, and counted no more. Thread-safe.

    ``most_in_all``: jobs of all tenants together that may wait.
    """

    def __init__(self, database: Database, most_in_all: int, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._database = database
        self._most_in_all = most_in_all
        self._queued: TTLCache[str, int] = TTLCache(_TENANTS, _REMEMBERED_S, monotonic)  # by tenant; only full queues
        self._lock = threading.Lock()

    def remembered(self, tenant: Tenant) -> None:
        """Raise the refusal that answers for this moment, if there is one; never waits."""
        with self._lock:
            full, tenants_full = _EVERYONE in self._queued, self._queued.get(tenant.id)
        if full:
            raise _overloaded()
        if tenants_full is not None:
            raise tenants_queue_full(tenant, tenants_full)

    def check(self, tenant: Tenant, more: int = 1) -> None:
        """Raises QueueFullError when the tenant's queue has no place for ``more`` jobs, OverloadedError when all's has.

        Blocks for two look-ups in an index. Raises DatabaseError, too.
        """
        self.remembered(tenant)
        queued, in_all = self._look(tenant)
        with self._lock:
            if in_all >= self._most_in_all:
                self._queued[_EVERYONE] = in_all
            if queued >= tenant.max_queued_jobs:
                self._queued[tenant.id] = queued
        if in_all + more > self._most_in_all:
            raise _overloaded()
        if queued + more > tenant.max_queued_jobs:
            raise tenants_queue_full(tenant, queued)

    def _look(self, tenant: Tenant) -> tuple[int, int]:
        waiting = sa.select(jobs.c.id).where(jobs.c.status == JobStatus.QUEUED)
        enough = waiting.limit(self._most_in_all).subquery()  # counted no further than it matters
        with self._database.read() as connection:
            mine = sa.select(sa.func.count()).select_from(waiting.where(owned_by(jobs, tenant.id)).subquery())
            queued = connection.execute(mine).scalar_one()
            return queued, connection.execute(sa.select(sa.func.count()).select_from(enough)).scalar_one()


def _overloaded() -> OverloadedError:
    return OverloadedError("more generations wait than the service takes on", {"retry_after_s": _RETRY_AFTER_S})
