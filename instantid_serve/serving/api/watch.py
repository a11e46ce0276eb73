"""Follows jobs for those who wait for them: one look at the database for all of them, however many wait for each.

Where the database tells of changes (PostgreSQL) the look comes at once; elsewhere, and because a word can be lost, it
also comes every now and then. Nothing is queued for a follower: it is told that its job changed, and takes the job as
it then is. So one who reads slowly costs nobody anything.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import time
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from instantid_serve.errors import NotFoundError, UnavailableError
from instantid_serve.service import wakeups
from instantid_serve.service.backoff import backoff_s
from instantid_serve.service.database import Database
from instantid_serve.service.job import Job
from instantid_serve.service.jobs import Jobs

_THREADS = 2  # one looks for all while another reads for one who begins
_POLL_WHEN_TOLD_S = 1.0  # progress is told by nobody, and comes with heartbeats

P = ParamSpec("P")
R = TypeVar("R")
log = logging.getLogger(__name__)


class _Watched:
    """One job, as it was last seen, and those who follow it."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.gone = False
        self.followers: set[asyncio.Event] = set()

    def wake(self) -> None:
        for follower in self.followers:
            follower.set()


class Follower:
    """One who follows a job."""

    def __init__(self, watched: _Watched, woken: asyncio.Event) -> None:
        self._watched = watched
        self._woken = woken

    @property
    def job(self) -> Job:
        """The job as it was last seen."""
        return self._watched.job

    async def change(self, timeout_s: float) -> bool:
        """Wait until the job is another than at the last call; False when time is up.

        Raises NotFoundError once the job is deleted.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._woken.wait()
        if self._watched.gone:
            raise NotFoundError("there is no such generation")
        changed = self._woken.is_set()
        self._woken.clear()
        return changed


class Watch:
    """All the jobs that are followed in one replica. Belongs to the event loop that first uses it."""

    def __init__(self, database: Database, jobs: Jobs, poll_s: float) -> None:
        self._database = database
        self._jobs = jobs
        self._poll_s = max(poll_s, _POLL_WHEN_TOLD_S) if database.is_postgresql else poll_s
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="watch")
        self._watched: dict[str, _Watched] = {}
        self._told: set[str] = set()
        self._look = asyncio.Event()
        self._looking: asyncio.Task[None] | None = None
        self._listener: wakeups.Listener | None = None

    async def ask(self, question: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Run a blocking question to the database on the threads of those who wait: it never takes others' threads."""
        call = functools.partial(question, *args, **kwargs)
        return await asyncio.get_running_loop().run_in_executor(self._threads, call)

    @contextlib.contextmanager
    def follow(self, job: Job) -> Iterator[Follower]:
        """Follow a job that has not ended, from what the caller knows of it."""
        watched = self._watched.get(job.id)
        if watched is None:
            watched = self._watched[job.id] = _Watched(job)
        woken = asyncio.Event()
        if watched.job != job:  # seen by others, earlier or later than by the caller
            woken.set()
        watched.followers.add(woken)
        self._begin()
        self._hear(job.id)  # whatever became of it since the caller looked
        try:
            yield Follower(watched, woken)
        finally:
            watched.followers.discard(woken)
            if not watched.followers and self._watched.get(job.id) is watched:
                del self._watched[job.id]

    async def ended(self, job: Job, timeout_s: float) -> Job:
        """The job as it is when it has ended, or after ``timeout_s`` seconds. An outage meanwhile is no error."""
        ends = time.monotonic() + timeout_s
        if job.status.terminal:
            return job
        with self.follow(job) as follower:
            while not follower.job.status.terminal and (left := ends - time.monotonic()) > 0:
                try:
                    await follower.change(left)
                except NotFoundError:  # deleted while it was waited for: this is the last that is known of it
                    break
            return follower.job

    def close(self) -> None:
        """End the listener's thread, if there is one."""
        if self._listener is not None:
            self._listener.close()
        self._threads.shutdown(wait=False)

    def _begin(self) -> None:
        loop = asyncio.get_running_loop()
        if self._looking is None or self._looking.done():
            self._looking = loop.create_task(self._keep_looking(), name="watch")
        if self._listener is None and self._database.is_postgresql:

            def heard(_channel: str, job_id: str) -> None:
                with contextlib.suppress(RuntimeError):  # the loop is closed: the replica ends
                    loop.call_soon_threadsafe(self._hear, job_id)

            self._listener = wakeups.listen(self._database, [wakeups.CHANGES], heard)

    def _hear(self, job_id: str) -> None:
        if job_id in self._watched:
            self._told.add(job_id)
            self._look.set()

    async def _keep_looking(self) -> None:
        """Ends with the last follower, so an idle replica asks nothing."""
        failures, all_due = 0, 0.0
        while self._watched:
            everything = time.monotonic() >= all_due
            if everything:
                all_due = time.monotonic() + self._poll_s
            ids, self._told = set(self._watched) if everything else self._told, set()
            try:
                await self._look_at(ids)
                failures = 0
            except UnavailableError as error:  # who waits goes on waiting
                failures += 1
                log.warning("looking after followed jobs failed: %s", type(error).__name__)
            except Exception:
                # Whatever it is, those who follow must not wait for ever.
                failures += 1
                log.exception("looking after followed jobs failed")
            await self._rest(failures)

    async def _look_at(self, ids: Collection[str]) -> None:
        followed = {job_id: watched for job_id in ids if (watched := self._watched.get(job_id))}
        seen = {
            job_id: watched.job.updated_at
            for job_id, watched in followed.items()
            if not (watched.job.status.terminal or watched.gone)
        }
        for job_id, job in (await self.ask(self._jobs.changed, seen)).items() if seen else ():
            watched = followed[job_id]
            if job is None:
                watched.gone = True
            else:
                watched.job = job
            watched.wake()

    async def _rest(self, failures: int) -> None:
        if failures:
            await asyncio.sleep(backoff_s(failures))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._poll_s):
                await self._look.wait()
        self._look.clear()
