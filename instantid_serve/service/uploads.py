"""Uploads: places in the result store that a tenant may fill, once, and name as a photo until they expire."""

from __future__ import annotations

import dataclasses
from typing import Any, Self

import sqlalchemy as sa

from instantid_serve.errors import ConflictError, NotFoundError
from instantid_serve.service import idempotency
from instantid_serve.service.database import Clock, Database
from instantid_serve.service.idempotency import IdempotencyKey
from instantid_serve.service.ids import new_id
from instantid_serve.service.tables import owned_by
from instantid_serve.service.tables import uploads as table

LINK_S = 900.0  # how long the link to fill one lasts; for as long, nothing that was removed may be swept for good


@dataclasses.dataclass(frozen=True, slots=True)
class Upload:
    """An upload's row. Times are seconds since the epoch on the database's clock."""

    id: str
    size_bytes: int
    media_type: str
    created_at: float
    expires_at: float

    @classmethod
    def from_row(cls, row: Any) -> Self:  # noqa: ANN401 - a row of the table
        """The upload that a row tells of."""
        return cls(**{field.name: getattr(row, field.name) for field in dataclasses.fields(cls)})


class Uploads:
    """The uploads of a database. Synchronous; raises DatabaseError when the database does not answer."""

    def __init__(self, database: Database, clock: Clock | None = None) -> None:
        self._database = database
        self._clock = clock or database.now

    def create(
        self, tenant: str, media_type: str, size_bytes: int, *, kept_s: float, key: IdempotencyKey | None = None
    ) -> tuple[Upload, bool]:
        """A new upload, and False; with a ``key`` that was used before, that one, and True.

        Raises IdempotencyMismatchError, and NotFoundError when what the key stood for is gone.
        """
        try:
            with self._database.write(tenant) as connection:
                if key is not None and (found := idempotency.find(connection, self._clock(), tenant, key)) is not None:
                    return self._one(connection, tenant, found), True
                upload_id = new_id("upl")
                if key is not None:
                    idempotency.remember(connection, self._clock(), tenant, key, upload_id)
                values = {"id": upload_id, "tenant": tenant, "size_bytes": size_bytes, "media_type": media_type}
                times = {"created_at": self._clock(), "expires_at": self._clock() + kept_s}
                row = connection.execute(sa.insert(table).values(**values, **times).returning(*table.c)).one()
                return Upload.from_row(row), False
        except ConflictError:  # two requests with one key at the same moment: the other's transaction was first
            if key is None:
                raise
            return self.create(tenant, media_type, size_bytes, kept_s=kept_s, key=key)

    def get(self, tenant: str, upload_id: str) -> Upload:
        """The tenant's upload. Raises NotFoundError when there is none, it is past its time, or another tenant's."""
        with self._database.read(tenant) as connection:
            return self._one(connection, tenant, upload_id)

    def delete(self, tenant: str, upload_id: str) -> None:
        """Let the upload be past its time. The sweeper removes the row once nothing can be written any more.

        Raises NotFoundError.
        """
        with self._database.write(tenant) as connection:
            self._one(connection, tenant, upload_id)
            mine = sa.and_(owned_by(table, tenant), table.c.id == upload_id)
            connection.execute(sa.update(table).where(mine).values(expires_at=self._clock()))

    def _one(self, connection: sa.Connection, tenant: str, upload_id: str) -> Upload:
        query = sa.select(table).where(owned_by(table, tenant), table.c.id == upload_id)
        row = connection.execute(query.where(table.c.expires_at > self._clock())).one_or_none()
        if row is None:
            raise NotFoundError("there is no such upload")
        return Upload.from_row(row)
