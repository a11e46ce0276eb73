"""What the tables and the result store say of a tenant's jobs when all is over, and what of it should not be."""

from __future__ import annotations

import dataclasses
import hashlib
import time
from collections import Counter, defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from instantid_serve.service.database import open_database
from instantid_serve.service.job import JobStatus
from instantid_serve.service.tables import events, idempotency_keys, jobs, usage

ENDS = frozenset(f"generation.{status.value}" for status in JobStatus if status.terminal)


@dataclasses.dataclass(frozen=True)
class History:
    """All rows of one tenant, and the folder its pictures are in. ``answered``: the ids callers have, by job."""

    answered: Mapping[int, set[str]]
    rows: Mapping[str, sa.Row[Any]]
    told: Mapping[str, list[str]]  # types of events, in order
    keys: int
    used: sa.Row[Any]
    pictures: Path

    @classmethod
    def read(cls, url: str, tenant: str, pictures: Path, answered: Mapping[int, set[str]]) -> History:
        """Read it from the database."""
        database = open_database(url)
        told: dict[str, list[str]] = defaultdict(list)
        mine = idempotency_keys.c.tenant == tenant
        with database.read() as connection:
            rows = {row.id: row for row in connection.execute(sa.select(jobs).where(jobs.c.tenant == tenant))}
            for event in connection.execute(sa.select(events).where(events.c.tenant == tenant).order_by(events.c.id)):
                told[event.job_id].append(event.type)
            keys = connection.execute(sa.select(sa.func.count()).where(mine)).scalar_one()
            used = connection.execute(sa.select(usage).where(usage.c.tenant == tenant)).one()
        database.close()
        return cls(answered, rows, told, keys, used, pictures)

    def faults(self) -> dict[str, int]:
        """How often each thing is so that must not be."""
        accepted = set().union(*self.answered.values())
        lost = [id_ for id_ in accepted if id_ not in self.rows or self.rows[id_].status != JobStatus.SUCCEEDED]
        return {
            "accepted jobs that did not succeed": len(lost),
            "keys with other than one job": sum(len(ids) != 1 for ids in self.answered.values())
            + abs(len(self.rows) - len(self.answered))
            + abs(self.keys - len(self.answered)),
            "jobs with other than one result that is what its row says": sum(not self._sound(id_) for id_ in accepted),
            "seeds with other than one picture": sum(len(found) != 1 for found in self._pictures_by_seed().values()),
            "jobs with other than one end": sum(self._ends(id_) != [self._end(row)] for id_, row in self.rows.items()),
            "pictures counted wrongly": sum(abs(counted - len(self.rows)) for counted in self._counted()),
        }

    def attempts(self) -> Counter[int]:
        """How many jobs needed how many attempts."""
        return Counter(row.attempts for row in self.rows.values())

    def reclaims(self) -> int:
        """How often a job was taken from a silent worker: the fence moves with that, and with every claim."""
        claims = sum(types.count("generation.running") for types in self.told.values())
        return sum(int(row.fence) for row in self.rows.values()) - claims

    def abandoned(self) -> int:
        """Pictures of attempts that were cut off after they had stored one; the sweeper removes them with the job."""
        stored = {str(path.relative_to(self.pictures)) for path in self.pictures.glob("*/gen_*/*/*.png")}
        return len(stored - {image["key"] for row in self.rows.values() for image in row.images})

    def _sound(self, id_: str) -> bool:
        row = self.rows.get(id_)
        if row is None or len(row.images) != 1:
            return False
        path = self.pictures / row.images[0]["key"]
        return path.exists() and bool(hashlib.sha256(path.read_bytes()).hexdigest() == row.images[0]["sha256"])

    def _pictures_by_seed(self) -> dict[int, set[str]]:
        found: dict[int, set[str]] = defaultdict(set)
        for row in self.rows.values():
            found[row.spec["seed"]] |= {image["sha256"] for image in row.images}
        return found

    def _ends(self, id_: str) -> list[str]:
        return [kind for kind in self.told[id_] if kind in ENDS]

    @staticmethod
    def _end(row: sa.Row[Any]) -> str:
        return f"generation.{row.status}"

    def _counted(self) -> tuple[int, int, int]:
        return self.used.jobs, self.used.pictures, self.used.made


def wait_for_all(url: str, timeout_s: float) -> None:
    """Return when every job in the table has ended, or when the time is over: the history says which have not."""
    database, ends = open_database(url), time.monotonic() + timeout_s
    open_ones = sa.select(sa.func.count()).where(jobs.c.status.in_((JobStatus.QUEUED, JobStatus.RUNNING)))
    left = 1
    while left and time.monotonic() < ends:
        time.sleep(0.5)
        with database.read() as connection:
            left = connection.execute(open_ones).scalar_one()
    database.close()
