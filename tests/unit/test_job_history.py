"""What the benchmark of kills looks for, it finds where it is."""

import hashlib

import pytest
import sqlalchemy as sa
from doubles.service import LEASE_S, new_job

from instantid_serve.messages import StoredImage
from instantid_serve.service import tables
from instantid_serve.service.database import open_database, upgrade
from instantid_serve.service.fairness import Room
from instantid_serve.service.idempotency import IdempotencyKey
from instantid_serve.service.job_queue import JobQueue
from instantid_serve.service.jobs import Jobs
from instantid_serve.service.tenants import Tenants
from instantid_serve.settings import TenancySettings
from load_tests.bench.job_history import History

JOBS = 3
PICTURE = b"a picture"
LOST, KEYS, RESULTS, SEEDS, ENDS, USAGE = (
    "accepted jobs that did not succeed",
    "keys with other than one job",
    "jobs with other than one result that is what its row says",
    "seeds with other than one picture",
    "jobs with other than one end",
    "pictures counted wrongly",
)


class Past:
    """Jobs of one tenant and seed that all succeeded, in a database and a folder."""

    def __init__(self, folder):
        self.folder, self.url = folder, f"sqlite:///{folder / 'jobs.sqlite3'}"
        database = open_database(self.url)
        upgrade(database)
        jobs, queue = Jobs(database), JobQueue(database)
        tenant = Tenants(database, TenancySettings()).ensure("alice")
        self.answered = {
            number: {jobs.accept(tenant, [new_job()], IdempotencyKey(f"job-{number}", "same")).jobs[0].id}
            for number in range(JOBS)
        }
        for claim in queue.claim("w1", Room(100), LEASE_S):
            queue.settle_succeeded(claim.job.id, claim.fence, [self._store(f"alice/{claim.job.id}/1/0.png")], {})
        database.close()

    def _store(self, key):
        path = self.folder / key
        path.parent.mkdir(parents=True)
        path.write_bytes(PICTURE)
        return StoredImage(key, "image/png", len(PICTURE), hashlib.sha256(PICTURE).hexdigest(), 64, 64, 7)

    @property
    def one_id(self):
        return min(self.answered[0])

    def change(self, statement):
        database = open_database(self.url)
        with database.write() as connection:
            connection.execute(statement)
        database.close()

    def change_job(self, **values):
        self.change(sa.update(tables.jobs).where(tables.jobs.c.id == self.one_id).values(values))

    def spoil_picture(self):
        (self.folder / f"alice/{self.one_id}/1/0.png").write_bytes(b"another picture")

    def end_twice(self):
        row = {"tenant": "alice", "job_id": self.one_id, "type": "generation.failed", "data": {}, "at": 1.0}
        self.change(sa.insert(tables.events).values(row))

    def faults(self):
        history = History.read(self.url, "alice", self.folder, self.answered)
        return {fault for fault, number in history.faults().items() if number}


@pytest.fixture
def past(tmp_path):
    return Past(tmp_path)


def test_a_good_history_has_no_faults(past):
    assert past.faults() == set()


@pytest.mark.parametrize(
    ("spoil", "faults"),
    [
        (lambda past: past.change_job(status="running"), {LOST, ENDS}),
        (lambda past: past.answered[0].add("gen_another"), {LOST, KEYS, RESULTS}),
        (lambda past: past.change_job(images=[]), {RESULTS}),
        (lambda past: past.change_job(images=[{"key": "alice/x", "sha256": "0"}]), {RESULTS, SEEDS}),
        (Past.spoil_picture, {RESULTS}),
        (Past.end_twice, {ENDS}),
        (lambda past: past.change(sa.update(tables.usage).values(made=JOBS + 1)), {USAGE}),
        (lambda past: past.change(sa.delete(tables.idempotency_keys)), {KEYS}),
    ],
    ids=["open", "two ids", "no picture", "another picture", "spoiled picture", "two ends", "usage", "keys"],
)
def test_a_fault_is_found(past, spoil, faults):
    spoil(past)

    assert past.faults() == faults


def test_what_was_taken_from_silent_workers_is_read_from_the_fences(past):
    past.change_job(fence=3)

    history = History.read(past.url, "alice", past.folder, past.answered)

    assert history.reclaims() == 2
