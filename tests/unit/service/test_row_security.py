"""PostgreSQL's row-level security alone: `owned_by` selects everything here, as if a query had forgotten it."""

import importlib
import pkgutil
import sys

import pytest
import sqlalchemy as sa
from doubles.service import LEASE_S, add, new_job

import instantid_serve.service
from instantid_serve.errors import DatabaseError, NotFoundError
from instantid_serve.service.api_keys import ApiKeys
from instantid_serve.service.database import EVERY_TENANT, open_database
from instantid_serve.service.fairness import Room
from instantid_serve.service.idempotency import IdempotencyKey
from instantid_serve.service.job import JobStatus
from instantid_serve.service.jobs import JobFilter
from instantid_serve.service.tables import OF_TENANTS, metadata
from instantid_serve.service.tables import tenants as tenants_table

VALUES = {sa.Text: "x", sa.Integer: 1, sa.SmallInteger: 1, sa.BigInteger: 1, sa.Double: 1.0, sa.Boolean: False}


@pytest.fixture
def database_url(postgres):
    url = postgres.create_database(migrated=True)
    yield url
    postgres.drop_database(url)


@pytest.fixture
def database(database_url):
    database = open_database(database_url)
    yield database
    database.close()


@pytest.fixture(autouse=True)
def _forgotten(monkeypatch):
    """The one patch: every module's `owned_by` lets all rows pass."""
    for found in pkgutil.iter_modules(instantid_serve.service.__path__, "instantid_serve.service."):
        importlib.import_module(found.name)
    for name, module in list(sys.modules.items()):
        if name.startswith("instantid_serve.") and hasattr(module, "owned_by"):
            monkeypatch.setattr(module, "owned_by", lambda *_: sa.true())


def row_of(table, tenant):
    """A row that the table takes; its keys are the tenant's, so that two of them are no conflict."""
    values = {}
    for column in table.c:
        if column.autoincrement is True:
            continue
        kinds = [value for kind, value in VALUES.items() if isinstance(column.type, kind)]
        values[column.name] = kinds[0] if kinds else []
    return (
        values
        | {column.name: f"{tenant}-1" for column in table.primary_key if isinstance(column.type, sa.Text)}
        | {"tenant": tenant}
    )


@pytest.fixture(params=OF_TENANTS, ids=lambda table: table.name)
def table(request, database):
    """A table with one row of alice and one of bob."""
    with database.write() as connection:
        for tenant in ("alice", "bob"):
            connection.execute(sa.insert(request.param).values(row_of(request.param, tenant)))
    return request.param


def owners(database, table, tenant=EVERY_TENANT):
    with database.read(tenant) as connection:
        return sorted(connection.execute(sa.select(table.c.tenant)).scalars())


class TestTables:
    def test_none_with_a_tenant_is_left_out(self):
        assert {table for table in metadata.sorted_tables if "tenant" in table.c} == set(OF_TENANTS)

    def test_a_tenant_sees_its_own_row_alone(self, database, table):
        assert owners(database, table, "alice") == ["alice"]

    def test_a_worker_sees_all(self, database, table):
        assert owners(database, table) == ["alice", "bob"]

    def test_nobody_in_particular_sees_nothing(self, database, table):
        with database.read() as connection:
            connection.exec_driver_sql("SET LOCAL instantid.tenant = ''")

            assert connection.execute(sa.select(table.c.tenant)).all() == []

    def test_a_tenant_cannot_delete_anothers_row(self, database, table):
        with database.write("alice") as connection:
            assert connection.execute(sa.delete(table).where(table.c.tenant == "bob")).rowcount == 0
            assert connection.execute(sa.delete(table)).rowcount == 1

        assert owners(database, table) == ["bob"]

    def test_a_tenant_cannot_change_anothers_row(self, database, table):
        with database.write("alice") as connection:
            mine = connection.execute(sa.update(table).values(tenant="alice")).rowcount

        assert mine == 1
        assert owners(database, table) == ["alice", "bob"]

    def test_a_tenant_cannot_give_its_row_to_another(self, database, table):
        with pytest.raises(DatabaseError) as caught, database.write("alice") as connection:
            connection.execute(sa.update(table).values(tenant="bob"))

        assert "row-level security" in str(caught.value.__cause__)

    def test_a_tenant_cannot_insert_for_another(self, database, table):
        new = row_of(table, "bob") | {column.name: "new" for column in table.primary_key if column.name != "tenant"}
        new = {name: value for name, value in new.items() if not (name == "id" and table.name == "events")}

        with pytest.raises(DatabaseError) as caught, database.write("alice") as connection:
            connection.execute(sa.insert(table).values(new))

        assert "row-level security" in str(caught.value.__cause__)

    def test_what_a_connection_was_for_is_forgotten_with_its_transaction(self, database, table):
        with pytest.raises(ZeroDivisionError), database.write("alice"):
            raise ZeroDivisionError
        with database.read("alice"):
            pass

        assert owners(database, table) == ["alice", "bob"]


def test_of_the_tenants_themselves_each_sees_and_changes_its_own(database, tenants):
    for tenant in ("alice", "bob"):
        tenants.ensure(tenant)

    with database.write("alice") as connection:
        seen = connection.execute(sa.select(tenants_table.c.id)).scalars().all()
        changed = connection.execute(sa.update(tenants_table).values(weight=9.0)).rowcount

    assert (seen, changed) == (["alice"], 1)
    assert tenants.get("bob").weight == 1.0


class TestJobs:
    """What the service's own calls do when they forget whose rows they want."""

    @pytest.fixture
    def job(self, jobs):
        return add(jobs, "alice")

    @pytest.mark.parametrize(
        "use",
        [
            lambda jobs, job: jobs.get("bob", job),
            lambda jobs, job: jobs.events_after("bob", job, 0),
            lambda jobs, job: jobs.request_cancel("bob", job),
            lambda jobs, job: jobs.delete("bob", job),
        ],
        ids=["get", "events", "cancel", "delete"],
    )
    def test_anothers_job_is_not_found_and_stays(self, jobs, job, use):
        with pytest.raises(NotFoundError):
            use(jobs, job.id)

        assert jobs.get("alice", job.id) == job

    def test_lists_hold_no_others_jobs(self, jobs, job):
        own = add(jobs, "bob")

        assert [found.id for found in jobs.find("bob", JobFilter(), None, 10)] == [own.id]
        assert [found.id for found in jobs.find("alice", JobFilter(), None, 10)] == [job.id]

    def test_anothers_batch_is_not_canceled(self, jobs, tenants):
        batched = new_job("alice", batch_id="bat_1")
        jobs.accept(tenants.ensure("alice"), [batched], batch={})
        tenants.ensure("bob")

        jobs.cancel_batch("bob", "bat_1")

        assert jobs.get("alice", batched.id).status is JobStatus.QUEUED

    def test_anothers_idempotency_key_is_not_known(self, jobs, tenants):
        key = IdempotencyKey("key", "fingerprint")
        jobs.accept(tenants.ensure("alice"), [new_job("alice")], key)

        assert jobs.replay("bob", key) is None
        assert not jobs.accept(tenants.ensure("bob"), [new_job("bob")], key).replayed

    def test_anothers_waiting_jobs_fill_no_queue_and_cost_no_quota(self, jobs, tenants):
        add(jobs, "alice")
        tenants.ensure("bob")
        bob = tenants.change("bob", {"max_queued_jobs": 1, "pictures_per_month": 1})

        assert jobs.accept(bob, [new_job("bob")]).jobs

    def test_a_tenants_high_job_moves_no_other_tenants_jobs(self, jobs, job):
        add(jobs, "bob", priority=2)

        assert jobs.get("alice", job.id).virtual_finish == job.virtual_finish

    def test_anothers_keys_are_neither_listed_nor_ended(self, database, tenants):
        tenants.ensure("alice")
        keys = ApiKeys(database)
        issued = keys.issue("alice", ["generations:read"])

        assert keys.list("bob") == []
        for end in (
            lambda: keys.revoke("bob", issued.record.id),
            lambda: keys.rotate("bob", issued.record.id, overlap_s=1),
        ):
            with pytest.raises(NotFoundError):
                end()
        assert keys.find(issued.record.id) == issued.record

    def test_workers_claim_for_all(self, jobs, queue):
        for tenant in ("alice", "bob"):
            add(jobs, tenant)

        assert {claim.job.tenant for claim in queue.claim("w1", Room(2), LEASE_S)} == {"alice", "bob"}
