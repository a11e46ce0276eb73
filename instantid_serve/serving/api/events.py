"""The route of a generation's events."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Depends, Header, Request, Response

from instantid_serve.serving.api.callers import GenerationsReader
from instantid_serve.serving.api.context import Context
from instantid_serve.serving.api.event_stream import MEDIA_TYPE, foreign_id
from instantid_serve.serving.api.job_views import PATH, JobId

router = APIRouter(prefix=PATH, tags=["generations"])
_ID = re.compile(r"\d{1,18}")

_LastEventId = Annotated[
    str | None,
    Header(description="The last `id` that was received: the stream goes on after it, and leaves nothing out."),
]


async def _place(tenant: GenerationsReader, context: Context) -> AsyncIterator[None]:
    with context.streams.place(tenant.id):
        yield  # FastAPI comes back here when the response has been sent, or its reader is gone


_Place = Annotated[None, Depends(_place)]


def _last_event_id(request: Request, last_event_id: _LastEventId = None) -> int:
    del last_event_id
    sent = request.headers.get("last-event-id", "")
    if sent and not _ID.fullmatch(sent):
        raise foreign_id()
    return int(sent or 0)


_LastId = Annotated[int, Depends(_last_event_id)]


@router.get(
    "/{job_id}/events",
    response_class=Response,
    responses={
        200: {
            "description": "Server-sent events: one with an id per change of the generation, `progress` without one "
            "between them; the last one's data are the whole generation.",
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
