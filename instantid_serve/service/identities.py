"""Identities: photos of a person that a tenant registered, with that person's consent, for as long as it may keep them.

The photos lie in the result store. What is computed from them is never stored, here or anywhere.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Self

import sqlalchemy as sa

from instantid_serve.errors import ConflictError, NotFoundError
from instantid_serve.service import idempotency
from instantid_serve.service.database import Clock, Database
from instantid_serve.service.idempotency import IdempotencyKey
from instantid_serve.service.tables import identities as table
from instantid_serve.service.tables import owned_by


@dataclasses.dataclass(frozen=True, slots=True)
class IdentityPhoto:
    """A stored photo: its key, and its size in pixels."""

    key: str
    width: int
    height: int


@dataclasses.dataclass(frozen=True, slots=True)
class NewIdentity:
    """An identity to be registered, its photos stored already. ``retention_s``: from now.

    ``consent``: what was told of the pictured person's consent, as JSON values.
    """

    id: str
    label: str = dataclasses.field(repr=False)
    photos: tuple[IdentityPhoto, ...]
    consent: Mapping[str, Any] = dataclasses.field(repr=False)
    metadata: Mapping[str, str] = dataclasses.field(repr=False)
    retention_s: float


@dataclasses.dataclass(frozen=True, slots=True)
class Identity:
    """An identity's row. Times are seconds since the epoch on the database's clock."""

    id: str
    label: str = dataclasses.field(repr=False)
    photos: tuple[IdentityPhoto, ...]
    consent: Mapping[str, Any] = dataclasses.field(repr=False)
    metadata: Mapping[str, str] = dataclasses.field(repr=False)
    created_at: float
    expires_at: float

    @classmethod
    def from_row(cls, row: Any) -> Self:  # noqa: ANN401 - a row of the table
        """The identity that a row tells of."""
        values = {field.name: getattr(row, field.name) for field in dataclasses.fields(cls)}
        photos = tuple(IdentityPhoto(**photo) for photo in row.photos)
        return cls(**values | {"photos": photos, "metadata": row.metadata or {}})


class Identities:
    """The identities of a database. Synchronous; raises DatabaseError when the database does not answer.

    One that was deleted, or is past its time, is gone for everyone at once; the sweeper removes what is left of it.
    """

    def __init__(self, database: Database, clock: Clock | None = None) -> None:
        self._database = database
        self._clock = clock or database.now

    def replay(self, tenant: str, key: IdempotencyKey) -> Identity | None:
        """What an earlier request with this key registered; None for a new key.

        Raises IdempotencyMismatchError, and NotFoundError when it is gone since.
        """
        with self._database.read(tenant) as connection:
            found = idempotency.find(connection, self._clock(), tenant, key)
            return None if found is None else self._one(connection, tenant, found)

    def create(self, tenant: str, new: NewIdentity, key: IdempotencyKey | None = None) -> Identity:
        """Register an identity. Raises ConflictError when another request with the key was first: replay it then."""
        values = {
            "id": new.id,
            "tenant": tenant,
            "label": new.label,
            "photos": [dataclasses.asdict(photo) for photo in new.photos],
            "consent": dict(new.consent),
            "metadata": dict(new.metadata),
            "created_at": self._clock(),
            "expires_at": self._clock() + new.retention_s,
        }
        with self._database.write(tenant) as connection:
            if key is not None:
                if idempotency.find(connection, self._clock(), tenant, key) is not None:
                    raise ConflictError("another request with this idempotency key was first")
                idempotency.remember(connection, self._clock(), tenant, key, new.id)
            return Identity.from_row(connection.execute(sa.insert(table).values(values).returning(*table.c)).one())

    def get(self, tenant: str, identity_id: str) -> Identity:
        """The tenant's identity. Raises NotFoundError when there is none, it is gone, or another tenant's."""
        with self._database.read(tenant) as connection:
            return self._one(connection, tenant, identity_id)

    def find(self, tenant: str, before: tuple[float, str] | None, limit: int) -> list[Identity]:
        """The tenant's identities, the newest first, those before the (created_at, id) that ``before`` names."""
        query = sa.select(table).where(*self._mine(tenant))
        if before is not None:
            query = query.where(sa.tuple_(table.c.created_at, table.c.id) < before)
        query = query.order_by(table.c.created_at.desc(), table.c.id.desc()).limit(limit)
        with self._database.read(tenant) as connection:
            return [Identity.from_row(row) for row in connection.execute(query)]

    def delete(self, tenant: str, identity_id: str) -> None:
        """Let the identity be gone at once. Its row goes when its photos are. Raises NotFoundError."""
        with self._database.write(tenant) as connection:
            self._one(connection, tenant, identity_id)
            gone = {"deleted_at": self._clock(), "expires_at": self._clock()}
            mine = sa.and_(owned_by(table, tenant), table.c.id == identity_id)
            connection.execute(sa.update(table).where(mine).values(gone))

    def _one(self, connection: sa.Connection, tenant: str, identity_id: str) -> Identity:
        row = connection.execute(sa.select(table).where(*self._mine(tenant), table.c.id == identity_id)).one_or_none()
        if row is None:
            raise NotFoundError("there is no such identity")
        return Identity.from_row(row)

    def _mine(self, tenant: str) -> list[sa.ColumnElement[bool]]:
        return [owned_by(table, tenant), table.c.deleted_at.is_(None), table.c.expires_at > self._clock()]
