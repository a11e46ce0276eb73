"""The deliveries as couriers see them: claimed with a lease, settled once under a fence, like jobs.

Everything here is synchronous and raises DatabaseError when the database does not answer; asynchronous callers use
a thread.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from instantid_serve.errors import StaleFenceError
from instantid_serve.service import webhook_signing
from instantid_serve.service.database import Clock, Database
from instantid_serve.service.delivery import Attempt, DeliveryStatus, Errand, Outcome, Repute
from instantid_serve.service.delivery_turns import Places, next_in_turn, orphaned, silent
from instantid_serve.service.tables import tenants
from instantid_serve.service.tables import webhook_deliveries as table
from instantid_serve.service.tables import webhook_endpoints as endpoints
from instantid_serve.service.webhook_schedule import MAX_TRIES, delay_s

_NOTED_EVERY_S = 60.0  # that an endpoint goes on working is not written more often
_FAILING_S = 5 * 86_400.0  # an endpoint that fails for so long is disabled
_SAME_OUTAGE_S = 36 * 3600.0  # longer than the longest wait of the schedule: failures further apart are two outages
_LOGGED_ATTEMPTS = 50


class DeliveryQueue:
    """The deliveries of a database, for couriers. ``clock`` is the database's own unless a test moves time by hand."""

    def __init__(self, database: Database, clock: Clock | None = None) -> None:
        self._database = database
        self._clock = clock or database.now

    def claim(self, places: Places, lease_s: float) -> list[Errand]:
        """Take the deliveries that there are ``places`` for, for ``lease_s`` seconds."""
        now = self._clock()
        if places.free <= 0 or not self._any_due(now):
            return []
        statement = (
            sa.update(table)
            .where(table.c.id.in_(next_in_turn(now, places)))
            .values(
                status=DeliveryStatus.SENDING,
                tries=table.c.tries + 1,
                fence=table.c.fence + 1,
                lease_until=now + lease_s,
            )
            .returning(*table.c)
        )
        with self._database.write() as connection:
            rows = connection.execute(statement).all()
            return _errands(connection, now, rows) if rows else []

    def _any_due(self, now: sa.ColumnElement[float]) -> bool:
        """A look without the writer's lock: idle couriers poll, and must not be in the way of those that write."""
        # The first by the index: asked whether one exists, PostgreSQL may read the whole table (28 ms instead of 1).
        pending = sa.select(table.c.due_at).where(table.c.status == DeliveryStatus.PENDING)
        first = pending.order_by(table.c.due_at).limit(1).scalar_subquery()
        query = sa.select(sa.or_(first <= now, sa.exists().where(silent(now))))
        with self._database.read() as connection:
            return bool(connection.execute(query).scalar_one())

    def settle(self, errand: Errand, attempt: Attempt) -> Outcome:
        """Write down what came of an attempt, and what follows from it for the endpoint.

        Raises StaleFenceError when the delivery is not this courier's any more, or is gone.
        """
        now = self._clock()
        with self._database.write() as connection:
            # The endpoint first, always: whoever disables or deletes it locks it before its deliveries, too.
            disabled = errand.endpoint_id is not None and _note(connection, now, errand, attempt)
            outcome = _outcome(errand, attempt, disabled=disabled)
            values: dict[str, Any] = {"lease_until": None, "attempts": _logged(errand, attempt)}
            if outcome is Outcome.RETRIED:
                wait_s = delay_s(errand.tries, errand.id, attempt.retry_after_s)
                values |= {"status": DeliveryStatus.PENDING, "due_at": now + wait_s}
            else:
                delivered = outcome is Outcome.DELIVERED
                values |= {"status": DeliveryStatus.DELIVERED if delivered else DeliveryStatus.FAILED}
                values |= {"finished_at": now}
            held = sa.and_(
                table.c.id == errand.id, table.c.fence == errand.fence, table.c.status == DeliveryStatus.SENDING
            )
            if not connection.execute(sa.update(table).where(held).values(values)).rowcount:
                raise StaleFenceError("another courier has the delivery now", {"delivery_id": errand.id})
        return outcome

    def tidy(self, kept_s: float) -> None:
        """Fail what nobody will send any more, and forget deliveries that ended ``kept_s`` seconds ago."""
        now = self._clock()
        ended = table.c.status.in_((DeliveryStatus.DELIVERED, DeliveryStatus.FAILED))
        with self._database.write() as connection:
            connection.execute(sa.update(table).where(orphaned()).values(_failed(now)))
            spent = sa.and_(silent(now), table.c.tries >= MAX_TRIES)
            connection.execute(sa.update(table).where(spent).values(_failed(now)))
            connection.execute(sa.delete(table).where(ended, table.c.due_at < now - kept_s))

    def oldest_due_age_s(self) -> float:
        """How long the delivery that is most overdue has been due, in seconds; 0 when none is."""
        query = sa.select(self._clock() - sa.func.min(table.c.due_at)).where(table.c.status == DeliveryStatus.PENDING)
        with self._database.read() as connection:
            return max(0.0, connection.execute(query).scalar_one() or 0.0)


def disable(connection: sa.Connection, now: sa.ColumnElement[float], endpoint_id: str, reason: str) -> None:
    """Send no more to an endpoint. Its deliveries that wait fail; those under way are the last."""
    chosen = endpoints.c.id == endpoint_id
    connection.execute(sa.update(endpoints).where(chosen).values(disabled_at=now, disabled_reason=reason))
    waiting = sa.and_(table.c.endpoint_id == endpoint_id, table.c.status == DeliveryStatus.PENDING)
    connection.execute(sa.update(table).where(waiting).values(_failed(now)))


def _failed(now: sa.ColumnElement[float]) -> dict[str, Any]:
    return {"status": DeliveryStatus.FAILED, "lease_until": None, "finished_at": now}


def _errands(connection: sa.Connection, now: sa.ColumnElement[float], rows: Sequence[sa.Row[Any]]) -> list[Errand]:
    """What the claimed rows ask for, each with the secrets of its endpoint or tenant that are live now."""
    now_s: float = connection.execute(sa.select(now)).scalar_one()
    known = {row.endpoint_id for row in rows if row.endpoint_id}
    query = sa.select(endpoints).where(endpoints.c.id.in_(known))
    receivers = {row.id: row for row in connection.execute(query)} if known else {}
    named_by_jobs = {row.tenant for row in rows if row.endpoint_id is None}
    own = {tenant: tenant_secrets(connection, tenant) for tenant in named_by_jobs}
    found = []
    for row in rows:
        receiver = receivers.get(row.endpoint_id)
        kept = own.get(row.tenant, []) if receiver is None else receiver.secrets
        values: dict[str, Any] = {field.name: getattr(row, field.name, None) for field in dataclasses.fields(Errand)}
        values |= {"attempts": tuple(row.attempts), "repute": _repute(row, receiver)}
        values |= {"secrets": tuple(entry["secret"] for entry in webhook_signing.live(kept, now_s))}
        found.append(Errand(**values))
    return found


def _repute(row: sa.Row[Any], receiver: sa.Row[Any] | None) -> Repute:
    """As :mod:`.delivery_turns` has it, after the claim."""
    if receiver is None:
        return Repute.SUSPECT if row.fence > 1 else Repute.UNKNOWN
    if receiver.failing_since is not None:
        return Repute.SUSPECT
    return Repute.UNKNOWN if receiver.delivered_at is None else Repute.PROVEN


def tenant_secrets(connection: sa.Connection, tenant: str) -> list[Mapping[str, Any]]:
    """What signs the webhooks that a tenant's jobs name, made when it is asked for first; none without the tenant."""
    mine, kept = tenants.c.id == tenant, tenants.c.webhook_secrets
    found = connection.execute(sa.select(kept).where(mine)).scalar_one_or_none()
    if found is None:
        new = sa.update(tenants).where(mine, kept.is_(None)).values(webhook_secrets=webhook_signing.first())
        connection.execute(new)  # another may be first: then its are read
        found = connection.execute(sa.select(kept).where(mine)).scalar_one_or_none()
    return list(found or [])


def _note(connection: sa.Connection, now: sa.ColumnElement[float], errand: Errand, attempt: Attempt) -> bool:
    """Keep book of the endpoint's health, and disable it when it is time. Whether it is disabled now."""
    chosen = endpoints.c.id == errand.endpoint_id
    if attempt.taken:
        old = sa.or_(endpoints.c.delivered_at.is_(None), endpoints.c.delivered_at < now - _NOTED_EVERY_S)
        healthy = {"delivered_at": now, "failing_since": None, "failed_at": None}
        news = sa.or_(endpoints.c.failing_since.is_not(None), old)
        connection.execute(sa.update(endpoints).where(chosen, news).values(healthy))
        return False
    same = endpoints.c.failed_at > now - _SAME_OUTAGE_S
    since = sa.case((same, sa.func.coalesce(endpoints.c.failing_since, now)), else_=now)
    statement = sa.update(endpoints).where(chosen).values(failing_since=since, failed_at=now)
    lasted = (endpoints.c.failed_at - endpoints.c.failing_since).label("lasted_s")
    row = connection.execute(statement.returning(endpoints.c.id, endpoints.c.disabled_at, lasted)).one_or_none()
    if row is None or row.disabled_at is not None:
        return True
    reason = "gone" if attempt.gone else "failing" if row.lasted_s >= _FAILING_S else None
    if reason is not None:
        disable(connection, now, row.id, reason)
    return reason is not None


def _outcome(errand: Errand, attempt: Attempt, *, disabled: bool) -> Outcome:
    if attempt.taken:
        return Outcome.DELIVERED
    if disabled:
        return Outcome.DISABLED
    return Outcome.FAILED if attempt.gone or errand.tries >= MAX_TRIES else Outcome.RETRIED


def _logged(errand: Errand, attempt: Attempt) -> list[Mapping[str, Any]]:
    return [*errand.attempts, attempt.to_json()][-_LOGGED_ATTEMPTS:]
