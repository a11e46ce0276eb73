"""The endpoints that tenants want to be told of their jobs at, and the secrets that sign what they are sent."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from instantid_serve.errors import ConflictError, NotFoundError
from instantid_serve.service import delivery_queue, idempotency, outbox, tenants, webhook_signing
from instantid_serve.service.database import Clock, Database
from instantid_serve.service.delivery import DeliveryStatus
from instantid_serve.service.idempotency import IdempotencyKey
from instantid_serve.service.ids import new_id
from instantid_serve.service.tables import owned_by, webhook_deliveries
from instantid_serve.service.tables import tenants as tenants_table
from instantid_serve.service.tables import webhook_endpoints as table

MAX_ENDPOINTS = 20  # per tenant: each is told of every change
BY_TENANT = "by_tenant"  # a reason to be disabled, beside "gone" and "failing"


@dataclasses.dataclass(frozen=True, slots=True)
class Endpoint:
    """An endpoint. Times are seconds since the epoch; no ``events``: of all types.

    ``disabled_reason``: ``gone`` (it answered 410), ``failing`` (for five days) or ``by_tenant``.
    """

    id: str
    url: str = dataclasses.field(repr=False)
    events: tuple[str, ...]
    description: str
    secrets: tuple[Mapping[str, Any], ...] = dataclasses.field(repr=False)
    created_at: float
    delivered_at: float | None
    failing_since: float | None
    disabled_at: float | None
    disabled_reason: str | None

    @classmethod
    def from_row(cls, row: Any) -> Endpoint:  # noqa: ANN401 - a row of the endpoints table
        """The endpoint that a row tells of."""
        values = {field.name: getattr(row, field.name) for field in dataclasses.fields(cls)}
        return cls(**values | {"events": tuple(row.events), "secrets": tuple(row.secrets)})


@dataclasses.dataclass(frozen=True, slots=True)
class Made:
    """An endpoint that is new, or has a new secret; ``replayed``: by an earlier request with the same key."""

    endpoint: Endpoint
    replayed: bool = False


class Webhooks:
    """The endpoints of a database. ``check_url`` raises for a URL that is never sent to; it looks nothing up.

    Everything raises NotFoundError for an endpoint that is not the tenant's, as for one that is not there.
    """

    def __init__(self, database: Database, check_url: Callable[[str], object], clock: Clock | None = None) -> None:
        self._database = database
        self._check_url = check_url
        self._clock = clock or database.now

    def create(
        self,
        tenant: str,
        url: str,
        events: Sequence[str] = (),
        description: str = "",
        key: IdempotencyKey | None = None,
    ) -> Made:
        """Add an endpoint. Raises what ``check_url`` does, ConflictError for one too many, IdempotencyMismatchError."""
        self._check_url(url)
        now = self._clock()
        with self._database.write(tenant) as connection:
            tenants.hold(connection, tenant)
            earlier = None if key is None else idempotency.find(connection, now, tenant, key)
            if earlier is not None:
                return Made(Endpoint.from_row(one(connection, tenant, earlier)), replayed=True)
            count = sa.select(sa.func.count()).select_from(table).where(owned_by(table, tenant))
            if connection.execute(count).scalar_one() >= MAX_ENDPOINTS:
                raise ConflictError(f"a tenant has at most {MAX_ENDPOINTS} webhooks", {"max_webhooks": MAX_ENDPOINTS})
            values: dict[str, Any] = {"id": new_id("whk"), "tenant": tenant, "url": url, "events": list(events)}
            values |= {"description": description, "secrets": webhook_signing.first(), "created_at": now}
            row = connection.execute(sa.insert(table).values(values).returning(*table.c)).one()
            if key is not None:
                idempotency.remember(connection, now, tenant, key, row.id)
            return Made(Endpoint.from_row(row))

    def list(self, tenant: str) -> list[Endpoint]:
        """All of the tenant's, the newest first."""
        query = sa.select(table).where(owned_by(table, tenant)).order_by(table.c.created_at.desc(), table.c.id.desc())
        with self._database.read(tenant) as connection:
            return [Endpoint.from_row(row) for row in connection.execute(query)]

    def get(self, tenant: str, endpoint_id: str) -> Endpoint:
        """One of the tenant's."""
        with self._database.read(tenant) as connection:
            return Endpoint.from_row(one(connection, tenant, endpoint_id))

    def change(self, tenant: str, endpoint_id: str, values: Mapping[str, Any]) -> Endpoint:
        """Set some of ``url``, ``events``, ``description`` and ``disabled``; what waits goes to the new URL.

        Raises what ``check_url`` does.
        """
        if "url" in values:
            self._check_url(values["url"])
        now = self._clock()
        with self._database.write(tenant) as connection:
            row = one(connection, tenant, endpoint_id, lock=True)
            changed = {name: values[name] for name in ("url", "events", "description") if name in values}
            if values.get("disabled") is False:
                changed |= {"disabled_at": None, "disabled_reason": None, "failing_since": None, "failed_at": None}
            if changed:
                connection.execute(sa.update(table).where(table.c.id == endpoint_id).values(changed))
            if "url" in values:
                waiting = sa.and_(_sent_to(endpoint_id), webhook_deliveries.c.status == DeliveryStatus.PENDING)
                moved = {"url": values["url"], "host": outbox.host_of(values["url"])}
                connection.execute(sa.update(webhook_deliveries).where(waiting).values(moved))
            if values.get("disabled") and row.disabled_at is None:
                delivery_queue.disable(connection, now, endpoint_id, BY_TENANT)
            return Endpoint.from_row(one(connection, tenant, endpoint_id))

    def delete(self, tenant: str, endpoint_id: str) -> None:
        """Remove an endpoint with its deliveries, the log among them."""
        with self._database.write(tenant) as connection:
            one(connection, tenant, endpoint_id, lock=True)
            connection.execute(sa.delete(table).where(table.c.id == endpoint_id))
            connection.execute(sa.delete(webhook_deliveries).where(_sent_to(endpoint_id)))

    def rotate(self, tenant: str, endpoint_id: str, overlap_s: float, key: IdempotencyKey | None = None) -> Made:
        """Give it a new secret; the old ones sign, too, for ``overlap_s`` seconds. Raises IdempotencyMismatchError."""
        now = self._clock()
        with self._database.write(tenant) as connection:
            row = one(connection, tenant, endpoint_id, lock=True)
            if key is not None:
                if idempotency.find(connection, now, tenant, key) is not None:
                    return Made(Endpoint.from_row(row), replayed=True)
                idempotency.remember(connection, now, tenant, key, endpoint_id)
            now_s = connection.execute(sa.select(now)).scalar_one()
            secrets = webhook_signing.rotated(row.secrets, now_s, overlap_s)
            connection.execute(sa.update(table).where(table.c.id == endpoint_id).values(secrets=secrets))
            return Made(Endpoint.from_row(one(connection, tenant, endpoint_id)))

    def live_secrets(self, tenant: str, endpoint_id: str) -> Sequence[Mapping[str, Any]]:
        """What signs for an endpoint now, the newest first."""
        with self._database.read(tenant) as connection:
            kept = one(connection, tenant, endpoint_id).secrets
            return webhook_signing.live(kept, connection.execute(sa.select(self._clock())).scalar_one())

    def live_tenant_secrets(self, tenant: str) -> Sequence[Mapping[str, Any]]:
        """What signs the webhooks that the tenant's jobs name, the newest first; made when it is asked for first."""
        with self._database.write(tenant) as connection:
            kept = delivery_queue.tenant_secrets(connection, tenant)
            return webhook_signing.live(kept, connection.execute(sa.select(self._clock())).scalar_one())

    def rotate_tenant_secret(self, tenant: str, overlap_s: float) -> Sequence[Mapping[str, Any]]:
        """As :meth:`rotate`, for the webhooks that the tenant's jobs name."""
        with self._database.write(tenant) as connection:
            tenants.hold(connection, tenant)
            kept = delivery_queue.tenant_secrets(connection, tenant)
            now_s = connection.execute(sa.select(self._clock())).scalar_one()
            secrets = webhook_signing.rotated(kept, now_s, overlap_s)
            mine = tenants_table.c.id == tenant
            connection.execute(sa.update(tenants_table).where(mine).values(webhook_secrets=secrets))
            return secrets


def one(connection: sa.Connection, tenant: str, endpoint_id: str, *, lock: bool = False) -> sa.Row[Any]:
    """The row of a tenant's endpoint, locked until the transaction ends if asked. Raises NotFoundError."""
    query = sa.select(table).where(owned_by(table, tenant), table.c.id == endpoint_id)
    row = connection.execute(query.with_for_update() if lock else query).one_or_none()
    if row is None:
        raise NotFoundError("there is no such webhook")
    return row


def _sent_to(endpoint_id: str) -> sa.ColumnElement[bool]:
    return webhook_deliveries.c.endpoint_id == endpoint_id
