"""Ends of jobs, with all that belongs to one: event, webhooks, usage. Everything is in the caller's transaction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from instantid_serve.service import events, usage
from instantid_serve.service.job import JobStatus
from instantid_serve.service.tables import jobs as table

_KINDS: dict[JobStatus, events.EventType] = {
    JobStatus.SUCCEEDED: "generation.succeeded",
    JobStatus.FAILED: "generation.failed",
    JobStatus.CANCELED: "generation.canceled",
    JobStatus.EXPIRED: "generation.expired",
}


def end(
    connection: sa.Connection,
    now: sa.ColumnElement[float],
    which: sa.ColumnElement[bool],
    status: JobStatus,
    **values: object,
) -> Sequence[sa.Row[Any]]:
    """End the jobs that ``which`` selects, and return their rows. It must select none that has ended."""
    kept_until = now + sa.func.coalesce(table.c.retention_s, 0.0)
    changed = {
        "status": status,
        "updated_at": now,
        "finished_at": now,
        "expires_at": sa.case((table.c.deleted_at.is_(None), kept_until), else_=table.c.expires_at),
        "lease_until": None,
        **values,
    }
    rows = connection.execute(sa.update(table).where(which).values(changed).returning(*table.c)).all()
    for row in sorted(rows, key=lambda row: (row.tenant, row.period or "")):  # all lock usage in one order
        usage.settle(connection, row)
    events.record(connection, now, rows, _KINDS[status])
    return rows


def canceled_now(
    connection: sa.Connection, now: sa.ColumnElement[float], which: sa.ColumnElement[bool]
) -> Sequence[sa.Row[Any]]:
    """End jobs as their tenants asked, before a worker was needed for it, and return their rows."""
    return end(connection, now, which, JobStatus.CANCELED, cancel_requested=True)
