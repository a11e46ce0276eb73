"""The route of a generation's events."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Depends, Header, Response
from pydantic import StringConstraints

from instantid_serve.serving.api.callers import GenerationsReader
from instantid_serve.serving.api.context import Context
from instantid_serve.serving.api.event_stream import MEDIA_TYPE
from instantid_serve.serving.api.job_views import PATH, JobId

router = APIRouter(prefix=PATH, tags=["generations"])

_LastEventId = Annotated[
    Annotated[str, StringConstraints(pattern=r"^[0-9]{0,18}$")] | None,
    Header(
        alias="Last-Event-ID",
        description="The last `id` that was received: the stream goes on after it, and leaves nothing out.",
    ),
]


async def _place(tenant: GenerationsReader, context: Context) -> AsyncIterator[None]:
    with context.streams.place(tenant.id):
        yield  # FastAPI comes back here when the response has been sent, or its reader is gone


_Place = Annotated[None, Depends(_place)]


def _last_event_id(last_event_id: _LastEventId = None) -> int:
    return int(last_event_id or 0)  # a browser that was told no id yet sends none, or an empty one


_LastId = Annotated[int, Depends(_last_event_id)]


@router.get(
    "/{job_id}/events",
    response_class=Response,
    responses={
        200: {
            "description": "Server-sent events: one with an id per change of the generation, `progress` without one "
            "between them. Data: `GenerationChange` with an id, `GenerationProgress` without; the last one's are the "
            "whole `JobOut`.",
            "content": {MEDIA_TYPE: {"schema": {"type": "string"}}},
        },
        204: {"description": "The generation has ended, and `Last-Event-ID` names its last event."},
    },
)
async def follow(
    job_id: JobId, tenant: GenerationsReader, context: Context, last_id: _LastId, _held: _Place
) -> Response:
    """What happens to a generation, as it happens, until it has ended."""
    return await context.events.answer(tenant.id, job_id, last_id)
