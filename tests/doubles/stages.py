"""Stages in this process that do as they are told: wait, fail in turn, die, hang."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import random
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import numpy as np

from instantid_serve.messages import GenerationSpec, PictureStats, Progress, Request, StoredImage
from instantid_serve.service.dispatcher import Dispatcher
from instantid_serve.service.generation import Finished, Subject
from instantid_serve.service.job import Job
from instantid_serve.service.job_queue import JobQueue
from instantid_serve.service.jobs import Jobs
from instantid_serve.settings import DispatcherSettings

STATS = PictureStats(0.1, 0.2, 0.3, 0.4, 10, 2.0, 4)


class HandStages:
    """Stages moved by hand.

    ``faults[stage]`` are raised in turn; then all is well. While ``gate`` is clear, generations wait after step 1.
    """

    def __init__(self) -> None:
        self.faults: dict[str, collections.deque[BaseException]] = collections.defaultdict(collections.deque)
        self.gate = asyncio.Event()
        self.gate.set()
        self.calls: collections.Counter[str] = collections.Counter()
        self.running: set[str] = set()
        self.most_running = 0
        self.published: dict[str, int] = {}

    async def analyze(self, photos: tuple[str, ...], spec: GenerationSpec) -> Subject:  # noqa: ARG002
        self._call("analyze")
        return Subject(np.ones(512, np.float32), np.zeros((5, 2), np.float32))

    async def generate(self, request: Request) -> AsyncIterator[Progress | Finished]:
        self.running.add(request.id)
        self.most_running = max(self.most_running, len(self.running))
        try:
            yield Progress(1, request.steps, 2)
            self._call("generate")
            await self.gate.wait()
            for step in range(2, request.steps + 1):
                yield Progress(step, request.steps, 2)
            yield Finished(f"pixels of {request.id}", STATS)
        finally:
            self.running.discard(request.id)

    async def publish(self, finished: Finished, key: str, spec: GenerationSpec, seed: int) -> StoredImage:
        self._call("publish")
        assert str(finished.pixels).removeprefix("pixels of ") not in self.running  # the stream was closed first
        self.published[key] = seed
        return StoredImage(key, f"image/{spec.output_format}", 1, "0" * 64, spec.width, spec.height, seed)

    def _call(self, stage: str) -> None:
        self.calls[stage] += 1
        if self.faults[stage]:
            raise self.faults[stage].popleft()


class SilentStages(HandStages):
    """Generations that end without a picture."""

    async def generate(self, request: Request) -> AsyncIterator[Progress | Finished]:
        self._call("generate")
        yield Progress(1, request.steps, 2)


class ChaoticStages(HandStages):
    """Every call may be slow, may hang, or may fail with one of the errors given."""

    def __init__(self, seed: int, errors: list[type[BaseException]], chance: float) -> None:
        super().__init__()
        self._random = random.Random(seed)
        self._errors = errors
        self._chance = chance

    async def analyze(self, photos: tuple[str, ...], spec: GenerationSpec) -> Subject:
        await self._perhaps()
        return await super().analyze(photos, spec)

    async def generate(self, request: Request) -> AsyncIterator[Progress | Finished]:
        async with contextlib.aclosing(super().generate(request)) as messages:
            async for message in messages:
                await self._perhaps()
                yield message

    async def publish(self, finished: Finished, key: str, spec: GenerationSpec, seed: int) -> StoredImage:
        await self._perhaps()
        return await super().publish(finished, key, spec, seed)

    async def _perhaps(self) -> None:
        await asyncio.sleep(self._random.random() * 0.002)
        if self._random.random() < self._chance:
            error = self._random.choice([*self._errors, None])
            if error is None:
                await asyncio.sleep(3600)  # hangs: the stage's timeout ends it
            else:
                raise error("chaos")


def quick(**changes: Any) -> DispatcherSettings:
    """Settings with everything short."""
    values = {
        "lease_s": 3.0,
        "heartbeat_s": 0.05,
        "poll_s": 0.01,
        "stage_timeout_s": 60.0,
        "release_delay_s": 0.01,
        "drain_timeout_s": 0.2,
    }
    return DispatcherSettings(**values | changes)


@contextlib.asynccontextmanager
async def dispatching(
    queue: JobQueue, stages: HandStages, worker: str = "w1", **changes: Any
) -> AsyncIterator[Dispatcher]:
    """A dispatcher at work; stopped at the end."""
    dispatcher = Dispatcher(queue, stages, quick(**changes), worker)
    running = asyncio.create_task(dispatcher.run())
    try:
        yield dispatcher
    finally:
        await dispatcher.stop()
        await running


async def until(true: Callable[[], bool], timeout_s: float = 20.0) -> None:
    """Wait until something is true. Raises TimeoutError."""
    deadline = time.monotonic() + timeout_s
    while not true():
        if time.monotonic() > deadline:
            raise TimeoutError
        await asyncio.sleep(0.01)


async def ended(jobs: Jobs, job: Job) -> Job:
    """The job, when it has ended."""
    await until(lambda: jobs.get(job.tenant, job.id).status.terminal)
    return jobs.get(job.tenant, job.id)
