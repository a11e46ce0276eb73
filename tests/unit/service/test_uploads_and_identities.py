import pytest

from instantid_serve.errors import ConflictError, IdempotencyMismatchError, NotFoundError
from instantid_serve.service.idempotency import IdempotencyKey
from instantid_serve.service.identities import Identities, IdentityPhoto, NewIdentity
from instantid_serve.service.ids import new_id
from instantid_serve.service.results import identity_photo_key
from instantid_serve.service.uploads import Uploads


@pytest.fixture
def uploads(database, clock):
    return Uploads(database, clock)


@pytest.fixture
def identities(database, clock):
    return Identities(database, clock)


def new_identity(tenant="alice", retention_s=1000.0):
    identity_id = new_id("idn")
    photo = IdentityPhoto(identity_photo_key(tenant, identity_id, 0), 300, 400)
    return NewIdentity(identity_id, "me", (photo,), {"given": True, "version": "v1"}, {"n": "1"}, retention_s)


def test_an_upload_is_there_until_it_expires(uploads, clock):
    upload, _ = uploads.create("alice", "image/png", 10, kept_s=100)

    assert uploads.get("alice", upload.id) == upload
    clock.now += 100
    with pytest.raises(NotFoundError):
        uploads.get("alice", upload.id)


def test_a_deleted_upload_is_gone_at_once(uploads):
    upload, _ = uploads.create("alice", "image/png", 10, kept_s=100)

    uploads.delete("alice", upload.id)

    with pytest.raises(NotFoundError):
        uploads.get("alice", upload.id)


def test_a_key_stands_for_one_upload(uploads):
    key = IdempotencyKey("k", "print")
    upload, _ = uploads.create("alice", "image/png", 10, kept_s=100, key=key)

    assert uploads.create("alice", "image/png", 10, kept_s=100, key=key) == (upload, True)
    with pytest.raises(IdempotencyMismatchError):
        uploads.create("alice", "image/png", 11, kept_s=100, key=IdempotencyKey("k", "another"))


def test_an_identity_comes_back_as_it_was_registered(identities, clock):
    new = new_identity()

    made = identities.create("alice", new)

    assert identities.get("alice", new.id) == made
    assert (made.photos, made.consent, made.metadata) == (new.photos, new.consent, new.metadata)
    assert made.expires_at == clock.now + 1000


@pytest.mark.parametrize("end", ["delete", "expire"])
def test_an_identity_that_ended_is_gone_from_everywhere(identities, clock, end):
    made = identities.create("alice", new_identity())

    if end == "delete":
        identities.delete("alice", made.id)
    else:
        clock.now += 1000

    assert identities.find("alice", None, 10) == []
    with pytest.raises(NotFoundError):
        identities.get("alice", made.id)
    with pytest.raises(NotFoundError):
        identities.delete("alice", made.id)


def test_identities_are_listed_newest_first_and_page_by_page(identities, clock):
    made = []
    for _ in range(3):
        clock.now += 1
        made.insert(0, identities.create("alice", new_identity()))

    first = identities.find("alice", None, 2)

    assert first == made[:2]
    assert identities.find("alice", (first[-1].created_at, first[-1].id), 2) == made[2:]


def test_a_key_stands_for_one_identity(identities):
    key = IdempotencyKey("k", "print")
    made = identities.create("alice", new_identity(), key)

    assert identities.replay("alice", key) == made
    with pytest.raises(ConflictError):
        identities.create("alice", new_identity(), key)


def test_other_tenants_things_do_not_exist(identities, uploads):
    identity = identities.create("alice", new_identity())
    upload, _ = uploads.create("alice", "image/png", 10, kept_s=100)

    for use in (identities.get, identities.delete):
        with pytest.raises(NotFoundError):
            use("bob", identity.id)
    for use in (uploads.get, uploads.delete):
        with pytest.raises(NotFoundError):
            use("bob", upload.id)
    assert identities.find("bob", None, 10) == []
