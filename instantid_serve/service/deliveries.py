"""Deliveries as the tenants see them whose endpoints they go to: looked at, asked for again, tried out."""

from __future__ import annotations

import dataclasses
from typing import Any

import sqlalchemy as sa

from instantid_serve.errors import ConflictError, NotFoundError
from instantid_serve.service import idempotency, outbox, wakeups, webhooks
from instantid_serve.service.database import Clock, Database
from instantid_serve.service.delivery import Delivery, DeliveryStatus
from instantid_serve.service.idempotency import IdempotencyKey
from instantid_serve.service.tables import owned_by
from instantid_serve.service.tables import webhook_deliveries as table

TEST_TYPE = "webhook.test"


@dataclasses.dataclass(frozen=True, slots=True)
class Tested:
    """The delivery of a test event; ``replayed``: an earlier request with the same key made it."""

    delivery: Delivery
    replayed: bool = False


class Deliveries:
    """The deliveries of a database, for tenants. ``clock`` is the database's own unless a test moves time by hand.

    Everything raises NotFoundError for an endpoint that is not the tenant's, as for one that is not there.
    """

    def __init__(self, database: Database, clock: Clock | None = None) -> None:
        self._database = database
        self._clock = clock or database.now

    def find(self, tenant: str, endpoint_id: str, before: str | None, limit: int) -> list[Delivery]:
        """The newest first (ids sort by time), those before the one with the id ``before``."""
        query = sa.select(table).where(owned_by(table, tenant), table.c.endpoint_id == endpoint_id)
        if before is not None:
            query = query.where(table.c.id < before)
        query = query.order_by(table.c.id.desc()).limit(limit)
        with self._database.read(tenant) as connection:
            webhooks.one(connection, tenant, endpoint_id)
            return [Delivery.from_row(row) for row in connection.execute(query)]

    def redeliver(self, tenant: str, endpoint_id: str, delivery_id: str) -> Delivery:
        """Let a delivery be sent now, to the endpoint's URL of now, with the schedule from its beginning.

        Its message keeps its id. Raises ConflictError while it is being sent, and for a disabled endpoint.
        """
        now = self._clock()
        mine = sa.and_(owned_by(table, tenant), table.c.endpoint_id == endpoint_id, table.c.id == delivery_id)
        with self._database.write(tenant) as connection:
            endpoint = _enabled(connection, tenant, endpoint_id)
            values = {"status": DeliveryStatus.PENDING, "tries": 0, "due_at": now, "finished_at": None}
            values |= {"url": endpoint.url, "host": outbox.host_of(endpoint.url)}
            idle = table.c.status != DeliveryStatus.SENDING
            again = sa.update(table).where(mine, idle).values(values).returning(*table.c)
            row = connection.execute(again).one_or_none()
            if row is None:
                if connection.execute(sa.select(table.c.id).where(mine)).one_or_none() is None:
                    raise NotFoundError("there is no such delivery")
                raise ConflictError("the delivery is being sent at this moment")
            wakeups.tell(connection, wakeups.DELIVERIES)
            return Delivery.from_row(row)

    def test(self, tenant: str, endpoint_id: str, key: IdempotencyKey | None = None) -> Tested:
        """Send an event that tells of nothing, whatever types the endpoint wants.

        Raises ConflictError for a disabled endpoint, IdempotencyMismatchError.
        """
        now = self._clock()
        with self._database.write(tenant) as connection:
            endpoint = _enabled(connection, tenant, endpoint_id)
            earlier = None if key is None else idempotency.find(connection, now, tenant, key)
            if earlier is not None:
                return Tested(_one(connection, tenant, earlier), replayed=True)
            at = outbox.iso(connection.execute(sa.select(now)).scalar_one())
            said = {"type": TEST_TYPE, "timestamp": at, "data": {"id": endpoint_id, "object": "webhook"}}
            row = outbox.delivery(tenant, said, endpoint.url, endpoint_id=endpoint_id)
            outbox.put(connection, now, [row])
            if key is not None:
                idempotency.remember(connection, now, tenant, key, row["id"])
            return Tested(_one(connection, tenant, row["id"]))


def _enabled(connection: sa.Connection, tenant: str, endpoint_id: str) -> sa.Row[Any]:
    endpoint = webhooks.one(connection, tenant, endpoint_id, lock=True)
    if endpoint.disabled_at is not None:
        raise ConflictError("the webhook is disabled: enable it first")
    return endpoint


def _one(connection: sa.Connection, tenant: str, delivery_id: str) -> Delivery:
    row = connection.execute(sa.select(table).where(owned_by(table, tenant), table.c.id == delivery_id)).one_or_none()
    if row is None:
        raise NotFoundError("what this idempotency key stood for was deleted")
    return Delivery.from_row(row)
