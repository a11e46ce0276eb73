"""Jobs: what tenants asked for, durable, and the queue at the same time.

A worker claims jobs for as long as its lease lasts, keeps the lease with heartbeats, and settles each once. A worker
that falls silent loses its jobs to another when the lease runs out. The fence grows with every claim, and whatever a
worker writes must name the current one, so a worker that was only slow changes nothing any more.

Everything here is synchronous and raises DatabaseError when the database does not answer; asynchronous callers use
``asyncio.to_thread``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from instantid_serve.errors import AttemptsExhaustedError, NotFoundError, StaleFenceError
from instantid_serve.messages import GenerationSpec, StoredImage
from instantid_serve.service import fairness
from instantid_serve.service.database import Clock, Database
from instantid_serve.service.database import jobs as table
from instantid_serve.service.job import Beat, Claim, Job, JobStatus, Pulse, new_job_id

__all__ = ["Beat", "Claim", "Job", "JobStatus", "Jobs", "Pulse", "new_job_id"]


class Jobs:
    """The jobs of a database.

    ``clock`` is the database's own unless a test moves time by hand. A job is tried at most ``max_attempts`` times.
    """

    def __init__(self, database: Database, clock: Clock | None = None, *, max_attempts: int = 3) -> None:
        self._database = database
        self._clock = clock or database.now
        self._max_attempts = max_attempts

    def insert(self, tenant: str, spec: GenerationSpec, photo_key: str, job_id: str) -> Job:
        """Add a queued job; once this returns it is never lost. Raises ConflictError when the id is taken."""
        now = self._clock()
        row = {
            "id": job_id,
            "tenant": tenant,
            "status": JobStatus.QUEUED,
            "spec": spec.to_json(),
            "photo_key": photo_key,
            "pictures": spec.count,
            "attempts": 0,
            "fence": 0,
            "cancel_requested": False,
            "step": 0,
            "steps": spec.steps * spec.count,
            "images": [],
            "timings": {},
            "not_before": now,
            "created_at": now,
            "updated_at": now,
        }
        with self._database.write() as connection:
            return _job(connection.execute(sa.insert(table).values(row).returning(*table.c)).one())

    def get(self, tenant: str, job_id: str) -> Job:
        """The tenant's job. Raises NotFoundError when there is none, or it is another tenant's."""
        with self._database.read() as connection:
            query = sa.select(table).where(table.c.id == job_id, table.c.tenant == tenant)
            row = connection.execute(query).one_or_none()
        if row is None:
            raise NotFoundError("there is no such generation")
        return _job(row)

    def claim(self, worker: str, max_pictures: int, lease_s: float, *, oversized: bool = False) -> list[Claim]:
        """Take jobs of at most ``max_pictures`` pictures together, for ``lease_s`` seconds, fairly between tenants.

        Among them are jobs whose worker fell silent; those that were canceled meanwhile, or tried too often, end here.
        With ``oversized`` the first job is taken whatever its size: for a worker that holds nothing.
        """
        now = self._clock()
        if not self._any_waiting(now):
            return []
        statement = (
            sa.update(table)
            .where(table.c.id.in_(fairness.next_in_turn(now, max_pictures, oversized=oversized)))
            .values(
                status=JobStatus.RUNNING,
                attempts=table.c.attempts + 1,
                fence=table.c.fence + 1,
                worker=worker,
                lease_until=now + lease_s,
                step=0,
                started_at=sa.func.coalesce(table.c.started_at, now),
                updated_at=now,
            )
            .returning(*table.c)
        )
        with self._database.write() as connection:
            self._bury(connection, now)
            claimed = [_job(row) for row in connection.execute(statement)]
        return [Claim(job, job.fence) for job in sorted(claimed, key=lambda job: (job.created_at, job.id))]

    def _any_waiting(self, now: sa.ColumnElement[float]) -> bool:
        """A look without the writer's lock: idle workers poll, and must not be in the way of those that write."""
        query = sa.select(sa.exists().where(fairness.waiting(now)))
        with self._database.read() as connection:
            return bool(connection.execute(query).scalar_one())

    def _bury(self, connection: sa.Connection, now: sa.ColumnElement[float]) -> None:
        """End the jobs of silent workers that are not to be tried again. The fence moves on: they hold them no more."""
        expired = sa.update(table).where(fairness.lease_expired(now))
        moved = {"fence": table.c.fence + 1}
        connection.execute(expired.where(table.c.cancel_requested).values(_ended(JobStatus.CANCELED, now) | moved))
        exhausted = _ended(JobStatus.FAILED, now, error=self._exhausted("worker_lost"))
        connection.execute(expired.where(table.c.attempts >= self._max_attempts).values(exhausted | moved))

    def heartbeat(self, beats: Sequence[Beat], lease_s: float) -> Pulse:
        """Renew the leases of claimed jobs and write their progress."""
        if not beats:
            return Pulse(frozenset(), frozenset())
        now = self._clock()
        claims = {(beat.id, beat.fence) for beat in beats}
        statement = (
            sa.update(table)
            .where(sa.tuple_(table.c.id, table.c.fence).in_(sorted(claims)), table.c.status == JobStatus.RUNNING)
            .values(
                lease_until=now + lease_s,
                updated_at=now,
                step=sa.case(*((_held(beat.id, beat.fence), beat.step) for beat in beats)),
                steps=sa.case(*((_held(beat.id, beat.fence), beat.steps) for beat in beats)),
            )
            .returning(table.c.id, table.c.fence, table.c.cancel_requested)
        )
        with self._database.write() as connection:
            rows = connection.execute(statement).all()
        canceled = frozenset((row.id, row.fence) for row in rows if row.cancel_requested)
        return Pulse(canceled, frozenset(claims - {(row.id, row.fence) for row in rows}))

    def settle_succeeded(
        self, job_id: str, fence: int, images: Sequence[StoredImage], timings: Mapping[str, float]
    ) -> None:
        """Commit the result. Raises StaleFenceError when the job is not this claim's any more."""
        values = {"images": [image.to_json() for image in images], "timings": dict(timings), "step": table.c.steps}
        self._settle(job_id, fence, JobStatus.SUCCEEDED, values)

    def settle_failed(self, job_id: str, fence: int, error: Mapping[str, Any]) -> None:
        """End the job with an error's ``to_json``. Raises StaleFenceError like all settling."""
        self._settle(job_id, fence, JobStatus.FAILED, {"error": dict(error)})

    def settle_canceled(self, job_id: str, fence: int) -> None:
        """End the job as its tenant asked. Raises StaleFenceError like all settling."""
        self._settle(job_id, fence, JobStatus.CANCELED, {})

    def settle_expired(self, job_id: str, fence: int, error: Mapping[str, Any]) -> None:
        """End the job because its deadline passed. Raises StaleFenceError like all settling."""
        self._settle(job_id, fence, JobStatus.EXPIRED, {"error": dict(error)})

    def release(self, job_id: str, fence: int, *, delay_s: float = 0.0, cause: Mapping[str, Any] | None = None) -> None:
        """Put the job back into the queue, to be claimed after ``delay_s``; a canceled one ends as canceled.

        ``cause`` is the error (``to_json``) that spoiled the attempt; after the last attempt the job fails. Without a
        cause the job is handed back unharmed, and the claim does not count as an attempt. Raises StaleFenceError.
        """
        now = self._clock()
        held = _held(job_id, fence)
        with self._database.write() as connection:
            query = sa.select(table.c.attempts, table.c.cancel_requested).where(held).with_for_update()
            row = connection.execute(query).one_or_none()
            if row is None:
                raise _stale(job_id, fence)
            if row.cancel_requested:
                values = _ended(JobStatus.CANCELED, now)
            elif cause is not None and row.attempts >= self._max_attempts:
                values = _ended(JobStatus.FAILED, now, error=self._exhausted(str(cause.get("code"))))
            else:
                values = {"status": JobStatus.QUEUED, "worker": None, "lease_until": None, "step": 0}
                values |= {"attempts": row.attempts - (cause is None), "not_before": now + delay_s, "updated_at": now}
            connection.execute(sa.update(table).where(held).values(values))

    def request_cancel(self, tenant: str, job_id: str) -> Job:
        """Cancel the tenant's job: a queued one now, a running one when its worker hears of it. An ended one stays.

        Raises NotFoundError when there is none, or it is another tenant's.
        """
        now = self._clock()
        queued = table.c.status == JobStatus.QUEUED
        statement = (
            sa.update(table)
            .where(table.c.id == job_id, table.c.tenant == tenant)
            .where(table.c.status.in_([JobStatus.QUEUED, JobStatus.RUNNING]))
            .values(
                cancel_requested=True,
                status=sa.case((queued, JobStatus.CANCELED), else_=table.c.status),
                finished_at=sa.case((queued, now), else_=table.c.finished_at),
                updated_at=now,
            )
        )
        with self._database.write() as connection:
            connection.execute(statement)
        return self.get(tenant, job_id)

    def counts(self) -> dict[JobStatus, int]:
        """How many jobs are in each status, all tenants together."""
        with self._database.read() as connection:
            rows = connection.execute(sa.select(table.c.status, sa.func.count()).group_by(table.c.status)).all()
        found: dict[str, int] = {row[0]: row[1] for row in rows}
        return {status: found.get(status, 0) for status in JobStatus}

    def oldest_queued_age_s(self) -> float:
        """How long the oldest queued job has waited, in seconds; 0 when none waits."""
        query = sa.select(self._clock() - sa.func.min(table.c.created_at)).where(table.c.status == JobStatus.QUEUED)
        with self._database.read() as connection:
            return max(0.0, connection.execute(query).scalar_one() or 0.0)

    def _settle(self, job_id: str, fence: int, status: JobStatus, values: Mapping[str, Any]) -> None:
        ended = _ended(status, self._clock(), **values)
        with self._database.write() as connection:
            if connection.execute(sa.update(table).where(_held(job_id, fence)).values(ended)).rowcount:
                return
            # The same settle may come twice: its first answer can be lost on the way.
            same = sa.and_(table.c.id == job_id, table.c.fence == fence, table.c.status == status)
            if connection.execute(sa.select(table.c.id).where(same)).one_or_none() is None:
                raise _stale(job_id, fence)

    def _exhausted(self, cause: str) -> dict[str, Any]:
        facts = {"attempts": self._max_attempts, "cause": cause}
        return AttemptsExhaustedError("the generation was tried too often", facts).to_json()


def _held(job_id: str, fence: int) -> sa.ColumnElement[bool]:
    return sa.and_(table.c.id == job_id, table.c.fence == fence, table.c.status == JobStatus.RUNNING)


def _ended(status: JobStatus, now: sa.ColumnElement[float], **values: object) -> dict[str, Any]:
    return {"status": status, "updated_at": now, "finished_at": now, "lease_until": None, **values}


def _stale(job_id: str, fence: int) -> StaleFenceError:
    return StaleFenceError("another worker holds the job now", {"job_id": job_id, "fence": fence})


def _job(row: sa.Row[Any]) -> Job:
    values = {field.name: getattr(row, field.name) for field in dataclasses.fields(Job)}
    values["status"] = JobStatus(row.status)
    values["spec"] = GenerationSpec.from_json(row.spec)
    values["images"] = tuple(StoredImage(**image) for image in row.images)
    return Job(**values)
