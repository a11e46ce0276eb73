"""From one version's tables to the next, with rows in them and with the old version still at work."""

import alembic.command
import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from doubles.service import add, claim_one, image, spec

from instantid_serve.errors import ConfigurationError
from instantid_serve.service.database import _alembic, open_database, require_current, upgrade
from instantid_serve.service.fairness import Room
from instantid_serve.service.job import JobStatus, Priority
from instantid_serve.service.job_queue import JobQueue
from instantid_serve.service.jobs import Jobs
from instantid_serve.service.tables import compatibility, metadata
from instantid_serve.service.tenants import Tenants
from instantid_serve.settings import TenancySettings

FIRST = sa.Table(  # the jobs table as version 0001 knew it
    "jobs",
    sa.MetaData(),
    *(sa.Column(name, sa.Text) for name in ("id", "tenant", "status", "photo_key", "worker")),
    *(sa.Column(name, sa.Integer) for name in ("pictures", "attempts", "fence", "step", "steps")),
    *(sa.Column(name, sa.Double) for name in ("lease_until", "not_before", "created_at", "updated_at")),
    *(sa.Column(name, sa.Double) for name in ("started_at", "finished_at")),
    *(sa.Column(name, sa.JSON) for name in ("spec", "images", "error", "timings")),
    sa.Column("cancel_requested", sa.Boolean),
)
NEW = {"attempts": 0, "fence": 0, "step": 0, "steps": 10, "images": [], "timings": {}, "cancel_requested": False}


def migrate(database, move, revision):
    config = _alembic()
    with database.write() as connection:
        config.attributes["connection"] = connection
        move(config, revision)


def insert_as_0001(database, job_id, tenant="alice", **changes):
    """What version 0001 does to accept a job; it knows no other columns."""
    row = {"id": job_id, "tenant": tenant, "status": "queued", "spec": spec().to_json(), "photo_key": f"{job_id}/photo"}
    times = dict.fromkeys(("not_before", "created_at", "updated_at"), 1000.0)
    with database.write() as connection:
        connection.execute(sa.insert(FIRST).values(**row, **NEW, **times, pictures=1, **changes))


def settle_as_0001(database, job_id):
    """What version 0001 does to a job that it holds."""
    values = {"status": "succeeded", "images": [image().to_json()], "finished_at": 1002.0}
    with database.write() as connection:
        connection.execute(sa.update(FIRST).where(FIRST.c.id == job_id).values(values))


@pytest.fixture
def filled(empty_url):
    """A database of version 0001 with jobs of two tenants."""
    database = open_database(empty_url)
    migrate(database, alembic.command.upgrade, "0001")
    for number in range(3):
        insert_as_0001(database, f"gen_{number}", "bob" if number == 2 else "alice")
    yield database
    database.close()


def difference(database):
    with database.read() as connection:
        return compare_metadata(MigrationContext.configure(connection), metadata)


class TestFromTheFirst:
    def test_every_job_is_kept_as_it_was(self, filled):
        upgrade(filled)

        jobs = [Jobs(filled).get(tenant, job_id) for tenant, job_id in (("alice", "gen_0"), ("bob", "gen_2"))]
        assert [(job.status, job.spec, job.priority) for job in jobs] == [
            (JobStatus.QUEUED, spec(), Priority.NORMAL)
        ] * 2
        assert jobs[0].photos == ("gen_0/photo",)

    def test_its_tenants_are_known_from_now_on(self, filled):
        upgrade(filled)

        assert [tenant.id for tenant in Tenants(filled, TenancySettings()).list()] == ["alice", "bob"]

    def test_its_jobs_are_claimed_before_later_ones_and_end(self, filled):
        upgrade(filled)
        later = add(Jobs(filled))
        queue = JobQueue(filled)
        for _ in range(3):
            [claim] = queue.claim("w1", Room(1), 30)
            assert claim.job.id != later.id
            queue.settle_succeeded(claim.job.id, claim.fence, [image()], {})

        assert claim_one(queue).job.id == later.id

    def test_the_tables_are_those_that_the_code_names(self, filled):
        upgrade(filled)

        assert difference(filled) == []


class TestBeside:
    def test_the_first_version_goes_on_accepting_jobs(self, filled):
        upgrade(filled)

        insert_as_0001(filled, "gen_new", "carol")

        claims = JobQueue(filled).claim("w1", Room(100), 30)
        assert "gen_new" in [claim.job.id for claim in claims]

    def test_and_ending_them(self, filled):
        upgrade(filled)
        settle_as_0001(filled, "gen_0")

        job = Jobs(filled).get("alice", "gen_0")

        assert (job.status, job.images) == (JobStatus.SUCCEEDED, (image(),))


class TestBack:
    def test_down_and_up_again_keeps_the_jobs(self, filled):
        upgrade(filled)
        migrate(filled, alembic.command.downgrade, "0001")
        insert_as_0001(filled, "gen_between")

        upgrade(filled)

        assert {Jobs(filled).get("alice", f"gen_{name}").status for name in ("0", "1", "between")} == {JobStatus.QUEUED}
        assert difference(filled) == []

    def test_down_is_what_the_first_version_made(self, filled):
        upgrade(filled)
        migrate(filled, alembic.command.downgrade, "0001")

        with filled.read() as connection:
            assert set(sa.inspect(connection).get_table_names()) == {"jobs", "alembic_version"}
            columns = {column["name"] for column in sa.inspect(connection).get_columns("jobs")}
        assert columns == set(FIRST.columns.keys())

    def test_down_to_nothing_leaves_nothing(self, filled):
        upgrade(filled)
        migrate(filled, alembic.command.downgrade, "base")

        with filled.read() as connection:
            assert sa.inspect(connection).get_table_names() == ["alembic_version"]


@pytest.fixture
def later_version(database):
    """A database that a later version has been at; ``oldest``: the oldest that it says it works beside."""

    def of(oldest):
        with database.write() as connection:
            connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
            connection.execute(sa.update(compatibility).values(oldest=oldest))
        return database

    return of


@pytest.mark.parametrize("use", [upgrade, require_current])
class TestLaterVersions:
    @pytest.mark.parametrize("oldest", ["0001", "0002"])
    def test_one_that_left_room_is_used_as_it_is(self, later_version, use, oldest):
        database = later_version(oldest)

        use(database)

        assert add(Jobs(database)).tenant == "alice"

    def test_one_that_left_no_room_is_refused(self, later_version, use):
        database = later_version("9998")

        with pytest.raises(ConfigurationError, match="later version"):
            use(database)


class TestRequiring:
    def test_an_older_database_is_refused_and_not_changed(self, filled):
        with pytest.raises(ConfigurationError, match="database upgrade"):
            require_current(filled)

        with filled.read() as connection:
            assert MigrationContext.configure(connection).get_current_revision() == "0001"

    def test_one_of_this_version_is_used(self, database):
        require_current(database)
