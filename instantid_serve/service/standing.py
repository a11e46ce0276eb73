"""How things stand now: what a tenant uses of its limits, what it used month by month, and the queue as a whole."""

from __future__ import annotations

import dataclasses

import sqlalchemy as sa

from instantid_serve.service import usage
from instantid_serve.service.database import Clock, Database
from instantid_serve.service.job import JobStatus
from instantid_serve.service.tables import jobs, owned_by, workers
from instantid_serve.service.tables import usage as usage_table

_WORKER_LOST_S = 15.0


@dataclasses.dataclass(frozen=True, slots=True)
class Load:
    """What a tenant has in the service. ``month_ends_at``: seconds since the epoch."""

    queued_jobs: int
    running_pictures: int
    month_pictures: int
    month_ends_at: float


@dataclasses.dataclass(frozen=True, slots=True)
class QueueState:
    """The queue of all tenants together. ``oldest_age_s``: how long the first has waited; 0 when none waits."""

    queued: int
    oldest_age_s: float
    running: int
    workers: int


class Standing:
    """Answers from the tables, as they are at the moment of asking."""

    def __init__(self, database: Database, clock: Clock | None = None) -> None:
        self._database = database
        self._clock = clock or database.now

    def months(self, tenant: str, months: int = 12) -> list[usage.Usage]:
        """The tenant's last months with any use, the latest first."""
        with self._database.read(tenant) as connection:
            return usage.of(connection, tenant, months)

    def load(self, tenant: str) -> Load:
        """What the tenant has waiting, running, and accepted this month."""
        mine = owned_by(jobs, tenant)
        queued = sa.select(sa.func.count()).where(mine, jobs.c.status == JobStatus.QUEUED)
        pictures = sa.func.coalesce(sa.func.sum(jobs.c.pictures), 0)
        running = sa.select(pictures).where(mine, jobs.c.status == JobStatus.RUNNING)
        with self._database.read(tenant) as connection:
            now_s = connection.execute(sa.select(self._clock())).scalar_one()
            this_month = usage_table.c.period == usage.period_of(now_s)
            month = sa.select(usage_table.c.pictures).where(owned_by(usage_table, tenant), this_month)
            return Load(
                queued_jobs=connection.execute(queued).scalar_one(),
                running_pictures=connection.execute(running).scalar_one(),
                month_pictures=connection.execute(month).scalar_one_or_none() or 0,
                month_ends_at=usage.period_end(now_s),
            )

    def queue(self) -> QueueState:
        """How long the queue is and who works on it; it names no tenant."""
        now = self._clock()
        waiting = sa.select(sa.func.count(), now - sa.func.min(jobs.c.created_at))
        running = sa.select(sa.func.count()).where(jobs.c.status == JobStatus.RUNNING)
        alive = sa.select(sa.func.count()).where(workers.c.seen_at > now - _WORKER_LOST_S)
        with self._database.read() as connection:
            queued, age_s = connection.execute(waiting.where(jobs.c.status == JobStatus.QUEUED)).one()
            return QueueState(
                queued=queued,
                oldest_age_s=max(0.0, age_s or 0.0),
                running=connection.execute(running).scalar_one(),
                workers=connection.execute(alive).scalar_one(),
            )
