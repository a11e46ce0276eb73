"""The outbox: webhooks to be delivered, written in the transaction of the change they tell of.

Whoever delivers them (:mod:`instantid_serve.service.webhooks`) works from these rows alone, so nothing that a receiver
does can hold up a job.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from instantid_serve.service.ids import new_id
from instantid_serve.service.tables import owned_by, webhook_deliveries, webhook_endpoints

# Job changes that endpoints are told of.
TYPES = (
    "generation.running",
    "generation.succeeded",
    "generation.failed",
    "generation.canceled",
    "generation.expired",
)


def enqueue(connection: sa.Connection, now: sa.ColumnElement[float], rows: Sequence[sa.Row[Any]], kind: str) -> None:
    """Add one delivery per changed job and endpoint that wants to hear of it."""
    if kind not in TYPES:
        return
    endpoints = {tenant: _endpoints(connection, tenant, kind) for tenant in {row.tenant for row in rows}}
    deliveries = [
        _delivery(now, row, kind, endpoint_id, url)
        for row in rows
        for endpoint_id, url in [*endpoints[row.tenant], *_named_by(row, kind)]
    ]
    for delivery in deliveries:
        connection.execute(sa.insert(webhook_deliveries).values(delivery))


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


def _delivery(
    now: sa.ColumnElement[float], row: sa.Row[Any], kind: str, endpoint_id: str | None, url: str
) -> dict[str, Any]:
    return {
        "id": new_id("whd"),
        "tenant": row.tenant,
        "message_id": new_id("msg"),
        "endpoint_id": endpoint_id,
        "url": url,
        "job_id": row.id,
        "type": kind,
        "payload": payload(row, kind),
        "status": "pending",
        "attempts": [],
        "due_at": now,
        "fence": 0,
        "created_at": now,
    }


def payload(row: sa.Row[Any], kind: str) -> dict[str, Any]:
    """What a webhook says: thin, so that the receiver asks for the job as it is then. ``timestamp``: seconds."""
    return {
        "type": kind,
        "timestamp": row.updated_at,
        "data": {
            "id": row.id,
            "object": "generation",
            "status": row.status,
            "batch_id": row.batch_id,
            "metadata": row.metadata or {},
            "error": {"code": row.error["code"], "detail": row.error["detail"]} if row.error else None,
            "expires_at": row.expires_at,
        },
    }
