"""What happened to jobs: one row per change, in the same transaction, and from it whatever is told to others.

Readers follow a job by its events' ids, which grow; a reader that was cut off goes on after the last one it saw.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import sqlalchemy as sa

from instantid_serve.service import outbox, wakeups
from instantid_serve.service.tables import events, owned_by

EventType = Literal[
    "generation.queued",
    "generation.running",
    "generation.retrying",
    "generation.succeeded",
    "generation.failed",
    "generation.canceled",
    "generation.expired",
]


@dataclasses.dataclass(frozen=True, slots=True)
class Event:
    """One change of a job. ``at``: seconds since the epoch. ``data``: the status, attempts and error code it led to."""

    id: int
    job_id: str
    type: str
    at: float
    data: Mapping[str, Any]


def record(
    connection: sa.Connection, now: sa.ColumnElement[float], rows: Sequence[sa.Row[Any]], kind: EventType
) -> None:
    """Write down what became of the jobs whose changed ``rows`` these are, and put their webhooks into the outbox."""
    if not rows:
        return
    values = [
        {"tenant": row.tenant, "job_id": row.id, "type": kind, "at": row.updated_at, "data": _data(row)} for row in rows
    ]
    connection.execute(sa.insert(events), values)
    outbox.enqueue(connection, now, rows, kind)
    wakeups.tell(connection, wakeups.CHANGES, [row.id for row in rows])


def _data(row: sa.Row[Any]) -> dict[str, Any]:
    data: dict[str, Any] = {"status": row.status, "attempts": row.attempts}
    if row.error:
        data["error"] = {"code": row.error["code"], "detail": row.error["detail"]}
    return data


def after(connection: sa.Connection, tenant: str, job_id: str, last_id: int, limit: int = 100) -> list[Event]:
    """The job's events after the one with ``last_id``, oldest first; 0 is before all."""
    query = (
        sa.select(events)
        .where(events.c.job_id == job_id, owned_by(events, tenant), events.c.id > last_id)
        .order_by(events.c.id)
        .limit(limit)
    )
    return [Event(row.id, row.job_id, row.type, row.at, row.data) for row in connection.execute(query)]
