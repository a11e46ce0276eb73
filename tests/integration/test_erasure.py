"""After a deletion and one sweep no store and no table holds anything of what was deleted, and all of the rest."""

# ruff: noqa: F401, F811 - pytest finds the imported fixtures by name, and tests name them as parameters

import pytest
import sqlalchemy as sa
from doubles.service import add
from integration.stores import moto_endpoint, store, store_settings

from instantid_serve.service.database import open_database, upgrade
from instantid_serve.service.identities import Identities, IdentityPhoto, NewIdentity
from instantid_serve.service.ids import new_id
from instantid_serve.service.jobs import Jobs
from instantid_serve.service.results import identity_photo_key, image_key, photo_key
from instantid_serve.service.sweeper import Sweeper
from instantid_serve.service.tables import OF_TENANTS


@pytest.fixture
def database(tmp_path):
    database = open_database(f"sqlite:///{tmp_path / 'jobs.sqlite3'}")
    upgrade(database)
    yield database
    database.close()


def job_of(tenant, database, store):
    """A job with its photo, two pictures, and one that an attempt left which failed."""
    job = add(Jobs(database), tenant)
    keys = [photo_key(tenant, job.id)]
    keys += [image_key(tenant, job.id, attempt, index, "png") for attempt, index in ((1, 0), (2, 0), (2, 1))]
    for key in keys:
        store.put(key, b"bytes", "image/png")
    return job.id, keys


def identity_of(tenant, database, store):
    """An identity with two photos."""
    identity_id = new_id("idn")
    photos = tuple(IdentityPhoto(identity_photo_key(tenant, identity_id, index), 300, 400) for index in range(2))
    for photo in photos:
        store.put(photo.key, b"bytes", "image/png")
    Identities(database).create(tenant, NewIdentity(identity_id, "", photos, {"given": True}, {}, 1000.0))
    return identity_id, [photo.key for photo in photos]


def mentions(database, an_id):
    """The tables in which the id stands anywhere."""
    with database.read() as connection:
        return [
            table.name for table in OF_TENANTS if any(an_id in str(row) for row in connection.execute(sa.select(table)))
        ]


def test_what_was_deleted_is_nowhere_and_everything_else_is_where_it_was(database, store):
    gone = [job_of("alice", database, store), identity_of("alice", database, store)]
    kept = [make(tenant, database, store) for tenant in ("alice", "bob") for make in (job_of, identity_of)]

    Jobs(database).delete("alice", gone[0][0])
    Identities(database).delete("alice", gone[1][0])
    Sweeper(database, store).sweep()

    assert [key for _, keys in gone for key in keys if store.size(key) is not None] == []
    assert [key for _, keys in kept for key in keys if store.size(key) is None] == []
    assert [table for an_id, _ in gone for table in mentions(database, an_id)] == []
    assert all(mentions(database, an_id) for an_id, _ in kept)
