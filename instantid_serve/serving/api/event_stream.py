"""A job's events as a stream (server-sent events), which a client that was cut off resumes without losing any.

What happened to the job is durable: each such event has an id, and is read from the database. Between them come
`progress` events, which have none: whoever misses them misses nothing that a later one does not say.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import time
from collections import Counter
from collections.abc import AsyncGenerator, Iterator
from typing import Any

from fastapi import Response
from fastapi.sse import KEEPALIVE_COMMENT, format_sse_event
from pydantic import BaseModel
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from instantid_serve.errors import (
    InvalidRequestError,
    NotFoundError,
    OverloadedError,
    RateLimitedError,
    UnavailableError,
)
from instantid_serve.service.events import Event
from instantid_serve.service.job import Job, JobStatus
from instantid_serve.service.jobs import Jobs
from instantid_serve.service.outlook import Outlooks
from instantid_serve.serving.api.job_views import JobViews, ProgressOut, QueueOut, queue_out, time_of
from instantid_serve.serving.api.watch import Follower, Watch

MEDIA_TYPE = "text/event-stream"
_PING_S = 15.0  # proxies cut connections on which nothing comes
_OUTLOOK_S = 2.0  # how old a told place in the queue may be
_OUTAGE_S = 0.5  # before the database is asked again
_LONGEST_S = 3600.0  # then the client comes again, and is let in by what its key may do by then
_RECONNECT_MS = 1000
_LAST = frozenset(f"generation.{status}" for status in JobStatus if status.terminal)


class ChangeOut(BaseModel):
    """The data of an event with an id, except the last one, whose data are the whole generation."""

    id: str
    type: str
    at: dt.datetime
    status: str
    attempts: int
    error: dict[str, Any] | None = None


class ProgressEventOut(BaseModel):
    """The data of a `progress` event."""

    progress: ProgressOut
    queue: QueueOut | None


def event_schemas() -> dict[str, Any]:
    """What OpenAPI says of the events' data, by name; their parts are those of the whole generation."""
    schemas: dict[str, type[BaseModel]] = {"GenerationChange": ChangeOut, "GenerationProgress": ProgressEventOut}
    found = {
        name: model.model_json_schema(ref_template="#/components/schemas/{model}") for name, model in schemas.items()
    }
    for schema in found.values():
        schema.pop("$defs", None)
    return found


class Streams:
    """How many streams each tenant holds open here, and all together."""

    def __init__(self, limit: int, in_all: int) -> None:
        self._limit = limit
        self._in_all = in_all
        self._open: Counter[str] = Counter()

    @contextlib.contextmanager
    def place(self, tenant: str) -> Iterator[None]:
        """Hold a place. Raises RateLimitedError when the tenant has all that it may, OverloadedError when all do."""
        if self._open[tenant] >= self._limit:
            raise RateLimitedError("as many event streams are open as may", {"max_event_streams": self._limit})
        if self._open.total() >= self._in_all:
            raise OverloadedError("this replica holds as many event streams open as it can")
        self._open[tenant] += 1
        try:
            yield
        finally:
            self._open[tenant] -= 1
            if not self._open[tenant]:
                del self._open[tenant]


def _events_after(jobs: Jobs, job: Job, last_id: int) -> list[Event]:
    """All of the job's events after the one with ``last_id``; 0: all. Raises NotFoundError."""
    found: list[Event] = []
    while some := jobs.events_after(job.tenant, job.id, last_id):
        found += some
        last_id = some[-1].id
    return found


def _foreign_id() -> InvalidRequestError:
    detail = "this is not the id of an event of this generation: begin again without one"
    return InvalidRequestError(detail, {"errors": [{"pointer": "/Last-Event-ID", "detail": detail}]})


class EventStream(StreamingResponse):
    """Sends frames, and ends their generator itself: one left to the garbage collector would hold its place."""

    media_type = MEDIA_TYPE

    def __init__(self, frames: AsyncGenerator[bytes]) -> None:
        super().__init__(frames, headers={"X-Accel-Buffering": "no"})  # nginx holds back what it takes for a page
        self._frames = frames

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve the stream until it ends or its reader is gone."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._frames.aclose()


class JobEvents:
    """Answers those who ask for a job's events."""

    def __init__(
        self, jobs: Jobs, views: JobViews, outlooks: Outlooks, watch: Watch, *, ping_s: float = _PING_S
    ) -> None:
        self.ping_s = ping_s
        self.jobs = jobs
        self.views = views
        self.outlooks = outlooks
        self.watch = watch

    async def answer(self, tenant: str, job_id: str, last_id: int) -> Response:
        """The stream after the event with ``last_id``; 204, which ends a browser's retries, when nothing can follow.

        Raises NotFoundError, InvalidRequestError for another job's event, UnavailableError.
        """
        job = await self.watch.ask(self.jobs.get, tenant, job_id)
        if last_id:
            # The one that was received comes again, which shows that it is this job's.
            events = await self.watch.ask(_events_after, self.jobs, job, last_id - 1)
            if not events or events[0].id != last_id:
                raise _foreign_id()
            if job.status.terminal and len(events) == 1:
                return Response(status_code=204)
        return EventStream(_Reader(self, job, last_id).frames())


class _Reader:
    """One reader of a job's events: what it was told, and what comes next."""

    def __init__(self, parts: JobEvents, job: Job, last_id: int) -> None:
        self._parts = parts
        self._watch = parts.watch
        self._job = job
        self._last_id = last_id
        self._seen: tuple[JobStatus, int] | None = None
        self._progress: str = ""
        self._ended = False
        self._spoke_s = time.monotonic()

    async def frames(self) -> AsyncGenerator[bytes]:
        yield format_sse_event(retry=_RECONNECT_MS)
        ends_s = time.monotonic() + _LONGEST_S
        with self._watch.follow(self._job) as follower, contextlib.suppress(NotFoundError):  # deleted: nothing follows
            while not self._ended and time.monotonic() < ends_s:
                if frames := await self._next(follower):
                    yield b"".join(frames)

    async def _next(self, follower: Follower) -> list[bytes]:
        """What there is to say now, or nothing after a while in which there was nothing."""
        frames: list[bytes] = []
        try:
            frames = await self._changes(follower.job) or await self._steps(follower.job)
            if not frames:
                await follower.change(min(_OUTLOOK_S, self._parts.ping_s))
        except UnavailableError:  # the database is away: the stream stays, and goes on when it is back
            await asyncio.sleep(_OUTAGE_S)
        now_s = time.monotonic()
        if not frames and now_s - self._spoke_s >= self._parts.ping_s:
            frames = [KEEPALIVE_COMMENT]
        if frames:
            self._spoke_s = now_s
        return frames

    async def _changes(self, job: Job) -> list[bytes]:
        """The durable events that were not told yet. Every one of them moves the job's status or its fence."""
        seen = (job.status, job.fence)
        if seen == self._seen:
            return []
        frames, last_id = [], self._last_id
        for event in await self._watch.ask(_events_after, self._parts.jobs, job, self._last_id):
            last_id = event.id
            if event.type in _LAST:
                frames.append(await self._end(last_id))
                break
            frames.append(_frame(event))
        else:
            if job.status.terminal:  # it ended under a version that wrote no events
                frames.append(await self._end(None))
        self._last_id, self._seen = last_id, seen
        return frames

    async def _steps(self, job: Job) -> list[bytes]:
        """How far the job is, unless that was told."""
        outlook = await self._watch.ask(self._parts.outlooks.of, job)
        event = ProgressEventOut(progress=ProgressOut(step=job.step, steps=job.steps), queue=queue_out(outlook))
        text = event.model_dump_json()
        if text == self._progress or self._ended:
            return []
        self._progress = text
        return [format_sse_event(data_str=text, event="progress")]

    async def _end(self, event_id: int | None) -> bytes:
        job = await self._watch.ask(self._parts.jobs.get, self._job.tenant, self._job.id)
        view = await self._watch.ask(self._parts.views.of, job)
        self._ended = True
        text_id = None if event_id is None else str(event_id)
        return format_sse_event(data_str=view.model_dump_json(), event=f"generation.{view.status}", id=text_id)


def _frame(event: Event) -> bytes:
    told = ChangeOut(id=event.job_id, type=event.type, at=time_of(event.at), **event.data)
    return format_sse_event(data_str=told.model_dump_json(exclude_none=True), event=event.type, id=str(event.id))
