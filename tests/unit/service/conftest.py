"""A database with its tables, and jobs on a clock that the test moves."""

import os

import pytest
import sqlalchemy as sa
from doubles.service import HandClock

from instantid_serve.service.database import jobs as table
from instantid_serve.service.database import open_database, upgrade
from instantid_serve.service.jobs import Jobs

POSTGRES = os.environ.get("TEST_POSTGRES_URL")  # the same tests on PostgreSQL, where there is one


@pytest.fixture(params=["sqlite", *(["postgresql"] if POSTGRES else [])])
def database_url(request, tmp_path):
    return POSTGRES if request.param == "postgresql" else f"sqlite:///{tmp_path / 'jobs.sqlite3'}"


@pytest.fixture
def database(database_url):
    database = open_database(database_url, busy_timeout_s=10)
    upgrade(database)
    with database.write() as connection:
        connection.execute(sa.delete(table))
    yield database
    database.close()


@pytest.fixture
def clock():
    return HandClock()


@pytest.fixture
def jobs(database, clock):
    return Jobs(database, clock, max_attempts=3)
