"""Opening, upgrading and losing a database."""

import contextlib
import sqlite3
import subprocess
import sys
import threading
import time

import pytest
import sqlalchemy as sa
import sqlalchemy.exc
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from doubles.service import add

from instantid_serve.errors import ConfigurationError, ConflictError, DatabaseError
from instantid_serve.service.database import open_database, require_current, translated_errors, upgrade
from instantid_serve.service.fairness import Room
from instantid_serve.service.job_queue import JobQueue
from instantid_serve.service.jobs import Jobs
from instantid_serve.service.tables import compatibility, metadata


def sqlite_url(folder):
    return f"sqlite:///{folder / 'jobs.sqlite3'}"


class TestOpening:
    @pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:", "mysql://host/db", "not a url"])
    def test_a_url_that_cannot_be_served_is_refused(self, url):
        with pytest.raises(ConfigurationError, match=r"database\.url"):
            open_database(url)

    def test_a_refused_url_shows_no_password(self):
        with pytest.raises(ConfigurationError) as caught:
            open_database("mysql://user:hunter2@host/db")

        assert "hunter2" not in f"{caught.value}{caught.value.facts}"

    def test_sqlite_waits_for_locks_and_keeps_what_it_committed(self, tmp_path):
        database = open_database(sqlite_url(tmp_path), busy_timeout_s=7)

        with database.read() as connection:
            pragmas = ("journal_mode", "busy_timeout", "foreign_keys", "synchronous")
            values = [connection.exec_driver_sql(f"PRAGMA {name}").scalar_one() for name in pragmas]
        database.close()

        assert values == ["wal", 7000, 1, 2]

    def test_its_time_is_seconds_since_the_epoch(self, database):
        with database.read() as connection:
            now = connection.execute(sa.select(database.now())).scalar_one()

        assert now == pytest.approx(time.time(), abs=2)
        assert isinstance(now, float)

    def test_jobs_use_the_databases_time(self, database):
        job = add(Jobs(database))

        assert job.created_at == pytest.approx(time.time(), abs=2)


class TestUpgrade:
    def test_the_migrations_make_the_tables_that_the_code_names(self, database):
        with database.read() as connection:
            difference = compare_metadata(MigrationContext.configure(connection), metadata)

        assert difference == []

    def test_it_changes_nothing_the_second_time(self, database):
        job = add(Jobs(database))

        upgrade(database)

        assert Jobs(database).get("alice", job.id) == job

    def test_processes_that_start_at_once_do_not_meet(self, empty_url):
        script = (
            "import sys; from instantid_serve.service.database import *;"
            "database = open_database(sys.argv[1]); upgrade(database); upgrade(database); database.ping()"
        )
        starts = [subprocess.Popen([sys.executable, "-c", script, empty_url]) for _ in range(4)]

        assert [start.wait(60) for start in starts] == [0, 0, 0, 0]

    @pytest.mark.parametrize("use", [upgrade, require_current])
    def test_a_database_of_a_later_version_that_left_no_room_is_refused(self, later_version, use):
        database = later_version(oldest="9998")

        with pytest.raises(ConfigurationError, match="later version"):
            use(database)

    @pytest.mark.parametrize("use", [upgrade, require_current])
    def test_a_database_of_a_later_version_that_left_room_is_used_as_it_is(self, later_version, use):
        database = later_version(oldest="0002")

        use(database)

        assert add(Jobs(database)).tenant == "alice"


@pytest.fixture
def later_version(tmp_path):
    """A database that a later version has been at, whose oldest possible companion is told."""
    database = open_database(sqlite_url(tmp_path))
    upgrade(database)

    def of(oldest):
        with database.write() as connection:
            connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
            connection.execute(sa.update(compatibility).values(oldest=oldest))
        return database

    yield of
    database.close()


class TestWriting:
    def test_what_raised_is_not_kept(self, database):
        def write_and_raise():
            with database.write() as connection:
                connection.execute(sa.text("CREATE TABLE scratch (id INTEGER)"))
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            write_and_raise()

        with database.read() as connection:
            assert "scratch" not in sa.inspect(connection).get_table_names()

    def test_readers_see_one_moment_while_others_write(self, database):
        jobs = Jobs(database)
        count = sa.select(sa.func.count()).select_from(metadata.tables["jobs"])
        with database.read() as connection:
            if connection.dialect.name == "postgresql":
                pytest.skip("PostgreSQL reads committed rows; only single statements are used here")
            before = connection.execute(count).scalar_one()
            add(jobs)

            assert connection.execute(count).scalar_one() == before

    def test_a_writer_that_reads_first_can_still_write(self, database):
        jobs = Jobs(database)
        job = add(jobs)
        table = metadata.tables["jobs"]
        with database.write() as connection:
            connection.execute(sa.select(table.c.id)).all()
            other = threading.Thread(target=add, args=(jobs,))
            other.start()
            other.join(0.3)

            connection.execute(sa.update(table).where(table.c.id == job.id).values(step=1))
        other.join(20)

        assert jobs.get("alice", job.id).step == 1
        assert sum(JobQueue(database).counts().values()) == 2

    def test_many_threads_write_without_a_locked_error(self, database):
        jobs = Jobs(database)
        threads = [threading.Thread(target=lambda: [add(jobs) for _ in range(10)]) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)

        assert sum(JobQueue(database).counts().values()) == 80


class TestErrors:
    def test_a_lock_that_is_not_given_up_is_a_database_error_in_time(self, tmp_path):
        database = open_database(sqlite_url(tmp_path), busy_timeout_s=0.3)
        upgrade(database)
        with contextlib.closing(sqlite3.connect(tmp_path / "jobs.sqlite3", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            began = time.monotonic()

            with pytest.raises(DatabaseError) as caught:
                add(Jobs(database))

        assert time.monotonic() - began < 3
        assert isinstance(caught.value.__cause__, sqlalchemy.exc.OperationalError)
        database.close()

    def test_a_file_that_is_no_database_is_a_database_error(self, tmp_path):
        (tmp_path / "jobs.sqlite3").write_bytes(b"no database at all" * 100)

        with pytest.raises(DatabaseError):
            open_database(sqlite_url(tmp_path)).ping()

    def test_a_folder_in_the_files_place_is_a_database_error(self, tmp_path):
        (tmp_path / "jobs.sqlite3").mkdir()

        with pytest.raises(DatabaseError):
            open_database(sqlite_url(tmp_path)).ping()

    def test_no_message_shows_what_a_statement_carried(self, database):
        job = add(Jobs(database), prompt="a secret prompt")

        with pytest.raises(ConflictError) as caught:
            add(Jobs(database), "bob", id=job.id, spec=job.spec)

        assert "a secret prompt" not in f"{caught.value} {caught.value.__cause__}"

    def test_values_that_cannot_be_stored_are_no_outage(self, database):
        jobs, queue = Jobs(database), JobQueue(database)
        job = add(jobs)
        (claim,) = queue.claim("w1", Room(4), 30)

        with pytest.raises(
            (sqlalchemy.exc.StatementError, TypeError)
        ):  # one driver asks before, the other while it sends
            queue.settle_failed(job.id, claim.fence, {"facts": {"not": object()}})

    def test_every_error_of_the_driver_is_translated(self):
        kinds = [kind for kind in vars(sqlite3).values() if isinstance(kind, type) and issubclass(kind, sqlite3.Error)]
        kinds += [sqlalchemy.exc.TimeoutError, sqlalchemy.exc.ResourceClosedError, sqlalchemy.exc.DisconnectionError]

        for kind in kinds:
            with pytest.raises(DatabaseError), translated_errors():
                raise kind("broken")
