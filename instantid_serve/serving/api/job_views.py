"""A job as its tenant sees it: the one object that create, get, list and events answer with."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from fastapi import Path
from pydantic import BaseModel

from instantid_serve.service.job import Job
from instantid_serve.service.outlook import Outlook, Outlooks
from instantid_serve.service.results import ResultStore
from instantid_serve.serving.api.job_fields import PriorityName

PATH = "/v1/generations"
_LINK_S = 900.0

# No NUL: PostgreSQL's text cannot hold it, so it could not even be looked for.
JobId = Annotated[
    str, Path(max_length=64, pattern=r"^[^\x00]*$", description="The id that creating the generation returned.")
]


class ProgressOut(BaseModel):
    """Denoise steps done, over all pictures of the job."""

    step: int
    steps: int


class QueueOut(BaseModel):
    """Where a job stands: how many are before it, and in how many seconds it is done, as far as that can be told."""

    position: int
    eta_seconds: float | None


class ImageOut(BaseModel):
    """One finished picture. ``url`` is a path on this server and needs the same API key; ``download_url`` expires."""

    index: int
    url: str
    download_url: str | None
    width: int
    height: int
    seed: int
    sha256: str
    size_bytes: int
    media_type: str
    precision: str
    stats: dict[str, float]


class JobOut(BaseModel):
    """A job. Exactly one of ``images`` and ``error`` says how it ended once ``done`` is true, or it was canceled."""

    id: str
    object: Literal["generation"] = "generation"
    status: Literal["queued", "running", "succeeded", "failed", "canceled", "expired"]
    done: bool
    created_at: dt.datetime
    started_at: dt.datetime | None
    finished_at: dt.datetime | None
    deadline: dt.datetime | None
    expires_at: dt.datetime | None
    attempts: int
    cancel_requested: bool
    priority: PriorityName
    progress: ProgressOut
    queue: QueueOut | None
    parameters: dict[str, Any]
    metadata: dict[str, str]
    batch_id: str | None
    identity_id: str | None
    images: list[ImageOut]
    error: dict[str, Any] | None
    timings: dict[str, float]
    provenance: dict[str, Any] | None


class JobList(BaseModel):
    """A page of jobs, the newest first. ``next_cursor``: null on the last page."""

    object: Literal["list"] = "list"
    data: list[JobOut]
    next_cursor: str | None


class JobViews:
    """Makes what tenants see. Looking blocks now and then: asynchronous callers use a thread."""

    def __init__(self, outlooks: Outlooks, store: ResultStore) -> None:
        self._outlooks = outlooks
        self._store = store

    def of(self, job: Job) -> JobOut:
        """The job with all that belongs to it, and links to its pictures that are good from now."""
        return JobOut(
            id=job.id,
            status=job.status.value,
            done=job.status.terminal,
            created_at=time_of(job.created_at),
            started_at=_time_or_none(job.started_at),
            finished_at=_time_or_none(job.finished_at),
            deadline=_time_or_none(job.deadline_at),
            expires_at=_time_or_none(job.expires_at),
            attempts=job.attempts,
            cancel_requested=job.cancel_requested,
            priority=_priority_name(job),
            progress=ProgressOut(step=job.step, steps=job.steps),
            queue=queue_out(self._outlooks.of(job)),
            parameters=job.spec.to_json(),
            metadata=dict(job.metadata),
            batch_id=job.batch_id,
            identity_id=job.identity_id,
            images=[self._image_out(job, index) for index in range(len(job.images))],
            error=_error_out(job.error) if job.error else None,
            timings=dict(job.timings),
            provenance=None if job.provenance is None else dict(job.provenance),
        )

    def _image_out(self, job: Job, index: int) -> ImageOut:
        image = job.images[index]
        name = filename_of(job, index)
        link = self._store.link(image.key, media_type=image.media_type, filename=name, expires_s=_LINK_S)
        values = {name: value for name, value in image.to_json().items() if name != "key"}
        return ImageOut(index=index, url=f"{url_of(job.id)}/images/{index}", download_url=link, **values)


def filename_of(job: Job, index: int) -> str:
    """What a picture is called where it is saved."""
    return f"{job.id}-{index}.{job.images[index].media_type.rpartition('/')[2]}"


def queue_out(outlook: Outlook | None) -> QueueOut | None:
    """An outlook as callers see it."""
    return None if outlook is None else QueueOut(position=outlook.position, eta_seconds=outlook.eta_s)


def url_of(job_id: str) -> str:
    """Where the job is, on this server."""
    return f"{PATH}/{job_id}"


def time_of(seconds: float) -> dt.datetime:
    """A time of the database as callers see it."""
    return dt.datetime.fromtimestamp(seconds, tz=dt.UTC)


def _time_or_none(seconds: float | None) -> dt.datetime | None:
    return None if seconds is None else time_of(seconds)


def _priority_name(job: Job) -> PriorityName:
    names: tuple[PriorityName, ...] = ("low", "normal", "high")
    return names[job.priority]


def _error_out(error: Mapping[str, Any]) -> dict[str, Any]:
    """The same members a problem answer has: the facts of the case stand beside the code."""
    return {**error.get("facts", {}), **{name: value for name, value in error.items() if name != "facts"}}
