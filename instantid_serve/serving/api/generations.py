"""Routes of generations: create, look, cancel, fetch."""

from __future__ import annotations

import asyncio
import datetime as dt
import re
import time
from typing import Annotated, Any

from fastapi import APIRouter, Path, Request, Response

from instantid_serve.errors import NotFoundError, UnavailableError
from instantid_serve.service.job import Job
from instantid_serve.serving.api.bodies import read_generation
from instantid_serve.serving.api.callers import GenerationsReader, GenerationsWriter
from instantid_serve.serving.api.context import ApiContext, Context
from instantid_serve.serving.api.schemas import ImageOut, JobOut, ProgressOut

router = APIRouter(prefix="/v1/generations", tags=["generations"])
_WAIT = re.compile(r"(?:^|[,;])\s*wait\s*(?:=\s*\"?(\d{1,6})\"?\s*)?(?:$|[,;])", re.IGNORECASE)
_MAX_IMAGE_INDEX = 999
_PICTURES_NEVER_CHANGE = "private, max-age=86400, immutable"

# No NUL: PostgreSQL's text cannot hold it, so it could not even be looked for.
JobId = Annotated[
    str, Path(max_length=64, pattern=r"^[^\x00]*$", description="The id that creating the generation returned.")
]


@router.post(
    "",
    status_code=202,
    response_model=JobOut,
    responses={200: {"model": JobOut, "description": "Done within the time that `Prefer: wait=N` gave."}},
)
async def create(request: Request, tenant: GenerationsWriter, context: Context, response: Response) -> JobOut:
    """Ask for pictures of the person in a photo.

    The answer is the job, once it is safely stored. With `Prefer: wait=N` it comes as soon as the job is done, and
    after N seconds at the latest.
    """
    async with context.intake.room:
        fields, source = await read_generation(request, context.fields)
        job = await context.intake.accept(tenant, fields, source)
    response.headers["Location"] = _url(job.id)
    wait_s = _wanted_wait_s(request, context.settings.api.max_wait_s)
    if wait_s is not None:
        response.headers["Preference-Applied"] = f"wait={wait_s:g}"
        job = await _wait(job, context, wait_s)
        response.status_code = 200 if job.status.terminal else 202
    return job_out(job)


@router.get("/{job_id}", response_model=JobOut)
async def look(job_id: JobId, tenant: GenerationsReader, context: Context) -> JobOut:
    """A generation as it stands."""
    return job_out(await asyncio.to_thread(context.jobs.get, tenant.id, job_id))


@router.post("/{job_id}/cancel", response_model=JobOut)
async def cancel(job_id: JobId, tenant: GenerationsWriter, context: Context) -> JobOut:
    """Stop a generation between two denoising steps. One that has ended stays as it is."""
    return job_out(await asyncio.to_thread(context.jobs.request_cancel, tenant.id, job_id))


@router.get(
    "/{job_id}/images/{index}",
    response_class=Response,
    responses={200: {"content": {"image/png": {}, "image/jpeg": {}, "image/webp": {}}}},
)
async def fetch(
    job_id: JobId,
    index: Annotated[int, Path(ge=0, le=_MAX_IMAGE_INDEX)],
    request: Request,
    tenant: GenerationsReader,
    context: Context,
) -> Response:
    """The bytes of one picture. Ranges are not served: pictures are small, and many overlapping ones are an attack."""
    job = await asyncio.to_thread(context.jobs.get, tenant.id, job_id)
    if index >= len(job.images):
        raise NotFoundError("there is no such picture", {"images": len(job.images)})
    image = job.images[index]
    headers = {"ETag": f'"{image.sha256}"', "Cache-Control": _PICTURES_NEVER_CHANGE}
    if headers["ETag"] in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    data = await asyncio.to_thread(context.store.get, image.key)
    extension = image.media_type.rpartition("/")[2]
    headers["Content-Disposition"] = f'inline; filename="{job.id}-{index}.{extension}"'
    return Response(data, media_type=image.media_type, headers=headers)


async def _wait(job: Job, context: ApiContext, wait_s: float) -> Job:
    """The job as it is when it has ended, or after ``wait_s`` seconds. It is safe already: an outage is no error."""
    ends = time.monotonic() + wait_s
    while not job.status.terminal and (left := ends - time.monotonic()) > 0:
        await asyncio.sleep(min(context.settings.api.poll_s, left))
        try:
            job = await asyncio.to_thread(context.jobs.get, job.tenant, job.id)
        except UnavailableError:
            continue
    return job


def _wanted_wait_s(request: Request, longest_s: float) -> float | None:
    """Seconds that `Prefer: wait` asks for, at most ``longest_s``; a preference that makes no sense is ignored."""
    found = _WAIT.search(",".join(request.headers.getlist("prefer")))
    if found is None:
        return None
    return min(float(found[1]), longest_s) if found[1] else longest_s


def _url(job_id: str) -> str:
    return f"{router.prefix}/{job_id}"


def job_out(job: Job) -> JobOut:
    """A job as its tenant sees it."""
    return JobOut(
        id=job.id,
        status=job.status.value,
        done=job.status.terminal,
        created_at=_time(job.created_at),
        started_at=_time(job.started_at) if job.started_at else None,
        finished_at=_time(job.finished_at) if job.finished_at else None,
        attempts=job.attempts,
        cancel_requested=job.cancel_requested,
        progress=ProgressOut(step=job.step, steps=job.steps),
        parameters=job.spec.to_json(),
        images=[_image_out(job, index) for index in range(len(job.images))],
        error=_error_out(job.error) if job.error else None,
        timings=dict(job.timings),
    )


def _image_out(job: Job, index: int) -> ImageOut:
    image = job.images[index]
    values = {name: value for name, value in image.to_json().items() if name != "key"}
    return ImageOut(index=index, url=f"{_url(job.id)}/images/{index}", **values)


def _error_out(error: Any) -> dict[str, Any]:  # noqa: ANN401 - JSON of the row
    """The same members a problem answer has: the facts of the case stand beside the code."""
    return {**error.get("facts", {}), **{name: value for name, value in error.items() if name != "facts"}}


def _time(seconds: float) -> dt.datetime:
    return dt.datetime.fromtimestamp(seconds, tz=dt.UTC)
