"""Tenants: who pays, how much of the service is theirs, and what is kept for how long."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from instantid_serve.errors import ConflictError, InvalidRequestError, NotFoundError
from instantid_serve.service.database import Clock, Database
from instantid_serve.service.tables import tenants as table
from instantid_serve.settings import TENANT_PATTERN, TenancySettings

# What of a tenant may be set, by its column.
FIELDS = (
    "tier",
    "weight",
    "suspended",
    "requests_per_minute",
    "max_running_pictures",
    "max_queued_jobs",
    "pictures_per_month",
    "retention_s",
    "defaults",
)
_NEW = {"tier": "standard", "weight": 1.0, "suspended": False, "defaults": {}}


@dataclasses.dataclass(frozen=True, slots=True)
class Tenant:
    """A tenant with the limits that hold for it: its own, or the server's where it has none.

    ``weight``: its share of the service under load, relative to others'. ``max_running_pictures`` and
    ``pictures_per_month``: None for no limit. ``defaults``: parameters that its requests leave out.
    """

    id: str
    tier: str
    weight: float
    suspended: bool
    requests_per_minute: int
    max_running_pictures: int | None
    max_queued_jobs: int
    pictures_per_month: int | None
    retention_s: float
    defaults: Mapping[str, Any]
    created_at: float


class Tenants:
    """The tenants of a database. A tenant that an API key of the config file names needs no row until it has limits."""

    def __init__(self, database: Database, settings: TenancySettings, clock: Clock | None = None) -> None:
        self._database = database
        self._settings = settings
        self._clock = clock or database.now

    def get(self, tenant_id: str) -> Tenant:
        """Raises NotFoundError."""
        with self._database.read() as connection:
            row = connection.execute(sa.select(table).where(table.c.id == tenant_id)).one_or_none()
        if row is None:
            raise NotFoundError("there is no such tenant")
        return self._tenant(row)

    def ensure(self, tenant_id: str) -> Tenant:
        """The tenant, made with the server's limits when it is new. Raises InvalidRequestError for an unfit name."""
        try:
            return self.get(tenant_id)
        except NotFoundError:
            pass
        try:
            return self.create(tenant_id, {})
        except ConflictError:  # another process was first
            return self.get(tenant_id)

    def list(self, after: str = "", limit: int = 100) -> list[Tenant]:
        """Tenants by name, those after ``after``."""
        query = sa.select(table).where(table.c.id > after).order_by(table.c.id).limit(limit)
        with self._database.read() as connection:
            return [self._tenant(row) for row in connection.execute(query)]

    def create(self, tenant_id: str, values: Mapping[str, Any]) -> Tenant:
        """Add a tenant; ``values`` are of :data:`FIELDS`. Raises ConflictError for a name that is taken."""
        if not re.fullmatch(TENANT_PATTERN, tenant_id):
            raise InvalidRequestError("a tenant's name is of a-z, 0-9 and -, at most 63 characters")
        now = self._clock()
        row = {"id": tenant_id, **_NEW, **_known(values), "created_at": now, "updated_at": now}
        with self._database.write() as connection:
            return self._tenant(connection.execute(sa.insert(table).values(row).returning(*table.c)).one())

    def change(self, tenant_id: str, values: Mapping[str, Any]) -> Tenant:
        """Set some of a tenant's :data:`FIELDS`; None stands for the server's own. Raises NotFoundError."""
        statement = (
            sa.update(table).where(table.c.id == tenant_id).values(_known(values) | {"updated_at": self._clock()})
        )
        with self._database.write() as connection:
            row = connection.execute(statement.returning(*table.c)).one_or_none()
        if row is None:
            raise NotFoundError("there is no such tenant")
        return self._tenant(row)

    def _tenant(self, row: sa.Row[Any]) -> Tenant:
        own: dict[str, Any] = {field.name: getattr(row, field.name) for field in dataclasses.fields(Tenant)}
        return Tenant(**{name: getattr(self._settings, name) if own[name] is None else own[name] for name in own})


def hold(connection: sa.Connection, tenant_id: str) -> sa.Row[Any]:
    """Lock the tenant's row until the transaction ends: its limits are then counted by one caller at a time.

    Raises NotFoundError.
    """
    row = connection.execute(sa.select(table).where(table.c.id == tenant_id).with_for_update()).one_or_none()
    if row is None:
        raise NotFoundError("there is no such tenant")
    return row


def _known(values: Mapping[str, Any]) -> dict[str, Any]:
    unknown = sorted(set(values) - set(FIELDS))
    if unknown:
        raise InvalidRequestError(f"a tenant has no {unknown[0]}", {"parameter": unknown[0]})
    return dict(values)
