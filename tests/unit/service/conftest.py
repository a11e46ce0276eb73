"""A database without rows, on SQLite and on PostgreSQL, and jobs on a clock that the test moves."""

import shutil

import pytest
import sqlalchemy as sa
from doubles.service import HandClock

from instantid_serve.service.database import metadata, open_database, upgrade
from instantid_serve.service.jobs import Jobs

BACKENDS = ["sqlite", "postgresql"]


@pytest.fixture(scope="session")
def migrated_file(tmp_path_factory):
    """An SQLite file with this version's tables, to be copied: migrating takes longer."""
    file = tmp_path_factory.mktemp("migrated") / "jobs.sqlite3"
    database = open_database(f"sqlite:///{file}")
    upgrade(database)
    database.close()
    return file


@pytest.fixture(scope="session")
def migrated_postgres(postgres):
    """The URL of a database with this version's tables, all of them empty."""
    url = postgres.create_database()
    database = open_database(url)
    upgrade(database)
    with database.read() as connection:
        rows = {name: connection.execute(sa.select(table)).first() for name, table in metadata.tables.items()}
    database.close()
    # Tests get it with truncated tables: a new database for each would take 60 ms more. So no migration may add rows.
    assert not any(rows.values()), rows
    return url


@pytest.fixture
def postgres_url(postgres, migrated_postgres):
    """Of a PostgreSQL database with this version's tables, for tests that change no table's form."""
    names = ", ".join(table.name for table in metadata.sorted_tables)
    postgres.as_superuser(f"TRUNCATE {names} RESTART IDENTITY", migrated_postgres.rpartition("/")[2])
    return migrated_postgres


@pytest.fixture(params=BACKENDS)
def database_url(request, tmp_path, migrated_file):
    """Of a database with this version's tables, for tests that change no table's form."""
    if request.param == "postgresql":
        return request.getfixturevalue("postgres_url")
    return f"sqlite:///{shutil.copy(migrated_file, tmp_path / 'jobs.sqlite3')}"


@pytest.fixture(params=BACKENDS)
def empty_url(request, tmp_path):
    """Of a database without tables, the test's own."""
    if request.param == "postgresql":
        return request.getfixturevalue("postgres").create_database()
    return f"sqlite:///{tmp_path / 'jobs.sqlite3'}"


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
    return Jobs(database, clock, max_attempts=3)
