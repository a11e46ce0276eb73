"""A generation's photo by other ways than its body: an address, an upload, an identity; exactly one of them."""

import asyncio
import base64
import collections

import pytest
from doubles.api_callers import assert_problem, fields_of
from doubles.loopback import http, loopback

from instantid_serve.settings import Settings

JPEG = {"media_type": "image/jpeg"}


@pytest.fixture
async def host(photo):
    """A server of photos on this machine, which its settings allow."""

    async def answer(path, writer):
        said = {
            "/me.jpg": http(body=photo, content_type="text/html"),
            "/moved": http(status=302, body=b"", location="/me.jpg"),
            "/away": http(status=302, body=b"", location="http://169.254.169.254/latest/meta-data"),
            "/page": http(body=b"<html>" * 100, content_type="image/jpeg"),
            "/large": http(body=b"", content_length=20_000_000),
        }
        if path == "/slow":
            await asyncio.sleep(30)
        writer.write(said.get(path, http(status=404)))
        await writer.drain()

    async with loopback(answer) as server:
        yield server


@pytest.fixture
def settings(settings, host):
    outbound = {"allowed_networks": ["127.0.0.0/8"], "ports": [host.port], "fetch_timeout_s": 2.0}
    return Settings.load(settings.model_dump(exclude={"outbound"}) | {"outbound": outbound})


@pytest.fixture
def ask(client):
    """Send JSON without a photo: fields as keywords."""

    async def send(**fields):
        return await client.post("/v1/generations", json={"prompt": "a portrait", **fields})

    return send


async def upload(client, photo):
    made = (await client.post("/v1/uploads", json={**JPEG, "size_bytes": len(photo)})).json()
    assert (await client.put(made["url"], content=photo, headers=made["headers"])).status_code == 204
    return made["id"]


async def identity(client, photo, count=1):
    files = [("images", photo) for _ in range(count)]
    response = await client.post("/v1/identities", data={"consent": '{"given": true, "version": "1"}'}, files=files)
    assert response.status_code == 201, response.text
    return response.json()["id"]


@pytest.mark.parametrize("path", ["/me.jpg", "/moved"])
async def test_a_photo_is_fetched_whatever_its_host_says_it_is(ask, jobs, store, host, path):
    response = await ask(image_url=host.url(path))

    assert response.status_code == 202, response.text
    job = jobs.get("acme", response.json()["id"])
    assert store.get(job.photos[0]).startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/away", 422, "url_blocked"),
        ("/nothing", 422, "url_unreachable"),
        ("/large", 413, "url_too_large"),
        ("/page", 422, "image_unsupported_format"),
    ],
)
async def test_what_cannot_be_fetched_or_is_no_photo_is_named(ask, settings, host, path, status, code):
    response = await ask(image_url=host.url(path))

    assert_problem(response, status, code)
    assert [file for file in settings.results.folder.rglob("*") if file.is_file()] == []


@pytest.mark.parametrize(
    "url",
    ["http://169.254.169.254/latest/meta-data", "http://10.0.0.1/", "file:///etc/passwd", "http://[::1]/", "ftp://a/b"],
)
async def test_addresses_that_are_not_public_are_refused(ask, url):
    assert_problem(await ask(image_url=url), 422, "url_blocked")


async def test_slow_hosts_hold_up_nobody_who_sends_a_photo(ask, other, host, submit):
    slow = {"prompt": "a portrait", "image_url": host.url("/slow")}
    others = [asyncio.create_task(other.post("/v1/generations", json=slow)) for _ in range(20)]
    mine = [asyncio.create_task(ask(image_url=host.url("/slow"))) for _ in range(20)]
    await asyncio.sleep(0.5)  # the hosts answer after 30 seconds, and are given up after two

    async with asyncio.timeout(1.3):
        quick = await submit()

    assert quick.status_code == 202
    codes = collections.Counter([answer.json()["code"] for answer in await asyncio.gather(*others, *mine)])
    assert codes["url_unreachable"] == 8  # four of each
    assert codes["rate_limited"] + codes["overloaded"] == 32


async def test_an_upload_is_used_as_often_as_wanted(client, ask, jobs, store, photo):
    upload_id = await upload(client, photo)

    made = [(await ask(upload_id=upload_id)).json()["id"] for _ in range(2)]

    first, second = (jobs.get("acme", job_id).photos for job_id in made)
    assert first != second
    assert store.get(*first) == store.get(*second)


async def test_an_upload_passes_the_same_gate_as_any_photo(client, ask):
    upload_id = await upload(client, b"<html>" * 100)

    assert_problem(await ask(upload_id=upload_id), 422, "image_unsupported_format")


async def test_an_upload_that_is_empty_gone_or_unknown_is_missing(client, ask, photo):
    empty = (await client.post("/v1/uploads", json={**JPEG, "size_bytes": 5})).json()["id"]
    gone = await upload(client, photo)
    await client.delete(f"/v1/uploads/{gone}")

    for upload_id in (empty, gone, "upl_unknown", "../../x"):
        assert_problem(await ask(upload_id=upload_id), 422, "upload_missing")


async def test_an_identity_brings_all_its_photos_and_keeps_them(client, ask, jobs, photo):
    identity_id = await identity(client, photo, count=3)

    made = (await ask(identity_id=identity_id)).json()

    job = jobs.get("acme", made["id"])
    assert job.photos == tuple(f"acme/{identity_id}/{index}" for index in range(3))
    assert (made["identity_id"], job.identity_id) == (identity_id, identity_id)
    assert (made["parameters"]["width"], made["parameters"]["height"]) == (384, 512)


async def test_an_identity_that_is_gone_or_unknown_is_named(client, ask, photo):
    identity_id = await identity(client, photo)
    await client.delete(f"/v1/identities/{identity_id}")

    for wrong in (identity_id, "idn_unknown"):
        response = await ask(identity_id=wrong)
        assert_problem(response, 422, "invalid_request")
        assert fields_of(response) == {"/identity_id"}


async def test_other_tenants_uploads_and_identities_are_like_unknown_ones(client, other, photo):
    upload_id, identity_id = await upload(client, photo), await identity(client, photo)

    def ask(**fields):
        return other.post("/v1/generations", json={"prompt": "a portrait", **fields})

    theirs = [await ask(upload_id=upload_id), await ask(identity_id=identity_id)]
    unknown = [await ask(upload_id="upl_unknown"), await ask(identity_id="idn_unknown")]

    for one, another in zip(theirs, unknown, strict=True):
        assert one.status_code == another.status_code == 422
        assert one.json() | {"request_id": ""} == another.json() | {"request_id": ""}


@pytest.mark.parametrize(
    "given",
    [
        {"image": "AAAA", "image_url": "https://example.com/a.jpg"},
        {"upload_id": "upl_1", "identity_id": "idn_1"},
        {"image_url": "https://example.com/a.jpg", "upload_id": "upl_1", "identity_id": "idn_1"},
    ],
    ids="+".join,
)
async def test_two_photos_are_refused_by_name_in_json_and_in_a_form(client, ask, given):
    in_json = await ask(**given)
    files = {"image": base64.b64decode(given["image"])} if "image" in given else {"prompt": (None, "a portrait")}
    texts = {name: value for name, value in given.items() if name != "image"}
    in_form = await client.post("/v1/generations", data=texts, files=files)

    for response in (in_json, in_form):
        assert_problem(response, 422, "invalid_request")
        assert fields_of(response) == {f"/{name}" for name in given}


@pytest.mark.parametrize("given", [{}, {"image": None, "image_url": None}], ids=["nothing", "nulls"])
async def test_no_photo_is_refused(ask, given):
    response = await ask(**given)

    assert_problem(response, 422, "invalid_request")
    assert fields_of(response) == {"/image"}


@pytest.mark.parametrize("name", ["image_url", "upload_id", "identity_id"])
@pytest.mark.parametrize("value", [7, "", "a\0b", "x" * 3000, ["a"], True], ids=repr)
async def test_a_source_that_is_no_plain_text_is_refused(ask, name, value):
    response = await ask(**{name: value})

    assert_problem(response, 422, "invalid_request")
    assert fields_of(response) == {f"/{name}"}


async def test_a_form_may_name_an_upload(client, jobs, photo):
    upload_id = await upload(client, photo)

    form = {"prompt": (None, "a portrait"), "upload_id": (None, upload_id)}
    response = await client.post("/v1/generations", files=form)

    assert response.status_code == 202, response.text
    assert jobs.get("acme", response.json()["id"]).photos[0].startswith("acme/gen_")
