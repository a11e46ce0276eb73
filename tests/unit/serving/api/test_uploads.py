# ruff: noqa: F401, F811 - pytest finds the imported fixture by name, and tests name it as a parameter

import datetime as dt

import httpx2
import pytest
from doubles.api_callers import assert_problem, fields_of
from integration.stores import moto_endpoint, s3_settings

JPEG = {"media_type": "image/jpeg"}


@pytest.fixture
def announce(client):
    async def send(headers=None, **fields):
        return await client.post("/v1/uploads", json={**JPEG, "size_bytes": 5, **fields}, headers=headers)

    return send


async def test_an_upload_is_announced_filled_and_told(client, announce):
    made = (await announce()).json()

    filled = await client.request(made["method"], made["url"], content=b"photo", headers=made["headers"])

    assert filled.status_code == 204
    told = (await client.get(f"/v1/uploads/{made['id']}")).json()
    assert (made["uploaded"], told["uploaded"], told["size_bytes"]) == (False, True, 5)
    lasts = dt.datetime.fromisoformat(told["expires_at"]) - dt.datetime.fromisoformat(told["created_at"])
    assert lasts == dt.timedelta(hours=1)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("media_type", "image/gif"),
        ("media_type", "text/html"),
        ("size_bytes", 0),
        ("size_bytes", 10_000_001),
        ("size_bytes", "5"),
        ("name", "me.jpg"),
    ],
)
async def test_what_cannot_be_a_photo_is_refused_before_it_comes(announce, field, value):
    response = await announce(**{field: value})

    assert_problem(response, 422, "invalid_request")
    assert fields_of(response) == {f"/{field}"}


@pytest.mark.parametrize(("content", "status"), [(b"four", 422), (b"sixsix", 413)])
async def test_other_than_the_announced_number_of_bytes_is_refused(client, announce, content, status):
    made = (await announce()).json()

    response = await client.put(made["url"], content=content)

    assert response.status_code == status
    assert not (await client.get(f"/v1/uploads/{made['id']}")).json()["uploaded"]


async def test_an_upload_is_filled_once(client, announce):
    made = (await announce()).json()
    await client.put(made["url"], content=b"photo")

    assert (await client.put(made["url"], content=b"photo")).status_code == 204
    assert_problem(await client.put(made["url"], content=b"other"), 409, "conflict")


async def test_a_deleted_upload_is_gone_with_its_bytes(client, announce, settings):
    made = (await announce()).json()
    await client.put(made["url"], content=b"photo")

    assert (await client.delete(f"/v1/uploads/{made['id']}")).status_code == 204

    assert [file for file in settings.results.folder.rglob("*") if file.is_file()] == []
    assert_problem(await client.get(f"/v1/uploads/{made['id']}"), 404, "not_found")
    assert_problem(await client.put(made["url"], content=b"photo"), 404, "not_found")


async def test_a_retry_with_the_same_key_makes_one_upload(announce):
    key = {"Idempotency-Key": "k1"}
    first, again = await announce(headers=key), await announce(headers=key)

    other = await announce(headers=key, size_bytes=6)

    assert (first.json()["id"], again.headers["Idempotent-Replayed"]) == (again.json()["id"], "true")
    assert_problem(other, 422, "idempotency_key_reused")


async def test_another_tenants_upload_does_not_exist(announce, other):
    made = (await announce()).json()
    path = f"/v1/uploads/{made['id']}"

    answers = [await other.get(path), await other.delete(path), await other.put(f"{path}/content", content=b"photo")]

    for response in answers:
        assert_problem(response, 404, "not_found")


async def test_without_a_key_nothing_is_uploaded(announce, anyone):
    made = (await announce()).json()

    assert_problem(await anyone.put(made["url"], content=b"photo"), 401, "unauthorized")


class TestOnS3:
    """The bytes go past the service, straight into the bucket."""

    @pytest.fixture
    def settings(self, settings, s3):
        return settings.model_copy(update={"results": s3})

    @pytest.fixture
    def s3(self, monkeypatch, moto_endpoint):
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testsecret")
        return s3_settings(moto_endpoint)

    async def test_a_photo_is_uploaded_with_a_signed_link_and_used(self, client, photo, jobs, store):
        made = (await client.post("/v1/uploads", json={**JPEG, "size_bytes": len(photo)})).json()
        async with httpx2.AsyncClient() as stranger:  # without the API key
            put = await stranger.request(made["method"], made["url"], content=photo, headers=made["headers"])

        response = await client.post("/v1/generations", json={"prompt": "a portrait", "upload_id": made["id"]})

        assert put.status_code == 200
        assert response.status_code == 202, response.text
        assert store.get(jobs.get("acme", response.json()["id"]).photos[0]).startswith(b"\x89PNG")

    async def test_more_than_a_photo_is_not_even_read(self, client, store):
        made = (await client.post("/v1/uploads", json={**JPEG, "size_bytes": 5})).json()
        store.put(f"acme/{made['id']}/content", b"\xff\xd8" + bytes(10_000_000), "image/jpeg")

        response = await client.post("/v1/generations", json={"prompt": "a portrait", "upload_id": made["id"]})

        assert_problem(response, 413, "image_too_large")

    async def test_the_link_ends_before_the_upload_does(self, client):
        made = (await client.post("/v1/uploads", json={**JPEG, "size_bytes": 5})).json()

        lasts = dt.datetime.fromisoformat(made["url_expires_at"]) - dt.datetime.fromisoformat(made["created_at"])

        assert dt.timedelta(minutes=14) < lasts < dt.timedelta(minutes=16)
