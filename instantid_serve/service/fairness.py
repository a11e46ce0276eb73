"""Whose job is next: self-clocked weighted fair queueing between tenants, priority classes within one.

A job's *virtual finish* is when it would be done if every tenant had a server of its own, as fast as its weight:
that of the tenant's job before it, or the virtual time now if that is later, plus pictures / weight. Jobs are claimed
in this order, and the virtual time is that of the last one claimed (S. J. Golestani, "A self-clocked fair queueing
scheme for broadband applications", INFOCOM 1994). A tenant with a backlog of any length so delays another by no more
than the job at its head.

The bound, which a test holds over random arrivals and claims: while tenants i and j both have jobs waiting, the
pictures W claimed for them satisfy |W_i/w_i - W_j/w_j| <= L_i/w_i + L_j/w_j (w: weight, L: pictures of the largest
job). A tenant at its limit of running pictures is passed over meanwhile, and reserved places are given out of turn:
both are outside of it.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence

import sqlalchemy as sa

from instantid_serve.service.job import Priority
from instantid_serve.service.tables import fair_share, jobs, owned_by, tenants

# A job that waited so long is passed by none of its tenant's later jobs, whatever their priority.
AGED_S = 600.0

# Left to itself, PostgreSQL may compute the turns anew for every row (measured: 850 ms instead of 25 at 1,000 jobs).
_ONCE = "MATERIALIZED"
# Jobs looked at beyond those there is room for: some tenants may have no room, others nothing running.
_BEYOND = 64
_UNBOUNDED = 1_000_000_000


@dataclasses.dataclass(frozen=True, slots=True)
class Room:
    """How many pictures a worker takes: ``pictures`` in all, ``reserved`` of them only for tenants that have little.

    A tenant has little when it would have, by its weight, at most half of what the busiest has running: so someone's
    backlog never takes the last place, and whoever comes now and then finds one.

    ``oversized``: the first job is taken whatever its size, by a worker that holds nothing. ``tenant_pictures``: what a
    tenant may have running whose row says nothing.
    """

    pictures: int
    reserved: int = 0
    oversized: bool = False
    tenant_pictures: int | None = None


def due(now: sa.ColumnElement[float]) -> sa.ColumnElement[bool]:
    """Jobs that a worker may claim."""
    return sa.and_(jobs.c.status == "queued", jobs.c.not_before <= now)


def lease_expired(now: sa.ColumnElement[float]) -> sa.ColumnElement[bool]:
    """Jobs whose worker fell silent."""
    return sa.and_(jobs.c.status == "running", jobs.c.lease_until < now)


def next_in_turn(now: sa.ColumnElement[float], room: Room) -> sa.Select[tuple[str]]:
    """Select the ids of the jobs to claim, in turn.

    A job too large for what is left ends the selection instead of being overtaken, or small jobs would starve it.
    """
    turn = (jobs.c.virtual_finish, jobs.c.created_at, jobs.c.id)
    weight = sa.func.coalesce(tenants.c.weight, 1.0)
    busy = (
        sa.select(
            jobs.c.tenant,
            sa.func.sum(jobs.c.pictures).label("pictures"),
            (sa.func.sum(jobs.c.pictures) / sa.func.max(weight)).label("load"),
        )
        .outerjoin_from(jobs, tenants, jobs.c.tenant == tenants.c.id)
        .where(jobs.c.status == "running")
        .group_by(jobs.c.tenant)
        .cte("busy")
        .prefix_with(_ONCE)
    )
    most = sa.select(sa.func.coalesce(sa.func.max(busy.c.load), 0.0)).scalar_subquery()
    running = sa.func.coalesce(busy.c.pictures, 0)
    allowed = sa.func.coalesce(tenants.c.max_running_pictures, room.tenant_pictures or _UNBOUNDED)
    heads = (
        sa.select(
            *turn,
            jobs.c.tenant,
            jobs.c.pictures,
            running.label("running"),
            allowed.label("allowed"),
            (weight * most / 2).label("little"),
        )
        .select_from(jobs)
        .outerjoin(busy, jobs.c.tenant == busy.c.tenant)
        .outerjoin(tenants, jobs.c.tenant == tenants.c.id)
        .where(due(now), sa.or_(running + jobs.c.pictures <= allowed, running == 0))
        .order_by(*turn)
        .limit(room.pictures + _BEYOND)
        .cte("heads")
        .prefix_with(_ONCE)
    )
    chosen = _chosen(heads, room)
    # Locking is a query of its own because PostgreSQL locks no rows behind a window; SQLite, which has one writer at a
    # time, leaves the clause out. A row that another worker took meanwhile is skipped or no longer due.
    locked = (
        sa.select(jobs.c.id)
        .where(jobs.c.id.in_(chosen), due(now))
        .with_for_update(skip_locked=True)
        .cte("locked")
        .prefix_with(_ONCE)
    )
    return sa.select(locked.c.id)


def _chosen(heads: sa.CTE, room: Room) -> sa.Select[tuple[str]]:
    own = _running_sum(heads.c.pictures, heads, partition_by=heads.c.tenant)
    counted = sa.select(heads, own.label("own")).subquery("counted")
    first = counted.c.own == counted.c.pictures  # of its tenant
    fits = sa.or_(
        counted.c.running + counted.c.own <= counted.c.allowed,
        sa.and_(counted.c.running == 0, first),  # a job larger than its tenant's limit runs alone
    )
    has_little = sa.or_(
        counted.c.running + counted.c.own <= counted.c.little, sa.and_(first, counted.c.running == 0)
    ).label("has_little")
    total = _running_sum(counted.c.pictures, counted).label("total")
    fitting = sa.select(counted, has_little, total).where(fits).subquery("fitting")
    open_room = max(room.pictures - room.reserved, 0)
    spare = sa.case((sa.and_(fitting.c.has_little, fitting.c.total > open_room), fitting.c.pictures), else_=0)
    spared = _running_sum(spare, fitting).label("spared")
    summed = sa.select(fitting, spared).cte("summed").prefix_with(_ONCE)
    conditions = [
        summed.c.total <= open_room,
        sa.and_(summed.c.has_little, summed.c.total > open_room, summed.c.spared <= room.pictures - open_room),
    ]
    if room.oversized:
        conditions.append(summed.c.total == summed.c.pictures)  # true of the first alone
    return sa.select(summed.c.id).where(sa.or_(*conditions))


def _running_sum(
    value: sa.ColumnElement[int], table: sa.FromClause, partition_by: sa.ColumnElement[str] | None = None
) -> sa.ColumnElement[int]:
    turn = (table.c.virtual_finish, table.c.created_at, table.c.id)
    return sa.func.sum(value).over(partition_by=partition_by, order_by=turn, rows=(None, 0))


def tags(
    connection: sa.Connection,
    now: sa.ColumnElement[float],
    tenant: str,
    weight: float,
    priority: Priority,
    pictures: Sequence[int],
) -> list[float]:
    """The virtual finishes of new jobs of ``tenant``, of one ``priority``; ``pictures`` of each.

    Its tenant's waiting jobs of a lower class make way: the new ones begin where the first of these would have, and
    these move back by what the new ones cost, so other tenants do not notice. Those that are :data:`AGED_S` old stay,
    and the new ones go behind.
    """
    queued = sa.and_(owned_by(jobs, tenant), jobs.c.status == "queued")
    passed = sa.and_(queued, jobs.c.priority < priority, jobs.c.created_at > now - AGED_S)
    stays = sa.and_(queued, sa.or_(jobs.c.priority >= priority, jobs.c.created_at <= now - AGED_S))
    kept = connection.execute(sa.select(sa.func.max(jobs.c.virtual_finish)).where(stays)).scalar_one() or 0.0
    passed = sa.and_(passed, jobs.c.virtual_finish > kept)
    begin = sa.func.min(jobs.c.virtual_finish - jobs.c.pictures / weight)
    first = connection.execute(sa.select(begin).where(passed)).scalar_one()
    if first is None:
        first = connection.execute(sa.select(fair_share.c.virtual_time)).scalar_one()
    finishes = list(itertools.accumulate((count / weight for count in pictures), initial=max(first, kept)))
    if priority > Priority.LOW:
        moved = {"virtual_finish": jobs.c.virtual_finish + (finishes[-1] - finishes[0])}
        connection.execute(sa.update(jobs).where(passed).values(moved))
    return finishes[1:]


def advance(connection: sa.Connection, virtual_finish: float) -> None:
    """Move the virtual time on to a job that was claimed; it never goes back."""
    behind = fair_share.c.virtual_time < virtual_finish
    connection.execute(sa.update(fair_share).where(behind).values(virtual_time=virtual_finish))
