"""The jobs as workers see them: a queue whose entries are claimed, kept alive and settled.

A worker claims jobs for as long as its lease lasts, keeps the lease with heartbeats, and settles each once. A worker
that falls silent loses its jobs to another when the lease runs out. The fence grows with every claim, and whatever a
worker writes must name the current one, so a worker that was only slow changes nothing any more.

Everything here is synchronous and raises DatabaseError when the database does not answer; asynchronous callers use
``asyncio.to_thread``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from instantid_serve.errors import AttemptsExhaustedError, DeadlineError, StaleFenceError
from instantid_serve.messages import StoredImage
from instantid_serve.service import events, fairness, wakeups
from instantid_serve.service.database import Clock, Database
from instantid_serve.service.fairness import Room
from instantid_serve.service.job import Beat, Claim, Job, JobStatus, Pulse, Speed
from instantid_serve.service.job_rows import canceled_now, end
from instantid_serve.service.tables import jobs as table
from instantid_serve.service.tables import workers


class JobQueue:
    """The queue in a database's jobs, for workers.

    ``clock`` is the database's own unless a test moves time by hand. A job is tried at most ``max_attempts`` times,
    if it does not say otherwise; then it is quarantined: failed, and never tried again.

    ``reclaimed`` is told how many jobs were just taken from silent workers, ``refused`` of every settle that named an
    old fence; both on the thread that called.
    """

    def __init__(
        self,
        database: Database,
        clock: Clock | None = None,
        *,
        max_attempts: int = 3,
        reclaimed: Callable[[int], object] = lambda _jobs: None,
        refused: Callable[[], object] = lambda: None,
    ) -> None:
        self._database = database
        self._clock = clock or database.now
        self._max_attempts = max_attempts
        self._reclaimed = reclaimed
        self._refused = refused

    def claim(self, worker: str, room: Room, lease_s: float) -> list[Claim]:
        """Take the jobs that there is ``room`` for, for ``lease_s`` seconds, fairly between tenants."""
        now = self._clock()
        due, lapsed = self._look(now)
        if lapsed:
            self.tidy()
        elif not due:
            return []
        statement = (
            sa.update(table)
            .where(table.c.id.in_(fairness.next_in_turn(now, room)))
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
            rows = connection.execute(statement).all()
            if rows:
                fairness.advance(connection, max(row.virtual_finish for row in rows))
            events.record(connection, now, rows, "generation.running")
        claimed = sorted((Job.from_row(row) for row in rows), key=lambda job: (job.virtual_finish, job.created_at))
        return [Claim(job, job.fence) for job in claimed]

    def tidy(self) -> None:
        """End what is past its deadline, and put the jobs of silent workers back; claiming does so, too."""
        with self._database.write() as connection:
            reclaimed = self._tidy(connection, self._clock())
        if reclaimed:  # counted once it is committed
            self._reclaimed(reclaimed)

    def _look(self, now: sa.ColumnElement[float]) -> tuple[bool, bool]:
        """Whether a job can be claimed, and whether one is past its deadline or its lease.

        Without the writer's lock: idle workers poll, and must not be in the way of those that write.
        """
        lapsed = sa.or_(sa.exists().where(_late(now)), sa.exists().where(fairness.lease_expired(now)))
        with self._database.read() as connection:
            row = connection.execute(sa.select(sa.exists().where(fairness.due(now)), lapsed)).one()
        return bool(row[0]), bool(row[1])

    def _tidy(self, connection: sa.Connection, now: sa.ColumnElement[float]) -> int:
        """How many jobs were taken from silent workers. Their fences move on: those workers hold them no more."""
        deadline = DeadlineError("the deadline passed before a worker was free").to_json()
        end(connection, now, _late(now), JobStatus.EXPIRED, error=deadline)
        silent, moved = fairness.lease_expired(now), {"fence": table.c.fence + 1}
        taken = len(canceled_now(connection, now, sa.and_(silent, table.c.cancel_requested)))
        most = sa.func.coalesce(table.c.max_attempts, self._max_attempts)
        spent = sa.and_(silent, table.c.attempts >= most)
        for attempts in connection.execute(sa.select(most).where(spent).distinct()).scalars().all():
            error = _exhausted(attempts, "worker_lost")
            which = sa.and_(spent, most == attempts)
            taken += len(end(connection, now, which, JobStatus.FAILED, error=error, **moved))
        back = {"status": JobStatus.QUEUED, "worker": None, "lease_until": None, "step": 0, "updated_at": now}
        statement = sa.update(table).where(silent).values(back | moved).returning(*table.c)
        rows = connection.execute(statement).all()
        events.record(connection, now, rows, "generation.retrying")
        return taken + len(rows)

    def heartbeat(self, beats: Sequence[Beat], lease_s: float) -> Pulse:
        """Renew the leases of the claims that still hold, with their progress, and hear what became of the rest."""
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

    def report(self, worker: str, speed: Speed) -> None:
        """Say how fast a worker's pictures go on: from it the waiting time of others is told."""
        now = self._clock()
        values = {
            "seen_at": now,
            "pictures": speed.pictures,
            "max_pictures": speed.max_pictures,
            "steps_per_s": speed.steps_per_s,
            "step_s": speed.step_s,
        }
        with self._database.write() as connection:
            known = connection.execute(sa.update(workers).where(workers.c.id == worker).values(values))
            if not known.rowcount:
                connection.execute(sa.insert(workers).values(values | {"id": worker}))

    def settle_succeeded(
        self,
        job_id: str,
        fence: int,
        images: Sequence[StoredImage],
        timings: Mapping[str, float],
        provenance: Mapping[str, Any] | None = None,
    ) -> None:
        """Commit the result. Raises StaleFenceError when the job is not this claim's any more."""
        values = {"images": [image.to_json() for image in images], "timings": dict(timings), "step": table.c.steps}
        values["provenance"] = None if provenance is None else dict(provenance)
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
            query = sa.select(table.c.attempts, table.c.max_attempts, table.c.cancel_requested)
            row = connection.execute(query.where(held).with_for_update()).one_or_none()
            if row is None:
                raise self._stale(job_id, fence)
            most = row.max_attempts or self._max_attempts
            if row.cancel_requested:
                canceled_now(connection, now, held)
            elif cause is not None and row.attempts >= most:
                end(connection, now, held, JobStatus.FAILED, error=_exhausted(most, str(cause.get("code"))))
            else:
                values: dict[str, Any] = {"status": JobStatus.QUEUED, "worker": None, "lease_until": None, "step": 0}
                values |= {"attempts": row.attempts - (cause is None), "not_before": now + delay_s, "updated_at": now}
                rows = connection.execute(sa.update(table).where(held).values(values).returning(*table.c)).all()
                events.record(connection, now, rows, "generation.retrying")
                wakeups.tell(connection, wakeups.WORK)

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
        with self._database.write() as connection:
            if end(connection, self._clock(), _held(job_id, fence), status, **values):
                return
            # The same settle may come twice: its first answer can be lost on the way.
            same = sa.and_(table.c.id == job_id, table.c.fence == fence, table.c.status == status)
            if connection.execute(sa.select(table.c.id).where(same)).one_or_none() is None:
                raise self._stale(job_id, fence)

    def _stale(self, job_id: str, fence: int) -> StaleFenceError:
        self._refused()
        return StaleFenceError("another worker holds the job now", {"job_id": job_id, "fence": fence})


def _exhausted(attempts: int, cause: str) -> dict[str, Any]:
    return AttemptsExhaustedError(
        "the generation was tried too often", {"attempts": attempts, "cause": cause}
    ).to_json()


def _late(now: sa.ColumnElement[float]) -> sa.ColumnElement[bool]:
    return sa.and_(table.c.status == JobStatus.QUEUED, table.c.deadline_at < now)


def _held(job_id: str, fence: int) -> sa.ColumnElement[bool]:
    return sa.and_(table.c.id == job_id, table.c.fence == fence, table.c.status == JobStatus.RUNNING)
