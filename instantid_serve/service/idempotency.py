"""A retry of the same call is the same thing: keys that callers give, kept with what they stand for.

Every function works in the caller's transaction, so that a thing and its key come to be together.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from instantid_serve.errors import IdempotencyMismatchError
from instantid_serve.service.tables import idempotency_keys as table
from instantid_serve.service.tables import owned_by

KEPT_S = 86_400.0


@dataclasses.dataclass(frozen=True, slots=True)
class IdempotencyKey:
    """A key that a caller gave with a request, and the request's fingerprint."""

    key: str
    fingerprint: str


def fingerprint(route: str, fields: Mapping[str, Any], *contents: bytes) -> str:
    """What tells one request from another: its route, its fields as JSON, and the files it brings."""
    text = json.dumps([route, fields], sort_keys=True, ensure_ascii=True)
    digests = [hashlib.sha256(content).hexdigest() for content in contents]
    return hashlib.sha256("\n".join([text, *digests]).encode()).hexdigest()


def find(connection: sa.Connection, now: sa.ColumnElement[float], tenant: str, key: IdempotencyKey) -> str | None:
    """The id that the tenant's key stands for; None for a new one. Raises IdempotencyMismatchError."""
    query = sa.select(table).where(owned_by(table, tenant), table.c.key == key.key, table.c.expires_at > now)
    row = connection.execute(query).one_or_none()
    if row is None:
        return None
    if row.fingerprint != key.fingerprint:
        raise IdempotencyMismatchError("this idempotency key was used for another request")
    return str(row.resource_id)


def remember(
    connection: sa.Connection, now: sa.ColumnElement[float], tenant: str, key: IdempotencyKey, resource_id: str
) -> None:
    """Let the key stand for ``resource_id`` for a day. Raises ConflictError when another transaction was first."""
    old = sa.and_(owned_by(table, tenant), table.c.key == key.key, table.c.expires_at <= now)
    connection.execute(sa.delete(table).where(old))
    values = {
        "tenant": tenant,
        "key": key.key,
        "fingerprint": key.fingerprint,
        "resource_id": resource_id,
        "expires_at": now + KEPT_S,
    }
    connection.execute(sa.insert(table).values(values))
