"""The outbox: webhooks to be delivered, written in the transaction of the change they tell of.

Whoever delivers them (:mod:`instantid_serve.service.courier`) works from these rows alone, so nothing that a receiver
does can hold up a job.
"""

from __future__ import annotations

import datetime as dt
import typing
from collections.abc import Mapping, Sequence
from typing import Any, Literal
from urllib.parse import urlsplit

import sqlalchemy as sa

from instantid_serve.service import wakeups
from instantid_serve.service.ids import new_id
from instantid_serve.service.tables import owned_by, webhook_deliveries, webhook_endpoints

# Job changes that receivers are told of.
EventName = Literal[
    "generation.running",
    "generation.succeeded",
    "generation.failed",
    "generation.canceled",
    "generation.expired",
]
TYPES: tuple[EventName, ...] = typing.get_args(EventName)


def enqueue(connection: sa.Connection, now: sa.ColumnElement[float], rows: Sequence[sa.Row[Any]], kind: str) -> None:
    """Add one delivery per changed job and endpoint that wants to hear of it."""
    if kind not in TYPES:
        return
    endpoints = {tenant: _endpoints(connection, tenant, kind) for tenant in {row.tenant for row in rows}}
    deliveries = [
        delivery(row.tenant, payload(row, kind), url, endpoint_id=endpoint_id, job_id=row.id)
        for row in rows
        for endpoint_id, url in [*endpoints[row.tenant], *_named_by(row, kind)]
    ]
    put(connection, now, deliveries)


def put(connection: sa.Connection, now: sa.ColumnElement[float], deliveries: Sequence[Mapping[str, Any]]) -> None:
    """Add rows made by :func:`delivery`, due now, and tell the couriers once this transaction is committed."""
    if deliveries:
        connection.execute(sa.insert(webhook_deliveries).values(due_at=now, created_at=now), deliveries)
        wakeups.tell(connection, wakeups.DELIVERIES)


def delivery(
    tenant: str, said: Mapping[str, Any], url: str, *, endpoint_id: str | None = None, job_id: str | None = None
) -> dict[str, Any]:
    """A row for :func:`put`: ``said`` is to be sent to ``url``, which an endpoint or one job named."""
    return {
        "id": new_id("whd"),
        "tenant": tenant,
        "message_id": new_id("msg"),
        "endpoint_id": endpoint_id,
        "url": url,
        "host": host_of(url),
        "job_id": job_id,
        "type": said["type"],
        "payload": said,
        "status": "pending",
        "attempts": [],
        "tries": 0,
        "fence": 0,
    }


def host_of(url: str) -> str:
    """Where a URL's deliveries are counted: its host and port. A URL that is none has one, too."""
    try:
        return urlsplit(url).netloc.rpartition("@")[2].lower()
    except ValueError:
        return ""


def iso(seconds: float) -> str:
    """A time in seconds since the epoch as ISO 8601, in UTC."""
    return dt.datetime.fromtimestamp(seconds, tz=dt.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _endpoints(connection: sa.Connection, tenant: str, kind: str) -> list[tuple[str | None, str]]:
    query = sa.select(webhook_endpoints.c.id, webhook_endpoints.c.url, webhook_endpoints.c.events).where(
        owned_by(webhook_endpoints, tenant), webhook_endpoints.c.disabled_at.is_(None)
    )
    return [(row.id, row.url) for row in connection.execute(query) if not row.events or kind in row.events]


def _named_by(row: sa.Row[Any], kind: str) -> list[tuple[str | None, str]]:
    """The URL that the job itself names."""
    if not row.webhook or (row.webhook.get("events") and kind not in row.webhook["events"]):
        return []
    return [(None, row.webhook["url"])]


def payload(row: sa.Row[Any], kind: str) -> dict[str, Any]:
    """What a webhook says: thin, so that the receiver asks for the job as it is then."""
    return {
        "type": kind,
        "timestamp": iso(row.updated_at),
        "data": {
            "id": row.id,
            "object": "generation",
            "status": row.status,
            "batch_id": row.batch_id,
            "metadata": row.metadata or {},
            "error": {"code": row.error["code"], "detail": row.error["detail"]} if row.error else None,
            "expires_at": None if row.expires_at is None else iso(row.expires_at),
        },
    }
