"""Jobs as their tenants see them: accepted, looked at, listed, canceled, deleted. Workers use :mod:`.job_queue`.

Everything here is synchronous and raises DatabaseError when the database does not answer; asynchronous callers use
``asyncio.to_thread``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from instantid_serve.errors import ConflictError, NotFoundError
from instantid_serve.service import events, fairness, idempotency, tenants, usage, wakeups
from instantid_serve.service.database import Clock, Database
from instantid_serve.service.idempotency import IdempotencyKey
from instantid_serve.service.job import Job, JobStatus, NewJob
from instantid_serve.service.job_rows import canceled_now
from instantid_serve.service.queue_room import tenants_queue_full
from instantid_serve.service.tables import batches, owned_by
from instantid_serve.service.tables import jobs as table
from instantid_serve.service.tenants import Tenant

_LOOKED_AT_TOGETHER = 1000  # SQLite takes 32766 parameters in a statement, psycopg 65535


@dataclasses.dataclass(frozen=True, slots=True)
class Accepted:
    """Jobs that are safely stored; ``replayed``: they were already, by an earlier request with the same key."""

    jobs: tuple[Job, ...]
    replayed: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class JobFilter:
    """Which of a tenant's jobs to list. Times are seconds since the epoch; ``metadata``: all of these pairs."""

    status: tuple[JobStatus, ...] = ()
    created_after: float | None = None
    created_before: float | None = None
    batch_id: str | None = None
    identity_id: str | None = None
    metadata: Mapping[str, str] = dataclasses.field(default_factory=dict)


class Jobs:
    """The jobs of a database, for tenants. ``clock`` is the database's own unless a test moves time by hand."""

    def __init__(self, database: Database, clock: Clock | None = None) -> None:
        self._database = database
        self._clock = clock or database.now

    def replay(self, tenant: str, key: IdempotencyKey) -> Accepted | None:
        """What an earlier request with this key was answered; None for a new key. Raises IdempotencyMismatchError."""
        with self._database.read(tenant) as connection:
            found = idempotency.find(connection, self._clock(), tenant, key)
            return None if found is None else Accepted(_of_resource(connection, tenant, found), replayed=True)

    def accept(
        self,
        tenant: Tenant,
        new: Sequence[NewJob],
        key: IdempotencyKey | None = None,
        *,
        batch: Mapping[str, str] | None = None,
    ) -> Accepted:
        """Add queued jobs of one priority, all or none; once this returns they are never lost.

        ``batch``: the metadata of the batch that they are.

        With a ``key`` that was used before nothing is added, and its jobs are returned. Raises QueueFullError,
        QuotaExceededError, IdempotencyMismatchError, and ConflictError when an id is taken.
        """
        try:
            with self._database.write(tenant.id) as connection:
                return self._accept(connection, tenant, new, key, batch)
        except ConflictError:
            # Two requests with one key at the same moment: the other's transaction was first.
            if key is not None and (earlier := self.replay(tenant.id, key)) is not None:
                return earlier
            raise

    def _accept(
        self,
        connection: sa.Connection,
        tenant: Tenant,
        new: Sequence[NewJob],
        key: IdempotencyKey | None,
        batch: Mapping[str, str] | None,
    ) -> Accepted:
        now = self._clock()
        tenants.hold(connection, tenant.id)
        resource_id = new[0].batch_id or new[0].id
        if key is not None:
            found = idempotency.find(connection, now, tenant.id, key)
            if found is not None:
                return Accepted(_of_resource(connection, tenant.id, found), replayed=True)
            idempotency.remember(connection, now, tenant.id, key, resource_id)
        _check_queue(connection, tenant, len(new))
        if batch is not None:
            values = {"id": resource_id, "tenant": tenant.id, "jobs": len(new), "metadata": dict(batch)}
            connection.execute(sa.insert(batches).values(**values, created_at=now))
        counts = [job.spec.count for job in new]
        # Jobs before usage, as in every end of a job: two who lock them the other way round would wait in a circle.
        tags = fairness.tags(connection, now, tenant.id, tenant.weight, new[0].priority, counts)
        now_s = connection.execute(sa.select(now)).scalar_one()
        quota = tenant.pictures_per_month
        period = usage.charge(connection, tenant.id, now_s, jobs=len(new), pictures=sum(counts), quota=quota)
        rows = []
        for job, finish in zip(new, tags, strict=True):
            values = _row(tenant, job, now) | {"virtual_finish": finish, "period": period}
            rows.append(connection.execute(sa.insert(table).values(values).returning(*table.c)).one())
        events.record(connection, now, rows, "generation.queued")
        wakeups.tell(connection, wakeups.WORK)
        return Accepted(tuple(Job.from_row(row) for row in rows))

    def get(self, tenant: str, job_id: str) -> Job:
        """The tenant's job. Raises NotFoundError when there is none, or it is another tenant's."""
        with self._database.read(tenant) as connection:
            return Job.from_row(_one(connection, tenant, job_id))

    def find(self, tenant: str, wanted: JobFilter, before: tuple[float, str] | None, limit: int) -> list[Job]:
        """The tenant's jobs, the newest first, those before the (created_at, id) that ``before`` names."""
        query = sa.select(table).where(owned_by(table, tenant), table.c.deleted_at.is_(None), *_conditions(wanted))
        if before is not None:
            query = query.where(sa.tuple_(table.c.created_at, table.c.id) < before)
        query = query.order_by(table.c.created_at.desc(), table.c.id.desc()).limit(limit)
        with self._database.read(tenant) as connection:
            return [Job.from_row(row) for row in connection.execute(query)]

    def changed(self, seen: Mapping[str, float]) -> dict[str, Job | None]:
        """Of the jobs by id, those updated at another time than was seen, or ended; None for those that are gone.

        For watchers, of any tenant. A job that is watched has not ended for its watcher yet, so what ended is told even
        when its last two changes bear the same time; and times are compared for being other, not later, because a
        change that waited for the row bears the time at which it began to wait.
        """
        found: dict[str, Job | None] = {}
        ids = list(seen)
        for first in range(0, len(ids), _LOOKED_AT_TOGETHER):
            found |= self._changed({job_id: seen[job_id] for job_id in ids[first : first + _LOOKED_AT_TOGETHER]})
        return found

    def _changed(self, seen: Mapping[str, float]) -> dict[str, Job | None]:
        look = sa.select(table.c.id, table.c.updated_at, table.c.finished_at, table.c.deleted_at)
        with self._database.read() as connection:
            rows = {row.id: row for row in connection.execute(look.where(table.c.id.in_(seen)))}
            gone = [job_id for job_id in seen if job_id not in rows or rows[job_id].deleted_at is not None]
            new = [i for i, row in rows.items() if row.updated_at != seen[i] or row.finished_at is not None]
            jobs = connection.execute(sa.select(table).where(table.c.id.in_(new))) if new else ()
            return {row.id: Job.from_row(row) for row in jobs} | dict.fromkeys(gone)

    def events_after(self, tenant: str, job_id: str, last_id: int) -> list[events.Event]:
        """What happened to the job after the event with ``last_id``. Raises NotFoundError."""
        with self._database.read(tenant) as connection:
            _one(connection, tenant, job_id)
            return events.after(connection, tenant, job_id, last_id)

    def request_cancel(self, tenant: str, job_id: str) -> Job:
        """Cancel the tenant's job: a queued one now, a running one when its worker hears of it. An ended one stays.

        Raises NotFoundError when there is none, or it is another tenant's.
        """
        with self._database.write(tenant) as connection:
            _one(connection, tenant, job_id)
            _cancel(connection, self._clock(), sa.and_(table.c.id == job_id, owned_by(table, tenant)))
            return Job.from_row(_one(connection, tenant, job_id))

    def cancel_batch(self, tenant: str, batch_id: str) -> None:
        """Cancel all jobs of a batch that have not ended."""
        with self._database.write(tenant) as connection:
            tenants.hold(
                connection, tenant
            )  # or a new job that moves the waiting ones could lock them in another order
            _cancel(connection, self._clock(), sa.and_(table.c.batch_id == batch_id, owned_by(table, tenant)))

    def delete(self, tenant: str, job_id: str) -> None:
        """Let the job be gone for its tenant at once, with its photo and pictures; a running one is canceled.

        The housekeeper removes what it left in the result store. Raises NotFoundError.
        """
        now = self._clock()
        mine = sa.and_(table.c.id == job_id, owned_by(table, tenant))
        with self._database.write(tenant) as connection:
            _one(connection, tenant, job_id)
            _cancel(connection, now, mine)
            gone = {"deleted_at": now, "expires_at": now, "updated_at": now}
            connection.execute(sa.update(table).where(mine).values(gone))


def _one(connection: sa.Connection, tenant: str, job_id: str) -> sa.Row[Any]:
    query = sa.select(table).where(table.c.id == job_id, owned_by(table, tenant), table.c.deleted_at.is_(None))
    row = connection.execute(query).one_or_none()
    if row is None:
        raise NotFoundError("there is no such generation")
    return row


def _of_resource(connection: sa.Connection, tenant: str, resource_id: str) -> tuple[Job, ...]:
    """The jobs that a job's or a batch's id stands for, in the order they came."""
    mine = sa.or_(table.c.id == resource_id, table.c.batch_id == resource_id)
    query = sa.select(table).where(owned_by(table, tenant), mine, table.c.deleted_at.is_(None))
    found = tuple(Job.from_row(row) for row in connection.execute(query.order_by(table.c.id)))
    if not found:
        raise NotFoundError("what this idempotency key stood for was deleted")
    return found


def _check_queue(connection: sa.Connection, tenant: Tenant, more: int) -> None:
    waiting = sa.and_(owned_by(table, tenant.id), table.c.status == JobStatus.QUEUED)
    queued = connection.execute(sa.select(sa.func.count()).select_from(table).where(waiting)).scalar_one()
    if queued + more > tenant.max_queued_jobs:
        raise tenants_queue_full(tenant, queued)


def _cancel(connection: sa.Connection, now: sa.ColumnElement[float], mine: sa.ColumnElement[bool]) -> None:
    canceled_now(connection, now, sa.and_(mine, table.c.status == JobStatus.QUEUED))
    running = sa.and_(mine, table.c.status == JobStatus.RUNNING)
    connection.execute(sa.update(table).where(running).values(cancel_requested=True, updated_at=now))


def _conditions(wanted: JobFilter) -> list[sa.ColumnElement[bool]]:
    found: list[sa.ColumnElement[bool]] = []
    if wanted.status:
        found.append(table.c.status.in_(wanted.status))
    if wanted.created_after is not None:
        found.append(table.c.created_at > wanted.created_after)
    if wanted.created_before is not None:
        found.append(table.c.created_at < wanted.created_before)
    if wanted.batch_id is not None:
        found.append(table.c.batch_id == wanted.batch_id)
    if wanted.identity_id is not None:
        found.append(table.c.identity_id == wanted.identity_id)
    found += [table.c.metadata[name].as_string() == value for name, value in wanted.metadata.items()]
    return found


def _row(tenant: Tenant, job: NewJob, now: sa.ColumnElement[float]) -> dict[str, Any]:
    return {
        "id": job.id,
        "tenant": tenant.id,
        "status": JobStatus.QUEUED,
        "spec": job.spec.to_json(),
        "photo_key": job.photos[0],
        "photos": list(job.photos),
        "pictures": job.spec.count,
        "priority": int(job.priority),
        "attempts": 0,
        "max_attempts": job.max_attempts,
        "fence": 0,
        "not_before": now,
        "deadline_at": None if job.deadline_s is None else now + job.deadline_s,
        "cancel_requested": False,
        "step": 0,
        "steps": job.spec.steps * job.spec.count,
        "images": [],
        "timings": {},
        "metadata": dict(job.metadata),
        "webhook": job.webhook,
        "batch_id": job.batch_id,
        "identity_id": job.identity_id,
        "retention_s": min(job.retention_s or tenant.retention_s, tenant.retention_s),
        "created_at": now,
        "updated_at": now,
    }
