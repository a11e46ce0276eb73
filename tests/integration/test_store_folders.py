"""What every result store promises of folders and links: one suite, run against each of them."""

# ruff: noqa: F401, F811 - pytest finds the imported fixtures by name, and tests name them as parameters

import time

import httpx2
import pytest
from doubles.s3_signature import accepts
from integration.stores import S3_ENDPOINT, moto_endpoint, s3_settings, store, store_settings
from required_parts import missing

from instantid_serve.errors import InvalidRequestError, NotFoundError
from instantid_serve.service.results import (
    identity_folder,
    identity_photo_key,
    image_key,
    job_folder,
    open_store,
    photo_key,
    upload_folder,
    upload_key,
)
from instantid_serve.settings import FolderStoreSettings

PHOTO = photo_key("alice", "gen_1")
PICTURE = image_key("alice", "gen_1", 1, 0, "png")
OF_A_FAILED_ATTEMPT = image_key("alice", "gen_1", 0, 3, "png")
NEIGHBOURS = [
    photo_key("alice", "gen_12"),
    photo_key("bob", "gen_1"),
    identity_photo_key("alice", "idn_1", 0),
    upload_key("alice", "upl_1"),
]


def there(store, key):
    return store.size(key) is not None


def test_a_folder_goes_with_all_attempts_and_nothing_beside_it(store):
    for key in [PHOTO, PICTURE, OF_A_FAILED_ATTEMPT, *NEIGHBOURS]:
        store.put(key, b"bytes", "image/png")

    store.delete_all(job_folder("alice", "gen_1"))

    assert [key for key in [PHOTO, PICTURE, OF_A_FAILED_ATTEMPT] if there(store, key)] == []
    assert [key for key in NEIGHBOURS if not there(store, key)] == []


def test_a_folder_that_is_not_there_can_be_removed(store):
    store.delete_all(identity_folder("alice", "idn_none"))


def test_a_folder_that_was_removed_can_be_written_to_again(store):
    store.put(PHOTO, b"photo", "image/png")
    store.delete_all(job_folder("alice", "gen_1"))

    store.put(PHOTO, b"another", "image/png")

    assert store.get(PHOTO) == b"another"


@pytest.mark.parametrize("key", ["", "alice", "alice/", "alice/gen_1/1", "alice/gen_1/", "../alice/gen_1", "*/gen_1"])
def test_nothing_but_the_folder_of_one_thing_is_ever_removed_at_once(store, key):
    store.put(PHOTO, b"photo", "image/png")

    with pytest.raises(InvalidRequestError):
        store.delete_all(key)

    assert there(store, PHOTO)


def test_the_size_is_told_without_the_bytes(store):
    store.put(PHOTO, b"12345", "image/png")

    assert (store.size(PHOTO), store.size(PICTURE), store.size(f"{PHOTO}/more")) == (5, None, None)


def test_folders_are_listed_once_each(store):
    for key in [PHOTO, PICTURE, *NEIGHBOURS]:
        store.put(key, b"bytes", "image/png")

    assert sorted(store.folders()) == sorted(
        {key.rpartition("/")[0] for key in [PHOTO, *NEIGHBOURS]}  # two of these are of one job
    )


def test_a_link_reads_what_was_stored_under_the_given_name(store, store_settings):
    store.put(PICTURE, b"picture", "image/png")

    link = store.link(PICTURE, media_type="image/png", filename="gen_1-0.png", expires_s=60)

    if isinstance(store_settings, FolderStoreSettings):
        assert link is None
        return
    answer = httpx2.get(link)
    assert (answer.status_code, answer.content) == (200, b"picture")
    assert answer.headers["content-type"] == "image/png"
    assert answer.headers["content-disposition"] == 'attachment; filename="gen_1-0.png"'


def test_an_upload_link_writes_once(store, store_settings):
    key = upload_key("alice", "upl_9")

    link = store.upload_link(key, media_type="image/jpeg", size_bytes=5, expires_s=60)

    if isinstance(store_settings, FolderStoreSettings):
        assert link is None
        return
    assert httpx2.request(link.method, link.url, content=b"photo", headers=link.headers).status_code == 200
    assert store.get(key) == b"photo"
    assert httpx2.request(link.method, link.url, content=b"other", headers=link.headers).status_code in {409, 412}
    assert store.get(key) == b"photo"


@pytest.fixture
def bucket(moto_endpoint, monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testsecret")
    return open_store(s3_settings(moto_endpoint))


def test_a_link_lasts_a_quarter_of_an_hour_at_most(bucket):
    link = bucket.link(PICTURE, media_type="image/png", filename="x.png", expires_s=86_400)

    assert accepts("GET", link, {}, "testsecret", later_s=890)
    assert not accepts("GET", link, {}, "testsecret", later_s=901)


@pytest.mark.parametrize("method", ["PUT", "DELETE", "HEAD", "POST"])
def test_a_link_to_read_does_nothing_else(bucket, method):
    link = bucket.link(PICTURE, media_type="image/png", filename="x.png", expires_s=60)

    assert not accepts(method, link, {}, "testsecret")


def test_a_link_to_one_object_reads_no_other(bucket):
    link = bucket.link(PICTURE, media_type="image/png", filename="x.png", expires_s=60)

    assert not accepts("GET", link.replace("/alice/", "/bob/"), {}, "testsecret")


@pytest.mark.parametrize(
    ("header", "value"), [("Content-Length", "6"), ("Content-Type", "text/html"), ("If-None-Match", "")]
)
def test_an_upload_link_takes_the_announced_size_and_type_only(bucket, header, value):
    link = bucket.upload_link(upload_key("alice", "upl_9"), media_type="image/jpeg", size_bytes=5, expires_s=60)

    assert accepts("PUT", link.url, link.headers, "testsecret")
    assert not accepts("PUT", link.url, {**link.headers, header: value}, "testsecret")


def test_a_link_says_where_tenants_reach_the_store(moto_endpoint, monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testsecret")
    settings = s3_settings(moto_endpoint, public_endpoint_url="https://photos.example")

    link = open_store(settings).link(PICTURE, media_type="image/png", filename="x.png", expires_s=60)

    assert link.startswith(f"https://photos.example/{settings.bucket}/results/alice/gen_1/1/0.png?")


@pytest.mark.s3
def test_a_real_store_keeps_to_what_a_link_allows():
    if not S3_ENDPOINT:
        missing("s3", "AWS_ENDPOINT_URL_S3 names no S3 server")
    real = open_store(s3_settings(S3_ENDPOINT))
    real.put(PICTURE, b"picture", "image/png")
    link = real.link(PICTURE, media_type="image/png", filename="x.png", expires_s=1)
    upload = real.upload_link(upload_key("alice", "upl_9"), media_type="image/jpeg", size_bytes=5, expires_s=60)

    assert httpx2.put(link, content=b"other").status_code == 403
    wrong = {name: value for name, value in upload.headers.items() if name != "Content-Length"}
    assert httpx2.put(upload.url, content=b"too long", headers=wrong).status_code == 403
    time.sleep(2)
    assert httpx2.get(link).status_code == 403
    with pytest.raises(NotFoundError):
        real.get(upload_key("alice", "upl_9"))
