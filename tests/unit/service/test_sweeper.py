"""What is past its time goes: from the result store first, then from the database; what is not stays."""

import dataclasses
import time

import pytest
import sqlalchemy as sa
from doubles.service import add, claim_one, new_job

from instantid_serve.errors import StoreError
from instantid_serve.service.folder_store import FolderStore
from instantid_serve.service.idempotency import KEPT_S, IdempotencyKey
from instantid_serve.service.identities import Identities, IdentityPhoto, NewIdentity
from instantid_serve.service.ids import new_id
from instantid_serve.service.job import Speed
from instantid_serve.service.results import (
    identity_photo_key,
    image_key,
    job_folder,
    photo_key,
    upload_key,
)
from instantid_serve.service.sweeper import Sweeper, Swept
from instantid_serve.service.tables import (
    batches,
    events,
    idempotency_keys,
    identities,
    uploads,
    webhook_deliveries,
    workers,
)
from instantid_serve.service.tables import jobs as jobs_table
from instantid_serve.service.uploads import LINK_S, Uploads

DAY_S = 86_400.0
NOTHING = Swept(0, 0, 0, 0)


@pytest.fixture
def store(tmp_path):
    return FolderStore(tmp_path / "results")


@pytest.fixture
def sweeper(database, store, clock):
    return Sweeper(database, store, clock, batch=2)


def keys_of(job):
    """A photo, a picture, and one of an attempt that failed."""
    tenant, job_id = job.tenant, job.id
    pictures = [image_key(tenant, job_id, attempt, 0, "png") for attempt in (0, 1)]
    return [photo_key(tenant, job_id), *pictures]


def put(store, keys):
    for key in keys:
        store.put(key, b"bytes", "image/png")


def left(store, keys):
    return [key for key in keys if store.size(key) is not None]


def rows(database, table):
    with database.read() as connection:
        return connection.execute(sa.select(sa.func.count()).select_from(table)).scalar_one()


def end(queue):
    """Fail the waiting job, the shortest way to an end."""
    claim = claim_one(queue)
    queue.settle_failed(claim.job.id, claim.fence, {"code": "x", "detail": "x"})


def new_identity(tenant, store):
    identity_id = new_id("idn")
    key = identity_photo_key(tenant, identity_id, 0)
    store.put(key, b"photo", "image/png")
    photo = IdentityPhoto(key, 300, 400)
    return NewIdentity(identity_id, "", (photo,), {"given": True, "version": "1"}, {}, DAY_S)


def test_an_ended_job_is_kept_for_its_time_and_then_gone_entirely(jobs, queue, database, store, clock, sweeper):
    job = add(jobs, "alice")
    put(store, keys_of(job))
    end(queue)

    clock.now += DAY_S - 1
    assert sweeper.sweep() == NOTHING
    clock.now += 1
    assert sweeper.sweep() == Swept(1, 0, 0, 0)

    assert left(store, keys_of(job)) == []
    assert (rows(database, jobs_table), rows(database, events)) == (0, 0)


def test_a_deleted_job_is_gone_with_the_next_sweep_and_nobody_elses_is(jobs, database, store, sweeper):
    mine, neighbour, others = add(jobs, "alice"), add(jobs, "alice"), add(jobs, "bob")
    put(store, [*keys_of(mine), *keys_of(neighbour), *keys_of(others)])

    jobs.delete("alice", mine.id)
    sweeper.sweep()

    assert left(store, keys_of(mine)) == []
    assert left(store, [*keys_of(neighbour), *keys_of(others)]) == [*keys_of(neighbour), *keys_of(others)]
    with database.read() as connection:
        assert set(connection.scalars(sa.select(jobs_table.c.id))) == {neighbour.id, others.id}
        assert mine.id not in set(connection.scalars(sa.select(events.c.job_id)))


def test_a_job_that_runs_keeps_its_photo_until_its_worker_has_let_go(jobs, queue, store, sweeper):
    job = add(jobs, "alice")
    put(store, keys_of(job))
    claim = claim_one(queue)

    jobs.delete("alice", job.id)
    assert sweeper.sweep() == NOTHING
    queue.settle_canceled(job.id, claim.fence)

    assert sweeper.sweep() == Swept(1, 0, 0, 0)
    assert left(store, keys_of(job)) == []


def test_a_job_that_waits_is_never_past_its_time(jobs, store, clock, sweeper):
    job = add(jobs, "alice")
    put(store, keys_of(job))

    clock.now += 1000 * DAY_S

    assert sweeper.sweep() == NOTHING


def test_a_deleted_job_takes_its_webhooks_along(jobs, database, sweeper):
    told = {"webhook": {"url": "https://example.com/hook", "events": []}}
    kept, gone = add(jobs, "alice", **told), add(jobs, "alice", **told)
    for job in (kept, gone):
        jobs.request_cancel("alice", job.id)

    jobs.delete("alice", gone.id)
    sweeper.sweep()

    with database.read() as connection:
        assert set(connection.scalars(sa.select(webhook_deliveries.c.job_id))) == {kept.id}


def test_a_batch_goes_with_the_last_of_its_jobs(jobs, tenants, database, sweeper):
    batch_id = new_id("bat")
    new = [new_job("alice", batch_id=batch_id) for _ in range(2)]
    jobs.accept(tenants.ensure("alice"), new, batch={"n": "1"})

    jobs.delete("alice", new[0].id)
    sweeper.sweep()
    assert rows(database, batches) == 1
    jobs.delete("alice", new[1].id)
    sweeper.sweep()

    assert rows(database, batches) == 0


def test_a_job_of_a_version_that_set_no_time_gets_one(jobs, queue, database, clock, sweeper):
    add(jobs, "alice")
    end(queue)
    with database.write() as connection:
        connection.execute(sa.update(jobs_table).values(expires_at=None))

    assert sweeper.sweep() == NOTHING
    clock.now += DAY_S

    assert sweeper.sweep() == Swept(1, 0, 0, 0)


@pytest.mark.parametrize("how", ["deleted", "past its time"])
def test_an_identity_goes_with_its_photos(database, store, clock, sweeper, how):
    registered = Identities(database, clock)
    mine = registered.create("alice", new_identity("alice", store))
    others = registered.create("bob", dataclasses.replace(new_identity("bob", store), retention_s=10 * DAY_S))

    if how == "deleted":
        registered.delete("alice", mine.id)
    else:
        clock.now += DAY_S

    assert sweeper.sweep() == Swept(0, 1, 0, 0)
    assert left(store, [mine.photos[0].key, others.photos[0].key]) == [others.photos[0].key]
    assert rows(database, identities) == 1


def test_a_job_does_not_take_the_photos_of_its_identity_along(jobs, tenants, database, store, clock, sweeper):
    identity = Identities(database, clock).create("alice", new_identity("alice", store))
    new = dataclasses.replace(new_job("alice"), photos=(identity.photos[0].key,), identity_id=identity.id)
    (job,) = jobs.accept(tenants.ensure("alice"), [new]).jobs

    jobs.delete("alice", job.id)
    sweeper.sweep()

    assert left(store, [identity.photos[0].key]) == [identity.photos[0].key]


def test_a_deleted_upload_is_swept_once_its_link_can_bring_nothing_back(database, store, clock, sweeper):
    made, _ = Uploads(database, clock).create("alice", "image/png", 5, kept_s=3600)
    Uploads(database, clock).delete("alice", made.id)
    assert sweeper.sweep() == NOTHING

    store.put(upload_key("alice", made.id), b"bytes", "image/png")  # through a link that is still good
    clock.now += LINK_S + 301

    assert sweeper.sweep() == Swept(0, 0, 1, 0)
    assert left(store, [upload_key("alice", made.id)]) == []
    assert rows(database, uploads) == 0


def test_keys_and_silent_workers_are_forgotten(jobs, queue, tenants, database, clock, sweeper):
    for number in range(5):
        jobs.accept(tenants.ensure("alice"), [new_job("alice")], IdempotencyKey(f"k{number}", "print"))
    queue.report("w1", Speed(0, 8, 0.0, 0.0))
    clock.now += KEPT_S
    queue.report("w2", Speed(0, 8, 0.0, 0.0))

    sweeper.sweep()

    assert (rows(database, idempotency_keys), rows(database, workers)) == (0, 1)


class Failing(FolderStore):
    """A store that cannot remove one tenant's objects."""

    def delete_all(self, folder_key):
        if folder_key.startswith("alice/"):
            raise StoreError("the result store does not answer")
        super().delete_all(folder_key)


def test_what_cannot_be_removed_now_stops_nothing_else_and_is_tried_again(jobs, database, clock, tmp_path):
    mine = [add(jobs, "alice") for _ in range(3)]
    others = [add(jobs, "bob") for _ in range(3)]
    for job in mine + others:
        jobs.delete(job.tenant, job.id)

    swept = Sweeper(database, Failing(tmp_path), clock, batch=2).sweep()

    assert swept == Swept(3, 0, 0, 3)
    assert Sweeper(database, FolderStore(tmp_path), clock, batch=2).sweep() == Swept(3, 0, 0, 0)


def test_a_store_that_is_gone_ends_the_sweep_and_no_row_is_forgotten(jobs, database, clock, tmp_path):
    class Gone(Failing):
        def ping(self):
            raise StoreError("the result store does not answer")

    for _ in range(3):
        jobs.delete("alice", add(jobs, "alice").id)

    with pytest.raises(StoreError):
        Sweeper(database, Gone(tmp_path), clock, batch=2).sweep()

    assert rows(database, jobs_table) == 3


def test_folders_without_a_row_are_found_once_they_are_a_day_old(jobs, database, store, clock):
    clock.now = time.time()  # ids bear this clock's time
    known = add(jobs, "alice")
    orphans = [photo_key("bob", new_id("gen")), identity_photo_key("bob", new_id("idn"), 0)]
    orphans += [upload_key("bob", new_id("upl"))]
    put(store, [*keys_of(known), *orphans])
    sweeper = Sweeper(database, store, clock, batch=2)

    assert sweeper.reconcile() == 0
    clock.now += DAY_S + 10
    assert sweeper.reconcile() == 3

    assert left(store, [*keys_of(known), *orphans]) == keys_of(known)


def test_what_looks_like_a_folder_of_ours_and_is_none_stays(database, store, clock):
    clock.now = time.time() + 2 * DAY_S
    foreign = [f"{job_folder('bob', an_id)}/photo" for an_id in ("gen_zzz", "gen_06h1", "gen_" + "0" * 26)]
    put(store, foreign)

    assert Sweeper(database, store, clock).reconcile() == 0
    assert left(store, foreign) == foreign
