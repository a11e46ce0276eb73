"""A database of the test's own, on SQLite and on PostgreSQL, and jobs on a clock that the test moves."""

import shutil

import pytest
from doubles.service import HandClock

from instantid_serve.service.database import open_database
from instantid_serve.service.job_queue import JobQueue
from instantid_serve.service.jobs import Jobs
from instantid_serve.service.tenants import Tenants
from instantid_serve.settings import TenancySettings

BACKENDS = ["sqlite", "postgresql"]


@pytest.fixture(params=BACKENDS)
def empty_url(request, tmp_path):
    """Of a database without tables."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'jobs.sqlite3'}"
    else:
        yield from on_postgres(request.getfixturevalue("postgres"), migrated=False)


@pytest.fixture(params=BACKENDS)
def database_url(request, tmp_path, migrated_file):
    """Of a database with this version's tables."""
    if request.param == "sqlite":
        yield f"sqlite:///{shutil.copy(migrated_file, tmp_path / 'jobs.sqlite3')}"
    else:
        yield from on_postgres(request.getfixturevalue("postgres"), migrated=True)


def on_postgres(server, *, migrated):
    url = server.create_database(migrated=migrated)
    yield url
    server.drop_database(url)


@pytest.fixture
def database(database_url):
    database = open_database(database_url, busy_timeout_s=10)
    yield database
    database.close()


@pytest.fixture
def clock():
    return HandClock()


@pytest.fixture
def jobs(database, clock):
    return Jobs(database, clock)


@pytest.fixture
def queue(database, clock):
    return JobQueue(database, clock, max_attempts=3)


@pytest.fixture
def tenants(database, clock):
    return Tenants(database, TenancySettings(), clock)
