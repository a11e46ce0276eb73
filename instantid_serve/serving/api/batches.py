"""Routes of batches: many generations in one request, looked at and canceled together."""

from __future__ import annotations

import asyncio
import datetime as dt
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Request, Response
from pydantic import BaseModel

from instantid_serve.service.batches import Batch
from instantid_serve.service.idempotency import IdempotencyKey, fingerprint
from instantid_serve.serving.api.batch_intake import BatchFields, accept_batch, asked_for
from instantid_serve.serving.api.callers import GenerationsReader, GenerationsWriter
from instantid_serve.serving.api.context import ApiContext, Context
from instantid_serve.serving.api.intake import Terms
from instantid_serve.serving.api.job_views import time_of
from instantid_serve.serving.api.json_bodies import read_json
from instantid_serve.serving.api.lists import Page, cursor, scope_of
from instantid_serve.serving.api.preferences import REPLAYED, DeadlineSeconds, IdempotencyKeySent

PATH = "/v1/batches"
router = APIRouter(prefix=PATH, tags=["batches"])

BatchId = Annotated[
    str, Path(max_length=64, pattern=r"^[^\x00]*$", description="The id that creating the batch returned.")
]
_HEADERS: dict[str, Any] = {
    "Location": {"schema": {"type": "string"}, "description": "Where the batch is."},
    REPLAYED: {"schema": {"type": "string", "enum": ["true"]}, "description": "An earlier request created it."},
}


class CountsOut(BaseModel):
    """How many of a batch's generations are in each status; deleted ones are in none."""

    queued: int
    running: int
    succeeded: int
    failed: int
    canceled: int
    expired: int


class BatchSummary(BaseModel):
    """A batch. ``total``: how many generations were asked for. ``done``: whether all have ended."""

    id: str
    object: Literal["batch"] = "batch"
    done: bool
    created_at: dt.datetime
    total: int
    counts: CountsOut
    metadata: dict[str, str]


class BatchItem(BaseModel):
    """One of a batch's generations."""

    id: str
    status: Literal["queued", "running", "succeeded", "failed", "canceled", "expired"]


class BatchOut(BatchSummary):
    """A batch and its generations, in the order in which they were asked for."""

    items: list[BatchItem]


class BatchList(BaseModel):
    """A page of batches, the newest first. ``next_cursor``: null on the last page."""

    object: Literal["list"] = "list"
    data: list[BatchSummary]
    next_cursor: str | None


@router.post("", status_code=202, response_model=BatchOut, responses={202: {"headers": _HEADERS}})
async def create(
    request: Request,
    tenant: GenerationsWriter,
    context: Context,
    response: Response,
    deadline_s: DeadlineSeconds,
    sent_key: IdempotencyKeySent,
) -> BatchOut:
    """Ask for up to 100 generations at once. All are accepted, or none; of low priority unless `defaults` say so.

    The body is bounded like any other, so many photos come by `upload_id`, `image_url` or `identity_id`.
    """
    async with context.intake.room:
        batch = await read_json(request, BatchFields, max_bytes=context.settings.api.max_body_bytes)
        key = await asyncio.to_thread(_key, sent_key, batch)
        accepted = await context.intake.replay(tenant, key)
        if accepted is None:
            # A thread: fifteen megabytes of base64 take a tenth of a second, in which nobody else would be answered.
            asked = await asyncio.to_thread(asked_for, batch, tenant, context.fields)
            terms = Terms(key, deadline_s, batch=batch.metadata)
            accepted = await accept_batch(context.intake, tenant, asked, terms)
    batch_id = accepted.jobs[0].batch_id or ""
    response.headers["Location"] = f"{PATH}/{batch_id}"
    if accepted.replayed:
        response.headers[REPLAYED] = "true"
    return await asyncio.to_thread(_look, context, tenant.id, batch_id)


@router.get("", response_model=BatchList)
async def find(query: Page, tenant: GenerationsReader, context: Context) -> BatchList:
    """Your batches, the newest first."""
    scope = scope_of(tenant.id, PATH, query.filter)
    # One more than wanted tells whether another page follows.
    found = await asyncio.to_thread(context.batches.find, tenant.id, query.before(scope), query.limit + 1)
    page, more = found[: query.limit], len(found) > query.limit
    return BatchList(
        data=[BatchSummary(**_summary(batch)) for batch in page],
        next_cursor=cursor((page[-1].created_at, page[-1].id), scope) if more else None,
    )


@router.get("/{batch_id}", response_model=BatchOut)
async def look(batch_id: BatchId, tenant: GenerationsReader, context: Context) -> BatchOut:
    """A batch as it stands."""
    return await asyncio.to_thread(_look, context, tenant.id, batch_id)


@router.post("/{batch_id}/cancel", response_model=BatchOut)
async def cancel(batch_id: BatchId, tenant: GenerationsWriter, context: Context) -> BatchOut:
    """Stop all of a batch's generations that have not ended."""
    return await asyncio.to_thread(_cancel, context, tenant.id, batch_id)


def _key(sent: str | None, batch: BatchFields) -> IdempotencyKey | None:
    if sent is None:
        return None
    return IdempotencyKey(sent, fingerprint(f"POST {PATH}", batch.model_dump(mode="json")))


def _cancel(context: ApiContext, tenant: str, batch_id: str) -> BatchOut:
    context.batches.get(tenant, batch_id)
    context.jobs.cancel_batch(tenant, batch_id)
    return _look(context, tenant, batch_id)


def _look(context: ApiContext, tenant: str, batch_id: str) -> BatchOut:
    batch = context.batches.get(tenant, batch_id)
    items = [BatchItem(id=job_id, status=status.value) for job_id, status in context.batches.items(tenant, batch_id)]
    return BatchOut(**_summary(batch), items=items)


def _summary(batch: Batch) -> dict[str, Any]:
    return {
        "id": batch.id,
        "done": batch.done,
        "created_at": time_of(batch.created_at),
        "total": batch.jobs,
        "counts": CountsOut(**{status.value: number for status, number in batch.counts.items()}),
        "metadata": dict(batch.metadata),
    }
