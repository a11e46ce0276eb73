import base64
import io

import pytest
from doubles.api_callers import assert_problem, fields_of
from doubles.scripted_worker import ScriptedWorker
from PIL import Image

from instantid_serve.serving.api.preferences import REPLAYED

BATCHES = "/v1/batches"


@pytest.fixture
def image(photo):
    return base64.b64encode(photo).decode()


@pytest.fixture
def send(client, image):
    """Send a batch of so many items, or of these."""

    async def batch(items=2, headers=None, **fields):
        if isinstance(items, int):
            items = [{"prompt": f"portrait {number}", "image": image} for number in range(items)]
        return await client.post(BATCHES, json={"items": items, **fields}, headers=headers)

    return batch


async def queued(client):
    return (await client.get("/v1/generations", params={"limit": 100})).json()["data"]


async def test_a_batch_is_accepted_with_its_items_in_order(send, client):
    response = await send(3, metadata={"album": "7"})

    batch = response.json()
    jobs = [(await client.get(f"/v1/generations/{item['id']}")).json() for item in batch["items"]]
    assert response.status_code == 202
    assert response.headers["location"] == f"{BATCHES}/{batch['id']}"
    assert (batch["object"], batch["total"], batch["done"]) == ("batch", 3, False)
    assert (batch["counts"]["queued"], batch["metadata"]) == (3, {"album": "7"})
    assert [job["parameters"]["prompt"] for job in jobs] == ["portrait 0", "portrait 1", "portrait 2"]
    assert {(job["batch_id"], job["priority"]) for job in jobs} == {(batch["id"], "low")}


async def test_defaults_hold_where_an_item_says_nothing(send, client, image):
    items = [{"image": image}, {"image": image, "steps": 5, "metadata": {"b": "c"}}]
    defaults = {"prompt": "a portrait", "steps": 7, "priority": "high", "metadata": {"a": "b"}}

    batch = (await send(items, defaults=defaults)).json()

    jobs = [(await client.get(f"/v1/generations/{item['id']}")).json() for item in batch["items"]]
    assert [job["parameters"]["steps"] for job in jobs] == [7, 5]
    assert [job["metadata"] for job in jobs] == [{"a": "b"}, {"b": "c"}]
    assert {job["priority"] for job in jobs} == {"high"}


async def test_an_items_photo_stands_above_the_defaults_photo(send, client, image):
    stream = io.BytesIO()
    Image.new("RGB", (400, 300)).save(stream, "JPEG")
    wide = base64.b64encode(stream.getvalue()).decode()

    batch = (await send([{}, {"image": wide}], defaults={"prompt": "x", "image": image})).json()

    jobs = [(await client.get(f"/v1/generations/{item['id']}")).json() for item in batch["items"]]
    assert [job["parameters"]["width"] for job in jobs] == [384, 512]


async def test_every_fault_is_named_by_its_place_and_nothing_is_accepted(send, client, image, settings):
    good = {"prompt": "x", "image": image}
    wrong = {**good, "steps": 0, "seed": -1}
    items = [good, good, {**good, "priority": "low"}, wrong, {"prompt": "x"}, {"image": image}]

    response = await send(items, defaults={"quality": 0, "colour": 1})

    assert_problem(response, 422, "invalid_request")
    places = {"/defaults/quality", "/defaults/colour", "/items/2/priority", "/items/3/steps", "/items/3/seed"}
    assert fields_of(response) >= places | {"/items/4/image", "/items/5/prompt"}
    assert await queued(client) == []
    assert not [path for path in settings.results.folder.rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    ("changes", "code", "pointer"),
    [
        ({"image": base64.b64encode(b"no photo").decode()}, "image_corrupt", "/items/1"),
        ({"sampler": "none"}, "invalid_request", "/items/1"),
        ({"identity_id": "idn_nobody", "image": None}, "invalid_request", "/items/1/identity_id"),
        ({"retention_s": 1e9}, "invalid_request", "/items/1/retention_s"),
    ],
)
async def test_what_only_its_photo_shows_fails_the_whole_batch(send, client, image, settings, changes, code, pointer):
    good = {"prompt": "x", "image": image}
    bad = {name: value for name, value in {**good, **changes}.items() if value is not None}

    response = await send([good, bad])

    assert_problem(response, 422, code)
    assert fields_of(response) == {pointer}
    assert await queued(client) == []
    assert not [path for path in settings.results.folder.rglob("*") if path.is_file()]


async def test_a_batch_that_the_queue_has_no_room_for_is_refused_as_a_whole(send, client, context, settings):
    await queued(client)  # the tenant is there now
    context.tenants.change("acme", {"max_queued_jobs": 2})
    context.keyring._known.clear()

    response = await send(3)

    assert_problem(response, 429, "queue_full")
    assert await queued(client) == []
    assert not [path for path in settings.results.folder.rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"items": []},
        {"items": [{}] * 101},
        {"items": [1]},
        {"items": {}},
        {"items": [{"prompt": "x"}], "priority": "high"},
        {"items": [{"prompt": "x"}], "defaults": []},
        {"items": [{"prompt": "x"}], "metadata": {"a": 1}},
        [],
    ],
)
async def test_a_body_that_is_no_batch_is_refused(client, body):
    assert_problem(await client.post(BATCHES, json=body), 422, "invalid_request")


async def test_a_repeated_batch_is_the_first_one(send, client):
    first = await send(headers={"Idempotency-Key": "b-1"})
    second = await send(headers={"Idempotency-Key": "b-1"})
    other = await send(3, headers={"Idempotency-Key": "b-1"})

    assert second.json() == first.json()
    assert second.headers[REPLAYED] == "true"
    assert_problem(other, 422, "idempotency_key_reused")
    assert len(await queued(client)) == 2


async def test_a_batch_counts_its_items_and_is_done_when_all_have_ended(send, client, queue, store):
    batch_id = (await send(2)).json()["id"]
    worker = ScriptedWorker(queue, store)
    worker.take()
    worker.succeed()
    half = (await client.get(f"{BATCHES}/{batch_id}")).json()

    canceled = (await client.post(f"{BATCHES}/{batch_id}/cancel")).json()

    assert (half["counts"]["succeeded"], half["counts"]["queued"], half["done"]) == (1, 1, False)
    assert (canceled["counts"]["succeeded"], canceled["counts"]["canceled"], canceled["done"]) == (1, 1, True)
    assert [item["status"] for item in canceled["items"]] == ["succeeded", "canceled"]


async def test_batches_are_listed_the_newest_first_in_pages(send, client):
    sent = [(await send(1)).json()["id"] for _ in range(3)]

    first = (await client.get(BATCHES, params={"limit": 2})).json()
    second = (await client.get(BATCHES, params={"limit": 2, "cursor": first["next_cursor"]})).json()

    assert [batch["id"] for batch in [*first["data"], *second["data"]]] == sent[::-1]
    assert second["next_cursor"] is None


async def test_another_tenants_batch_is_like_one_that_does_not_exist(send, other):
    batch_id = (await send(1)).json()["id"]

    for method, path in [("GET", ""), ("POST", "/cancel")]:
        theirs = await other.request(method, f"{BATCHES}/{batch_id}{path}")
        nobodys = await other.request(method, f"{BATCHES}/bat_nobody{path}")

        assert_problem(theirs, 404, "not_found")
        assert {**theirs.json(), "request_id": ""} == {**nobodys.json(), "request_id": ""}


async def test_a_deadline_holds_for_every_item(send, client):
    batch = (await send(2, headers={"Cancel-After": "2m"})).json()

    jobs = [(await client.get(f"/v1/generations/{item['id']}")).json() for item in batch["items"]]
    assert all(job["deadline"] > job["created_at"] for job in jobs)
