"""Whose delivery is next: receivers that work before those that do not, and bounds for each host and tenant.

A receiver that hangs holds its deliveries' places for as long as an attempt may take. So nobody gets many, and those
who never took anything, or not the last one, leave places free for the others.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import sqlalchemy as sa

from instantid_serve.service.delivery import DeliveryStatus, Repute
from instantid_serve.service.tables import webhook_deliveries as table
from instantid_serve.service.tables import webhook_endpoints as endpoints
from instantid_serve.service.webhook_schedule import MAX_TRIES

_BEYOND = 64  # deliveries looked at beyond those there is room for: some hosts may have no place left
_ONCE = "MATERIALIZED"


@dataclasses.dataclass(frozen=True, slots=True)
class Places:
    """How many deliveries a courier takes, and how many of all couriers' may be under way to one host, for one tenant.

    ``free_unproven`` of the free ones are for receivers that took nothing yet or not the last one, ``free_suspect`` of
    these for the latter.
    """

    free: int
    free_unproven: int
    free_suspect: int
    per_host: int
    per_tenant: int


def silent(now: sa.ColumnElement[float]) -> sa.ColumnElement[bool]:
    """Deliveries whose courier fell silent."""
    return sa.and_(table.c.status == DeliveryStatus.SENDING, table.c.lease_until < now)


def orphaned() -> sa.ColumnElement[bool]:
    """Deliveries that came for an endpoint as it was disabled or deleted."""
    live = sa.exists().where(endpoints.c.id == table.c.endpoint_id, endpoints.c.disabled_at.is_(None))
    return sa.and_(table.c.status == DeliveryStatus.PENDING, table.c.endpoint_id.is_not(None), ~live)


def _claimable(now: sa.ColumnElement[float]) -> sa.ColumnElement[bool]:
    due = sa.and_(table.c.status == DeliveryStatus.PENDING, table.c.due_at <= now)
    return sa.or_(due, sa.and_(silent(now), table.c.tries < MAX_TRIES))


def next_in_turn(now: sa.ColumnElement[float], places: Places) -> sa.Select[tuple[str]]:
    """Select the ids of the deliveries to claim."""
    fitting = _fitting(_heads(now, places), places)
    chosen = sa.select(fitting.c.id).where(
        fitting.c.nth <= places.free,
        sa.or_(fitting.c.repute == Repute.PROVEN, fitting.c.nth_unproven <= places.free_unproven),
        sa.or_(fitting.c.repute < Repute.SUSPECT, fitting.c.nth_of_repute <= places.free_suspect),
    )
    # Locked in a query of its own because PostgreSQL locks no rows behind a window; SQLite has one writer at a time.
    locked = (
        sa.select(table.c.id)
        .where(table.c.id.in_(chosen), _claimable(now))
        .with_for_update(skip_locked=True)
        .cte("locked")
        .prefix_with(_ONCE)
    )
    return sa.select(locked.c.id)


def _heads(now: sa.ColumnElement[float], places: Places) -> sa.CTE:
    """The first of those whose host and tenant have places left."""
    repute = _repute()
    to_host, of_tenant = _under_way(now, "host"), _under_way(now, "tenant")
    host_busy, tenant_busy = (sa.func.coalesce(busy.c.busy, 0) for busy in (to_host, of_tenant))
    unwanted = sa.and_(table.c.endpoint_id.is_not(None), sa.or_(endpoints.c.id.is_(None), _disabled()))
    return (
        sa.select(
            table.c.id,
            table.c.host,
            table.c.tenant,
            table.c.due_at,
            repute.label("repute"),
            host_busy.label("host_busy"),
            tenant_busy.label("tenant_busy"),
        )
        .select_from(table)
        .outerjoin(endpoints, table.c.endpoint_id == endpoints.c.id)
        .outerjoin(to_host, table.c.host == to_host.c.host)
        .outerjoin(of_tenant, table.c.tenant == of_tenant.c.tenant)
        .where(_claimable(now), ~unwanted)
        .where(host_busy < places.per_host, tenant_busy < places.per_tenant)
        .order_by(repute, table.c.due_at, table.c.id)
        .limit(places.free + _BEYOND)
        .cte("heads")
        .prefix_with(_ONCE)
    )


def _fitting(heads: sa.CTE, places: Places) -> sa.CTE:
    """Of these, those whose host and tenant still have a place when the ones before them have theirs, numbered."""
    turn: tuple[sa.ColumnElement[Any], ...] = (heads.c.repute, heads.c.due_at, heads.c.id)

    def nth(among: sa.CTE, *partition: sa.ColumnElement[Any]) -> sa.ColumnElement[int]:
        return sa.func.row_number().over(partition_by=partition or None, order_by=[among.c[c.name] for c in turn])

    numbered = sa.select(
        heads,
        (nth(heads, heads.c.host) + heads.c.host_busy).label("nth_to_host"),
        (nth(heads, heads.c.tenant) + heads.c.tenant_busy).label("nth_of_tenant"),
    ).cte("numbered")
    fits = sa.and_(numbered.c.nth_to_host <= places.per_host, numbered.c.nth_of_tenant <= places.per_tenant)
    unproven = sa.case((numbered.c.repute == Repute.PROVEN, 0), else_=1)
    return (
        sa.select(
            numbered.c.id,
            numbered.c.repute,
            nth(numbered).label("nth"),
            nth(numbered, unproven).label("nth_unproven"),
            nth(numbered, numbered.c.repute).label("nth_of_repute"),
        )
        .where(fits)
        .cte("fitting")
    )


def _repute() -> sa.ColumnElement[int]:
    """Of an endpoint, what it did last; a URL that one job named is known from this delivery alone."""
    named_by_job = sa.case((table.c.fence > 0, int(Repute.SUSPECT)), else_=int(Repute.UNKNOWN))
    return sa.case(
        (table.c.endpoint_id.is_(None), named_by_job),
        (endpoints.c.failing_since.is_not(None), int(Repute.SUSPECT)),
        (endpoints.c.delivered_at.is_not(None), int(Repute.PROVEN)),
        else_=int(Repute.UNKNOWN),
    )


def _under_way(now: sa.ColumnElement[float], column: str) -> sa.CTE:
    return (
        sa.select(table.c[column], sa.func.count().label("busy"))
        .where(table.c.status == DeliveryStatus.SENDING, table.c.lease_until >= now)
        .group_by(table.c[column])
        .cte(f"under_way_by_{column}")
        .prefix_with(_ONCE)
    )


def _disabled() -> sa.ColumnElement[bool]:
    return endpoints.c.disabled_at.is_not(None)
