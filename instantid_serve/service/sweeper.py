"""Removes what is past its time: objects first, then the row that names them, so that nothing is ever forgotten.

Whoever dies in the middle leaves rows behind that the next sweep finds again. Two sweepers at once do the same work
twice and no harm.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

import sqlalchemy as sa

from instantid_serve.errors import InstantIDError
from instantid_serve.service.database import Clock, Database
from instantid_serve.service.ids import made_at
from instantid_serve.service.job import JobStatus
from instantid_serve.service.results import ResultStore, identity_folder, job_folder, upload_folder
from instantid_serve.service.tables import (
    batches,
    events,
    idempotency_keys,
    identities,
    jobs,
    uploads,
    webhook_deliveries,
    workers,
)
from instantid_serve.service.uploads import LINK_S

log = logging.getLogger(__name__)

_BATCH = 200
_SILENT_S = 3600.0  # a worker that said nothing for so long has ended
_SLOW_WRITE_S = 300.0  # what a write may take that began just before its link ended
_ORPHAN_S = 86_400.0  # younger folders may belong to a request that is still being taken in
_TABLES = {"gen": jobs, "idn": identities, "upl": uploads}

_Forget = Callable[[sa.Connection, Sequence[sa.Row[Any]]], None]


@dataclasses.dataclass(frozen=True, slots=True)
class Swept:
    """What a sweep removed. ``stuck``: things whose objects could not be removed now; the next sweep tries again."""

    jobs: int
    identities: int
    uploads: int
    stuck: int


class Sweeper:
    """Sweeps one database and its result store. ``retention_s``: for ended jobs of versions that set no time.

    ``batch``: how many things a transaction, or a page of the store, may name.
    """

    def __init__(
        self,
        database: Database,
        store: ResultStore,
        clock: Clock | None = None,
        *,
        retention_s: float = 86_400.0,
        batch: int = _BATCH,
    ) -> None:
        self._database = database
        self._store = store
        self._clock = clock or database.now
        self._retention_s = retention_s
        self._batch = batch

    def sweep(self) -> Swept:
        """Remove all that is past its time, or was deleted.

        Raises DatabaseError, and StoreError for a store that is not there at all.
        """
        self._date_old_jobs()
        ended = jobs.c.status.in_([status for status in JobStatus if status.terminal])  # others still need their photo
        # As long as its link lasts an upload may be filled, deleted or not.
        closed = uploads.c.created_at <= self._clock() - (LINK_S + _SLOW_WRITE_S)
        of_jobs = self._remove(jobs, ended, job_folder, _forget_jobs)
        of_identities = self._remove(identities, sa.true(), identity_folder, _forgetting(identities))
        of_uploads = self._remove(uploads, closed, upload_folder, _forgetting(uploads))
        self._forget_keys()
        with self._database.write() as connection:
            connection.execute(sa.delete(workers).where(workers.c.seen_at < self._clock() - _SILENT_S))
        stuck = of_jobs[1] + of_identities[1] + of_uploads[1]
        return Swept(of_jobs[0], of_identities[0], of_uploads[0], stuck)

    def reconcile(self) -> int:
        """Remove folders that are a day old and have no row: of requests that died, and of late workers.

        Return how many. It lists the whole store, so it is for once a day.
        """
        with self._database.read() as connection:
            now: float = connection.execute(sa.select(self._clock())).scalar_one()
        removed = 0
        for some in _batched(self._store.folders(), self._batch):
            known = self._known([folder.partition("/")[2] for folder in some])
            orphans = [folder for folder in some if _is_old(folder, now) and folder.partition("/")[2] not in known]
            removed += sum(self._erase(folder) for folder in orphans)
        return removed

    def _remove(
        self, table: sa.Table, due: sa.ColumnElement[bool], folder: Callable[[str, str], str], forget: _Forget
    ) -> tuple[int, int]:
        """How many things were removed, and how many stay because the store failed."""
        removed = stuck = 0
        last = None
        while rows := self._due(table, due, last):
            erased = [row for row in rows if self._erase(folder(row.tenant, row.id))]
            if erased:
                with self._database.write() as connection:
                    forget(connection, erased)
            removed, stuck = removed + len(erased), stuck + len(rows) - len(erased)
            last = rows[-1]
        return removed, stuck

    def _due(self, table: sa.Table, due: sa.ColumnElement[bool], last: sa.Row[Any] | None) -> Sequence[sa.Row[Any]]:
        """The next things that are past their time: behind the last one, so that a stuck one stops nothing."""
        query = sa.select(table).where(table.c.expires_at <= self._clock(), due)
        if last is not None:
            query = query.where(sa.tuple_(table.c.expires_at, table.c.id) > (last.expires_at, last.id))
        with self._database.read() as connection:
            return connection.execute(query.order_by(table.c.expires_at, table.c.id).limit(self._batch)).all()

    def _erase(self, folder: str) -> bool:
        try:
            self._store.delete_all(folder)
        except InstantIDError as error:
            log.warning("objects past their time could not be removed: %s", error.code)
            self._store.ping()  # when nothing answers, waiting for each of thousands would take the whole day
            return False
        return True

    def _date_old_jobs(self) -> None:
        ended = sa.and_(jobs.c.expires_at.is_(None), jobs.c.finished_at.is_not(None))
        with self._database.read() as connection:
            if connection.execute(sa.select(jobs.c.id).where(ended).limit(1)).first() is None:
                return
        with self._database.write() as connection:
            connection.execute(sa.update(jobs).where(ended).values(expires_at=self._clock() + self._retention_s))

    def _forget_keys(self) -> None:
        found = self._batch
        while found == self._batch:
            named = sa.select(idempotency_keys.c.tenant, idempotency_keys.c.key)
            some = named.where(idempotency_keys.c.expires_at <= self._clock()).limit(self._batch)
            which = sa.tuple_(idempotency_keys.c.tenant, idempotency_keys.c.key).in_(some)
            with self._database.write() as connection:
                found = connection.execute(sa.delete(idempotency_keys).where(which)).rowcount

    def _known(self, ids: Sequence[str]) -> set[str]:
        with self._database.read() as connection:
            return {
                found
                for kind, table in _TABLES.items()
                for found in connection.scalars(
                    sa.select(table.c.id).where(table.c.id.in_([an_id for an_id in ids if an_id.startswith(kind)]))
                )
            }


def _forgetting(table: sa.Table) -> _Forget:
    def forget(connection: sa.Connection, rows: Sequence[sa.Row[Any]]) -> None:
        connection.execute(sa.delete(table).where(table.c.id.in_([row.id for row in rows])))

    return forget


def _forget_jobs(connection: sa.Connection, rows: Sequence[sa.Row[Any]]) -> None:
    ids = [row.id for row in rows]
    connection.execute(sa.delete(events).where(events.c.job_id.in_(ids)))
    # Of jobs that merely came to their end, the log of deliveries has a time of its own.
    deleted = [row.id for row in rows if row.deleted_at is not None]
    connection.execute(sa.delete(webhook_deliveries).where(webhook_deliveries.c.job_id.in_(deleted)))
    connection.execute(sa.delete(jobs).where(jobs.c.id.in_(ids)))
    emptied = batches.c.id.in_({row.batch_id for row in rows if row.batch_id})
    left = sa.exists().where(jobs.c.batch_id == batches.c.id)
    connection.execute(sa.delete(batches).where(emptied, ~left))


def _is_old(folder: str, now: float) -> bool:
    try:
        return made_at(folder.partition("/")[2]) < now - _ORPHAN_S
    except ValueError:  # no id of ours, though it looks like one: whoever put it there may remove it
        return False


def _batched(items: Iterable[str], size: int) -> Iterator[list[str]]:
    rest = iter(items)
    while some := list(islice(rest, size)):
        yield some
