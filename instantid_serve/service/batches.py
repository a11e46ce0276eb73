"""Batches: jobs that came together. A batch has no state of its own; what it says is counted from its jobs."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from instantid_serve.errors import NotFoundError
from instantid_serve.service.database import Database
from instantid_serve.service.job import JobStatus
from instantid_serve.service.tables import batches as table
from instantid_serve.service.tables import jobs, owned_by


@dataclasses.dataclass(frozen=True, slots=True)
class Batch:
    """A batch as it stands. ``jobs``: how many were accepted; ``counts``: those of them that were not deleted."""

    id: str
    jobs: int
    metadata: Mapping[str, str]
    created_at: float
    counts: Mapping[JobStatus, int]

    @property
    def done(self) -> bool:
        """Whether every job has ended."""
        return not (self.counts[JobStatus.QUEUED] or self.counts[JobStatus.RUNNING])


class Batches:
    """The batches of a database, for tenants. Synchronous, and raises DatabaseError, as :class:`.jobs.Jobs` is."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def get(self, tenant: str, batch_id: str) -> Batch:
        """The tenant's batch. Raises NotFoundError when there is none, or it is another tenant's."""
        query = sa.select(table).where(table.c.id == batch_id, owned_by(table, tenant))
        with self._database.read(tenant) as connection:
            found = _counted(connection, tenant, connection.execute(query).all())
        if not found:
            raise NotFoundError("there is no such batch")
        return found[0]

    def find(self, tenant: str, before: tuple[float, str] | None, limit: int) -> list[Batch]:
        """The tenant's batches, the newest first, those before the (created_at, id) that ``before`` names."""
        query = sa.select(table).where(owned_by(table, tenant))
        if before is not None:
            query = query.where(sa.tuple_(table.c.created_at, table.c.id) < before)
        query = query.order_by(table.c.created_at.desc(), table.c.id.desc()).limit(limit)
        with self._database.read(tenant) as connection:
            return _counted(connection, tenant, connection.execute(query).all())

    def items(self, tenant: str, batch_id: str) -> list[tuple[str, JobStatus]]:
        """The ids and statuses of the batch's jobs, in the order they came; deleted ones are left out."""
        query = sa.select(jobs.c.id, jobs.c.status).where(_kept(tenant), jobs.c.batch_id == batch_id)
        with self._database.read(tenant) as connection:
            return [(row.id, JobStatus(row.status)) for row in connection.execute(query.order_by(jobs.c.id))]


def _kept(tenant: str) -> sa.ColumnElement[bool]:
    return sa.and_(owned_by(jobs, tenant), jobs.c.deleted_at.is_(None))


def _counted(connection: sa.Connection, tenant: str, rows: Sequence[sa.Row[Any]]) -> list[Batch]:
    ids = [row.id for row in rows]
    query = (
        sa.select(jobs.c.batch_id, jobs.c.status, sa.func.count().label("number"))
        .where(_kept(tenant), jobs.c.batch_id.in_(ids))
        .group_by(jobs.c.batch_id, jobs.c.status)
    )
    found = {(row.batch_id, JobStatus(row.status)): row.number for row in connection.execute(query)} if ids else {}
    return [
        Batch(
            row.id,
            row.jobs,
            row.metadata or {},
            row.created_at,
            {status: found.get((row.id, status), 0) for status in JobStatus},
        )
        for row in rows
    ]
