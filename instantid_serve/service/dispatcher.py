"""Drives jobs through the stages: claims them, keeps their leases alive, and settles each once.

It may be killed at any line. What it held is claimed again when the leases run out, and whatever it still tries to
write is refused by the fence.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
from collections.abc import Iterable
from functools import partial
from typing import Any

from instantid_serve.errors import (
    DatabaseError,
    DeadlineError,
    GenerationFailedError,
    InstantIDError,
    OverloadedError,
    StaleFenceError,
    StoppedError,
    UnavailableError,
)
from instantid_serve.log_context import logged
from instantid_serve.log_lines import described
from instantid_serve.service.backoff import backoff_s
from instantid_serve.service.fairness import Room
from instantid_serve.service.generation import Stages
from instantid_serve.service.job_queue import JobQueue
from instantid_serve.service.pace import Pace
from instantid_serve.service.work import Stop, Work
from instantid_serve.settings import DispatcherSettings

_log = logging.getLogger(__name__)

_LONGEST_RELEASE_S = 30.0
_LAST_WRITES_S = 5.0  # after the drain, for handing jobs back


class Dispatcher:
    """One worker of the queue. ``worker`` names it in the jobs' rows; nothing depends on the name being unique."""

    def __init__(
        self,
        jobs: JobQueue,
        stages: Stages,
        settings: DispatcherSettings,
        worker: str,
        *,
        tenant_pictures: int | None = None,
    ) -> None:
        """``tenant_pictures``: what a tenant may have running whose row says nothing."""
        self._jobs = jobs
        self._tenant_pictures = tenant_pictures
        self._pace = Pace(settings.max_pictures_in_flight)
        self._stages = stages
        self._settings = settings
        self._worker = worker
        self._held: dict[Work, asyncio.Task[None]] = {}
        self._stopping = False
        self._changed = asyncio.Event()  # a job ended, or the dispatcher is to stop
        self._idle = asyncio.Event()  # it does not run
        self._idle.set()

    @property
    def pictures_in_flight(self) -> int:
        """Pictures of the jobs it holds."""
        return sum(work.job.spec.count for work in self._held)

    async def run(self) -> None:
        """Work until :meth:`stop`. Outages of the database are waited out."""
        self._idle.clear()
        heart = asyncio.create_task(self._keep_leases())
        failures = 0
        try:
            while not self._stopping:
                failures = 0 if await self._claim() else failures + 1
                await self._pause(backoff_s(failures) if failures else self._settings.poll_s)
            await self._drain()
        finally:
            await _end([heart, *self._held.values()])
            self._idle.set()

    async def stop(self) -> None:
        """Claim no more, give the jobs held ``drain_timeout_s`` to end, and hand the rest back to the queue."""
        self._stopping = True
        self._changed.set()
        await self._idle.wait()

    def wake(self) -> None:
        """Look for work now: something was put into the queue. To be called on the loop's thread."""
        self._changed.set()

    def _room(self) -> Room:
        most = self._settings.max_pictures_in_flight
        left = max(most - self.pictures_in_flight, 0)
        reserved = int(most * self._settings.reserved_share)
        return Room(left, min(reserved, left), not self._held, self._tenant_pictures)

    async def _claim(self) -> bool:
        """Claim and start what there is room for; whether the database answered."""
        room = self._room()
        if room.pictures <= 0:
            return True
        claim = partial(self._jobs.claim, self._worker, room, self._settings.lease_s)
        try:
            claims = await asyncio.to_thread(claim)
        except Exception as error:  # noqa: BLE001 - the loop outlives every fault, or queued jobs wait for ever
            _log.warning("claiming failed", extra={"worker": self._worker, **described(error)})
            return False
        for claimed in claims:
            job = claimed.job
            with logged(job_id=job.id, tenant=job.tenant, attempt=job.attempts, fence=claimed.fence):  # for both tasks
                work = Work(claimed, self._stages, self._settings.stage_timeout_s)
                self._held[work] = asyncio.create_task(self._see_through(work))
                _log.info("job claimed")
        return True

    async def _pause(self, timeout_s: float) -> None:
        """Sleep, unless there is news. News that came before counts."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._changed.wait(), timeout_s)
        if not self._stopping:
            self._changed.clear()

    async def _keep_leases(self) -> None:
        while True:
            await asyncio.sleep(self._settings.heartbeat_s)
            works = {(work.job.id, work.fence): work for work in self._held}
            beats = [work.beat for work in works.values()]
            steps = {beat.id: beat.step for beat in beats}
            speed = self._pace.measure(asyncio.get_running_loop().time(), steps, self.pictures_in_flight)
            try:
                pulse = await asyncio.to_thread(self._jobs.heartbeat, beats, self._settings.lease_s)
                await asyncio.to_thread(self._jobs.report, self._worker, speed)
            except Exception as error:  # noqa: BLE001 - without a heart every job would be lost
                _log.warning("heartbeat failed", extra={"worker": self._worker, **described(error)})
                continue
            for claim in pulse.canceled:
                works[claim].stop(Stop.CANCELED)
            for claim in pulse.lost:
                works[claim].stop(Stop.LOST)

    async def _see_through(self, work: Work) -> None:
        """Wait for a job's work, write how it ended, and forget it."""
        try:
            settle = await self._conclusion(work)
            await self._write(work, settle)
        except Exception as error:  # noqa: BLE001 - the job is claimed again when its lease runs out
            _log.exception("a job's end could not be written", extra=described(error), exc_info=False)
        finally:
            await _end([work.task])
            del self._held[work]
            self._changed.set()

    async def _conclusion(self, work: Work) -> partial[None]:
        """How the work ended, as the call that writes it."""
        job_id, fence = work.job.id, work.fence
        await asyncio.wait({work.task})
        if work.stopped is Stop.CANCELED:
            return partial(self._jobs.settle_canceled, job_id, fence)
        if work.stopped is Stop.EXPIRED:
            late = DeadlineError("the deadline passed before the pictures were done")
            return partial(self._jobs.settle_expired, job_id, fence, late.to_json())
        if work.stopped is not None:  # a lost job's release is refused, by _write or by the fence
            return partial(self._jobs.release, job_id, fence)
        if work.task.cancelled():  # nobody here did that: something in a stage was torn down
            return self._failure(work, UnavailableError("a stage was torn down"))
        if error := work.task.exception():
            return self._failure(work, error)
        result = work.task.result()
        return partial(self._jobs.settle_succeeded, job_id, fence, result.images, result.timings, result.provenance)

    def _failure(self, work: Work, error: BaseException) -> partial[None]:
        """What an error means for the job. The most specific comes first."""
        jobs, job_id, fence = self._jobs, work.job.id, work.fence
        _log.info("work failed", extra=described(error))
        delay_s = min(self._settings.release_delay_s * 2.0 ** (work.job.attempts - 1), _LONGEST_RELEASE_S)
        match error:
            case DeadlineError():
                return partial(jobs.settle_expired, job_id, fence, error.to_json())
            case StoppedError():
                return partial(jobs.settle_canceled, job_id, fence)
            case OverloadedError():  # refused before it began, so that is no attempt
                return partial(jobs.release, job_id, fence, delay_s=delay_s)
            case UnavailableError():
                return partial(jobs.release, job_id, fence, delay_s=delay_s, cause=error.to_json())
            case InstantIDError():
                return partial(jobs.settle_failed, job_id, fence, error.to_json())
        unexpected = GenerationFailedError("the generation failed")
        return partial(jobs.settle_failed, job_id, fence, unexpected.to_json())

    async def _write(self, work: Work, settle: partial[None]) -> None:
        """Write how a job ended; while the database is away, again and again until another worker holds the job."""
        for tries in itertools.count(1):
            if work.stopped is Stop.LOST:
                _log.warning("job lost to another worker")
                return
            try:
                await asyncio.to_thread(settle)
            except StaleFenceError:
                work.stopped = Stop.LOST
            except DatabaseError as error:
                _log.warning("settling failed", extra=described(error))
                await asyncio.sleep(backoff_s(tries))
            else:
                _log.info("job settled", extra={"outcome": settle.func.__name__})
                return

    async def _drain(self) -> None:
        await self._wait(self._settings.drain_timeout_s)
        for work in self._held:
            work.stop(Stop.HANDED_BACK)
        await self._wait(_LAST_WRITES_S)

    async def _wait(self, timeout_s: float) -> None:
        if self._held:
            await asyncio.wait(self._held.values(), timeout=timeout_s)


async def _end(tasks: Iterable[asyncio.Task[Any]]) -> None:
    tasks = list(tasks)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
