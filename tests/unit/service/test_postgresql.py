"""What only a database server does: it restarts, and its roles and locks are its own."""

import time

import pytest
import sqlalchemy as sa
from doubles.service import add

from instantid_serve.errors import DatabaseError
from instantid_serve.service.database import open_database
from instantid_serve.service.jobs import Jobs


@pytest.fixture
def url(postgres):
    url = postgres.create_database(migrated=True)
    yield url
    postgres.drop_database(url)


@pytest.fixture
def database(url):
    database = open_database(url, busy_timeout_s=2)
    yield database
    database.close()


def test_the_tests_log_in_as_an_ordinary_role_that_owns_its_tables(database):
    unbound = "SELECT rolsuper OR rolbypassrls FROM pg_roles WHERE rolname = current_user"
    owners = "SELECT tableowner = current_user FROM pg_tables WHERE tablename = 'jobs'"

    with database.read() as connection:
        assert not connection.execute(sa.text(unbound)).scalar_one()
        assert connection.execute(sa.text(owners)).scalar_one()


def test_an_outage_is_a_database_error_and_its_end_is_noticed(postgres, database):
    jobs = Jobs(database)
    job = add(jobs)
    postgres.stop()

    try:
        with pytest.raises(DatabaseError):
            database.ping()
    finally:
        postgres.start()

    assert jobs.get("alice", job.id) == job


def test_connections_that_a_restart_cut_are_replaced(postgres, database):
    database.ping()

    postgres.restart()

    database.ping()


def test_a_lock_that_is_not_given_up_is_a_database_error_in_time(url, database):
    other = open_database(url)
    with other.write() as connection:
        connection.execute(sa.text("LOCK TABLE jobs"))
        began = time.monotonic()

        with pytest.raises(DatabaseError):
            add(Jobs(database))

    assert 1.5 < time.monotonic() - began < 10
    other.close()


def test_a_process_that_is_frozen_in_a_transaction_keeps_its_locks_no_longer_than_others_wait(url):
    frozen, other = open_database(url, busy_timeout_s=1), open_database(url, busy_timeout_s=10)
    job = add(Jobs(other))

    def freeze_in_a_transaction():
        with frozen.write() as connection:
            connection.execute(sa.text("SELECT 1 FROM jobs FOR UPDATE"))
            Jobs(other).request_cancel("alice", job.id)
            connection.execute(sa.text("SELECT 1"))

    with pytest.raises(DatabaseError):
        freeze_in_a_transaction()

    assert Jobs(other).get("alice", job.id).cancel_requested
    frozen.close()
    other.close()
