"""What every result store promises: one suite, run against each of them."""

# ruff: noqa: F401, F811 - pytest finds the imported fixtures by name, and tests name them as parameters

import concurrent.futures
import hashlib
import os

import pytest
from integration.stores import moto_endpoint, s3_settings, store, store_settings

from instantid_serve.errors import ConflictError, InvalidRequestError, NotFoundError, StoreError
from instantid_serve.service.results import image_key, open_store, photo_key
from instantid_serve.settings import FolderStoreSettings

PHOTO = photo_key("alice", "gen_1")
PICTURE = image_key("alice", "gen_1", 1, 0, "png")


@pytest.mark.parametrize("size", [0, 1, 1000, 3_000_000])
def test_the_bytes_come_back_as_they_were(store, size):
    data = os.urandom(size)

    store.put(PICTURE, data, "image/png")

    assert hashlib.sha256(store.get(PICTURE)).digest() == hashlib.sha256(data).digest()


def test_a_key_without_an_object_is_not_found(store):
    with pytest.raises(NotFoundError):
        store.get(PHOTO)


def test_keys_do_not_meet(store):
    store.put(PHOTO, b"photo", "image/jpeg")
    store.put(PICTURE, b"picture", "image/png")

    assert (store.get(PHOTO), store.get(PICTURE)) == (b"photo", b"picture")


def test_the_same_bytes_twice_are_stored_once(store):
    store.put(PICTURE, b"picture", "image/png")

    store.put(PICTURE, b"picture", "image/png")

    assert store.get(PICTURE) == b"picture"


def test_other_bytes_under_a_taken_key_are_refused(store):
    store.put(PICTURE, b"first", "image/png")

    with pytest.raises(ConflictError):
        store.put(PICTURE, b"second", "image/png")

    assert store.get(PICTURE) == b"first"


def test_of_many_writers_at_once_one_wins(store):
    def put(number):
        try:
            store.put(PICTURE, b"%d" % number * 10_000, "image/png")
        except ConflictError:
            return None
        return number

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        winners = [number for number in pool.map(put, range(1, 9)) if number is not None]

    assert len(winners) == 1
    assert store.get(PICTURE) == b"%d" % winners[0] * 10_000


def test_a_deleted_object_is_gone_and_deleting_it_again_is_fine(store):
    store.put(PHOTO, b"photo", "image/jpeg")

    store.delete(PHOTO)
    store.delete(PHOTO)

    with pytest.raises(NotFoundError):
        store.get(PHOTO)


def test_a_deleted_key_can_be_written_again(store):
    store.put(PHOTO, b"photo", "image/jpeg")
    store.delete(PHOTO)

    store.put(PHOTO, b"another", "image/jpeg")

    assert store.get(PHOTO) == b"another"


@pytest.mark.parametrize(
    "key", ["", "/etc/passwd", "../x", "a/../b", "a//b", "a/.hidden", "a\x00b", "A", "a/", "x" * 999]
)
def test_keys_that_no_function_made_are_refused(store, key):
    for use in (store.get, store.delete, lambda k: store.put(k, b"", "image/png")):
        with pytest.raises(InvalidRequestError):
            use(key)


def test_a_part_of_a_key_is_not_an_object(store):
    store.put(PICTURE, b"picture", "image/png")

    with pytest.raises(NotFoundError):
        store.get("alice")
    with pytest.raises(NotFoundError):
        store.get(f"{PICTURE}/more")


def test_a_store_that_is_there_answers(store):
    store.ping()


def test_a_store_that_is_gone_says_so(store_settings):
    if isinstance(store_settings, FolderStoreSettings):
        gone = open_store(store_settings)
        store_settings.folder.rmdir()
    else:
        gone = open_store(store_settings.model_copy(update={"bucket": "no-such-bucket-anywhere"}))

    with pytest.raises(StoreError):
        gone.ping()


def test_the_prefix_keeps_two_deployments_apart(moto_endpoint, monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testsecret")
    settings = s3_settings(moto_endpoint, prefix="/one/")
    open_store(settings).put(PHOTO, b"photo", "image/jpeg")

    with pytest.raises(NotFoundError):
        open_store(settings.model_copy(update={"prefix": "two"})).get(PHOTO)
