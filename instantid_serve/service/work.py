"""One claimed job on its way through the stages: analyze, then generate and publish every picture."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import enum
import itertools
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

from instantid_serve.errors import EngineStoppedError, StoreError, UnavailableError
from instantid_serve.messages import Progress, Request, StoredImage
from instantid_serve.service.backoff import backoff_s
from instantid_serve.service.generation import Finished, Stages, provenance, requests_for
from instantid_serve.service.job import Beat, Claim
from instantid_serve.service.results import image_key

T = TypeVar("T")


class Stop(enum.Enum):
    """Why work was stopped before it was done."""

    CANCELED = "canceled"  # the tenant asked
    EXPIRED = "expired"  # the deadline passed
    LOST = "lost"  # another worker may hold the job now: write nothing
    HANDED_BACK = "handed_back"  # this worker is stopping


@dataclasses.dataclass(frozen=True, slots=True)
class Result:
    """A job's pictures, the seconds its stages took, and what made them."""

    images: tuple[StoredImage, ...]
    timings: dict[str, float]
    provenance: dict[str, Any]


class Work:
    """The making of one claimed job's pictures, as a task that starts at once. Its owner asks or stops it."""

    def __init__(self, claim: Claim, stages: Stages, stage_timeout_s: float) -> None:
        self.job = claim.job
        self.fence = claim.fence
        self.stopped: Stop | None = None
        self._stages = stages
        self._stage_timeout_s = stage_timeout_s
        spec = claim.job.spec
        self._progress = [Progress(0, spec.steps, 0)] * spec.count
        self._provenance: dict[str, Any] = {}
        loop = asyncio.get_running_loop()
        self._deadline_s: float | None = None  # on the loop's clock
        if claim.job.deadline_at is not None:
            self._deadline_s = loop.time() + claim.job.deadline_at - claim.job.updated_at  # claimed just now
            loop.call_at(self._deadline_s, self.stop, Stop.EXPIRED)
        self.task = asyncio.create_task(self._make())

    @property
    def beat(self) -> Beat:
        """Its progress, summed over its pictures."""
        steps = sum(progress.steps for progress in self._progress)
        return Beat(self.job.id, self.fence, sum(progress.step for progress in self._progress), steps)

    def stop(self, reason: Stop) -> None:
        """Stop the stages now. The first reason stands; work that is done stays done."""
        if self.stopped is None and not self.task.done():
            self.stopped = reason
            self.task.cancel()

    async def _make(self) -> Result:
        job, clock = self.job, time.monotonic
        began = clock()
        async with self._limited("analyze"):
            subject = await _through_outages(lambda: self._stages.analyze(job.photos, job.spec))
        analyzed = clock()
        try:
            async with asyncio.TaskGroup() as group:
                requests = enumerate(requests_for(job, subject, self._deadline_s))
                tasks = [group.create_task(self._picture(index, request)) for index, request in requests]
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from None  # the first failure stopped the others
        images, generated, published = zip(*(task.result() for task in tasks), strict=True)
        timings = {
            "queue_s": max(0.0, job.updated_at - job.created_at),
            "analyze_s": analyzed - began,
            "generate_s": max(generated) - analyzed,  # pictures are made side by side: the slowest counts
            "publish_s": max(published),
        }
        return Result(images, timings, self._provenance)

    async def _picture(self, index: int, request: Request) -> tuple[StoredImage, float, float]:
        """Make and publish one picture; also when it was generated, and how long publishing took (seconds)."""
        async with self._limited("generate"):
            finished = await self._generate(index, request)
        self._provenance = provenance(self.job, request.sampler, finished.made_with)
        generated = time.monotonic()
        job = self.job
        key = image_key(job.tenant, job.id, self.fence, index, job.spec.output_format)
        async with self._limited("publish"):
            image = await _through_outages(lambda: self._stages.publish(finished, key, job.spec, request.seed))
        stats = dataclasses.asdict(finished.stats) | dict(image.stats)
        return dataclasses.replace(image, stats=stats), generated, time.monotonic() - generated

    async def _generate(self, index: int, request: Request) -> Finished:
        messages = self._stages.generate(request)
        try:
            async for message in messages:
                if isinstance(message, Finished):
                    return message
                self._progress[index] = message
        finally:  # leaving early closes the stream, which tells the engine to drop the request
            if isinstance(messages, AsyncGenerator):
                await messages.aclose()
        raise EngineStoppedError("the generation ended without a picture")

    @contextlib.asynccontextmanager
    async def _limited(self, stage: str) -> AsyncIterator[None]:
        """A stage that does not answer in time counts as one that died."""
        try:
            async with asyncio.timeout(self._stage_timeout_s):
                yield
        except TimeoutError as error:
            facts = {"stage": stage, "timeout_s": self._stage_timeout_s}
            raise UnavailableError("a stage did not answer in time", facts) from error


async def _through_outages(call: Callable[[], Awaitable[T]]) -> T:
    """Wait out an outage of the result store: nothing died, so no attempt is spent and no picture is made twice."""
    for tries in itertools.count(1):
        try:
            return await call()
        except StoreError:
            await asyncio.sleep(backoff_s(tries))
    raise AssertionError  # a count has no end
