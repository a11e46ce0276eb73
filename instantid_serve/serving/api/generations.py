"""Routes of generations: create, list, look, cancel, delete, fetch."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Path, Request, Response

from instantid_serve.errors import NotFoundError
from instantid_serve.service.idempotency import IdempotencyKey, fingerprint
from instantid_serve.service.job import Job
from instantid_serve.serving.api.bodies import read_generation
from instantid_serve.serving.api.callers import GenerationsReader, GenerationsWriter
from instantid_serve.serving.api.context import Context
from instantid_serve.serving.api.intake import Asked, Terms
from instantid_serve.serving.api.job_views import PATH, JobId, JobList, JobOut, filename_of, url_of
from instantid_serve.serving.api.lists import JobsPage, cursor, scope_of
from instantid_serve.serving.api.photo_sources import fingerprint_of
from instantid_serve.serving.api.preferences import REPLAYED, DeadlineSeconds, IdempotencyKeySent, WaitSeconds

router = APIRouter(prefix=PATH, tags=["generations"])
_MAX_IMAGE_INDEX = 999
_PICTURES_NEVER_CHANGE = "private, max-age=86400, immutable"

_HEADERS: dict[str, Any] = {
    "Location": {"schema": {"type": "string"}, "description": "Where the generation is."},
    "Preference-Applied": {"schema": {"type": "string"}, "description": "The wait that was granted."},
    REPLAYED: {"schema": {"type": "string", "enum": ["true"]}, "description": "An earlier request created it."},
}


@router.post(
    "",
    status_code=202,
    response_model=JobOut,
    responses={
        200: {"model": JobOut, "description": "Done within the time that `Prefer: wait=N` gave.", "headers": _HEADERS},
        202: {"headers": _HEADERS},
    },
)
async def create(
    request: Request,
    tenant: GenerationsWriter,
    context: Context,
    response: Response,
    wait_s: WaitSeconds,
    deadline_s: DeadlineSeconds,
    sent_key: IdempotencyKeySent,
) -> JobOut:
    """Ask for pictures of the person in a photo.

    The answer is the job, once it is safely stored. With `Prefer: wait=N` it comes as soon as the job is done, and
    after N seconds at the latest.
    """
    async with context.intake.room:
        asked = Asked(*await read_generation(request, context.fields, tenant))
        key = await asyncio.to_thread(_key, sent_key, asked)
        accepted = await context.intake.replay(tenant, key)
        if accepted is None:
            accepted = await context.intake.accept(tenant, asked, Terms(key, deadline_s))
    (job,) = accepted.jobs
    response.headers["Location"] = url_of(job.id)
    if accepted.replayed:
        response.headers[REPLAYED] = "true"
    if wait_s is not None:
        response.headers["Preference-Applied"] = f"wait={wait_s:g}"
        job = await context.watch.ended(job, wait_s)
        response.status_code = 200 if job.status.terminal else 202
    return await _view(context, job)


@router.get("", response_model=JobList)
async def find(query: JobsPage, tenant: GenerationsReader, context: Context) -> JobList:
    """Your generations, the newest first.

    `metadata.<key>=<value>` lists those with that pair in their metadata; given several times, those with all of them.
    """
    scope = scope_of(tenant.id, PATH, query.filter)
    before = query.before(scope)
    # One more than wanted tells whether another page follows.
    jobs = await asyncio.to_thread(context.jobs.find, tenant.id, query.jobs, before, query.limit + 1)
    page, more = jobs[: query.limit], len(jobs) > query.limit
    views = await asyncio.to_thread(lambda: [context.views.of(job) for job in page])
    return JobList(data=views, next_cursor=cursor((page[-1].created_at, page[-1].id), scope) if more else None)


@router.get("/{job_id}", response_model=JobOut)
async def look(job_id: JobId, tenant: GenerationsReader, context: Context) -> JobOut:
    """A generation as it stands."""
    return await _view(context, await asyncio.to_thread(context.jobs.get, tenant.id, job_id))


@router.delete("/{job_id}", status_code=204)
async def delete(job_id: JobId, tenant: GenerationsWriter, context: Context) -> None:
    """Remove a generation with its photo and pictures, at once and for good. One that runs is canceled."""
    await asyncio.to_thread(context.jobs.delete, tenant.id, job_id)
    await context.intake.discard(tenant, [job_id])  # what is written from now on, the housekeeper sweeps


@router.post("/{job_id}/cancel", response_model=JobOut)
async def cancel(job_id: JobId, tenant: GenerationsWriter, context: Context) -> JobOut:
    """Stop a generation between two denoising steps. One that has ended stays as it is."""
    return await _view(context, await asyncio.to_thread(context.jobs.request_cancel, tenant.id, job_id))


@router.get(
    "/{job_id}/images/{index}",
    response_class=Response,
    responses={200: {"content": {"image/png": {}, "image/jpeg": {}, "image/webp": {}}}},
)
async def fetch(
    job_id: JobId,
    index: Annotated[int, Path(ge=0, le=_MAX_IMAGE_INDEX, description="Which picture, counted from 0.")],
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
    headers["Content-Disposition"] = f'inline; filename="{filename_of(job, index)}"'
    return Response(data, media_type=image.media_type, headers=headers)


def _key(sent: str | None, asked: Asked) -> IdempotencyKey | None:
    """The fingerprint is of what the caller asked for, so before a seed is drawn."""
    if sent is None:
        return None
    source, contents = fingerprint_of(asked.source)
    fields = asked.fields.model_dump(mode="json") | source
    return IdempotencyKey(sent, fingerprint(f"POST {PATH}", fields, *contents))


async def _view(context: Context, job: Job) -> JobOut:
    return await asyncio.to_thread(context.views.of, job)
