"""A sweeper that dies, on whichever line, has lost nothing: the next one finishes what it began."""

import shutil
import sys

import pytest
import sqlalchemy as sa
from doubles.service import add

from instantid_serve.service import sweeper as module
from instantid_serve.service.database import open_database, upgrade
from instantid_serve.service.folder_store import FolderStore
from instantid_serve.service.identities import Identities, IdentityPhoto, NewIdentity
from instantid_serve.service.jobs import Jobs
from instantid_serve.service.results import identity_photo_key, image_key, photo_key
from instantid_serve.service.sweeper import Sweeper
from instantid_serve.service.tables import events, identities
from instantid_serve.service.tables import jobs as jobs_table

IDENTITY = "idn_1"


class _KilledError(BaseException):
    """The process ends here."""


@pytest.fixture(scope="module")
def before(tmp_path_factory):
    """A folder with a database and its results: two deleted jobs and an identity of alice's, and a job of bob's."""
    folder = tmp_path_factory.mktemp("before")
    database = open_database(f"sqlite:///{folder / 'jobs.sqlite3'}")
    upgrade(database)
    store = FolderStore(folder / "results")
    jobs = Jobs(database)
    for tenant in ("alice", "alice", "bob"):
        job = add(jobs, tenant)
        store.put(photo_key(tenant, job.id), b"photo", "image/png")
        store.put(image_key(tenant, job.id, 1, 0, "png"), b"picture", "image/png")
        if tenant == "alice":
            jobs.delete(tenant, job.id)
    key = identity_photo_key("alice", IDENTITY, 0)
    store.put(key, b"photo", "image/png")
    registered = Identities(database)
    registered.create("alice", NewIdentity(IDENTITY, "", (IdentityPhoto(key, 1, 1),), {"given": True}, {}, 100.0))
    registered.delete("alice", IDENTITY)
    database.close()
    return folder


def sweep(folder, die_at=None):
    """Sweep; end at the line with that number, counted as they are run. Return what lines were run."""
    database = open_database(f"sqlite:///{folder / 'jobs.sqlite3'}")
    lines = 0

    def trace(frame, event, _argument):
        nonlocal lines
        if frame.f_code.co_filename != module.__file__:
            return None
        if event == "line":
            lines += 1
            if lines == die_at:
                raise _KilledError
        return trace

    usual = sys.gettrace()
    sys.settrace(trace)
    try:
        Sweeper(database, FolderStore(folder / "results"), batch=1).sweep()
    except _KilledError:
        pass
    finally:
        sys.settrace(usual)
        database.close()
    return lines


def objects(folder):
    """Tenant and id of every object there is."""
    results = folder / "results"
    return {path.relative_to(results).parts[:2] for path in results.rglob("*") if path.is_file()}


def rows(folder):
    """Tenant and id of every job, event and identity there is."""
    database = open_database(f"sqlite:///{folder / 'jobs.sqlite3'}")
    with database.read() as connection:
        columns = [(table.c.tenant, table.c.id) for table in (jobs_table, identities)]
        columns.append((events.c.tenant, events.c.job_id))
        found = {tuple(row) for named in columns for row in connection.execute(sa.select(*named))}
    database.close()
    return found


def test_wherever_it_dies_nothing_is_forgotten_and_the_next_sweep_removes_all(before, tmp_path):
    shutil.copytree(before, tmp_path / "whole")
    lines = sweep(tmp_path / "whole")
    assert lines > 50

    for die_at in range(1, lines + 1):
        folder = tmp_path / str(die_at)
        shutil.copytree(before, folder)
        sweep(folder, die_at)
        assert objects(folder) <= rows(folder), f"killed at line event {die_at}"
        sweep(folder)
        assert objects(folder) == rows(folder), f"killed at line event {die_at}"
        assert {tenant for tenant, _ in rows(folder)} == {"bob"}, f"killed at line event {die_at}"
        shutil.rmtree(folder)
