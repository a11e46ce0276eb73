"""How long waiting and running jobs still take, from the queue and the speed that its workers measured.

The queue is looked at once for everybody: what was seen answers for a second, so that a thousand callers who ask where
their jobs stand cost the database no more than one.
"""

from __future__ import annotations

import bisect
import dataclasses
import itertools
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence

import sqlalchemy as sa

from instantid_serve.errors import UnavailableError
from instantid_serve.service.database import Clock, Database
from instantid_serve.service.job import Job, JobStatus
from instantid_serve.service.tables import jobs, workers

_WORKER_LOST_S = 15.0
_REMEMBERED_S = 1.0
_LOOKED_AT = 50_000  # jobs; whoever is behind them is told that so many are before it

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, slots=True)
class Outlook:
    """Where a job stands: jobs before it, and seconds until it is done (None while nothing was measured)."""

    position: int
    eta_s: float | None


@dataclasses.dataclass(frozen=True, slots=True)
class _Queue:
    """The queue at one moment. ``steps_before[i]``: those of the jobs before place i; it has one place more."""

    places: Mapping[str, int]
    virtual_finishes: Sequence[float]
    steps_before: Sequence[int]
    steps_per_s: float = 0.0
    step_s: float = 0.0


class Outlooks:
    """Answers for any tenant's jobs; thread-safe. ``monotonic`` is the process's clock unless a test has its own."""

    def __init__(
        self, database: Database, clock: Clock | None = None, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._database = database
        self._clock = clock or database.now
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._queue = _Queue({}, (), (0,))
        self._due_s = -1.0

    def of(self, job: Job) -> Outlook | None:
        """How long the job still takes; None when it has ended. Blocks about once a second.

        While the database is away the answer is from what was seen before: nobody's job fails for its outlook.
        """
        if job.status.terminal:
            return None
        queue = self._current()
        place = 0
        if job.status is JobStatus.QUEUED:
            place = queue.places.get(job.id, bisect.bisect_left(queue.virtual_finishes, job.virtual_finish))
        if not queue.steps_per_s or not queue.step_s:
            return Outlook(place, None)
        own_s = (job.steps - job.step) / job.spec.count * queue.step_s  # its pictures are made side by side
        return Outlook(place, round(queue.steps_before[place] / queue.steps_per_s + own_s, 1))

    def _current(self) -> _Queue:
        # While one looks, the others take what was seen before: a slow database holds up no more than one of them.
        if self._monotonic() >= self._due_s and self._lock.acquire(blocking=self._due_s < 0):
            try:
                if self._monotonic() >= self._due_s:
                    self._queue = self._look()
            except UnavailableError:
                log.warning("the queue could not be looked at")
            finally:
                self._due_s = max(self._due_s, self._monotonic() + _REMEMBERED_S)
                self._lock.release()
        return self._queue

    def _look(self) -> _Queue:
        turn = (jobs.c.virtual_finish, jobs.c.created_at, jobs.c.id)
        waiting = sa.select(jobs.c.id, jobs.c.virtual_finish, jobs.c.steps).where(jobs.c.status == JobStatus.QUEUED)
        alive = workers.c.seen_at > self._clock() - _WORKER_LOST_S
        speed = sa.select(sa.func.sum(workers.c.steps_per_s), sa.func.max(workers.c.step_s)).where(alive)
        with self._database.read() as connection:
            rows = connection.execute(waiting.order_by(*turn).limit(_LOOKED_AT)).all()
            steps_per_s, step_s = connection.execute(speed).one()
        return _Queue(
            places={row.id: place for place, row in enumerate(rows)},
            virtual_finishes=[row.virtual_finish for row in rows],
            steps_before=[*itertools.accumulate((row.steps for row in rows), initial=0)],
            steps_per_s=steps_per_s or 0.0,
            step_s=step_s or 0.0,
        )
