"""A database with its tables, and jobs on a clock that the test moves."""

import os

import pytest
import sqlalchemy as sa
from doubles.service import HandClock

from instantid_serve.service.database import open_database, upgrade
from instantid_serve.service.job_queue import JobQueue
from instantid_serve.service.jobs import Jobs
from instantid_serve.service.tables import compatibility, fair_share, metadata
from instantid_serve.service.tenants import Tenants
from instantid_serve.settings import TenancySettings

POSTGRES = os.environ.get("TEST_POSTGRES_URL")  # the same tests on PostgreSQL, where there is one


@pytest.fixture(params=["sqlite", *(["postgresql"] if POSTGRES else [])])
def database_url(request, tmp_path):
    return POSTGRES if request.param == "postgresql" else f"sqlite:///{tmp_path / 'jobs.sqlite3'}"


@pytest.fixture
def database(database_url):
    database = open_database(database_url, busy_timeout_s=10)
    upgrade(database)
    with database.write() as connection:
        for table in set(metadata.sorted_tables) - {compatibility, fair_share}:
            connection.execute(sa.delete(table))
        connection.execute(sa.update(fair_share).values(virtual_time=0))
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
