"""One key, one generation: whatever is repeated, at whatever moment, over a real SQLite file and a real server."""

import asyncio
import base64
import json

import pytest
from doubles.api_callers import KEYS, assert_problem
from doubles.scripted_worker import ScriptedWorker
from doubles.served_api import served

from instantid_serve.serving.api.preferences import REPLAYED


def stored_files(settings):
    return [path for path in settings.results.folder.rglob("*") if path.is_file()]


async def listed(client):
    return (await client.get("/v1/generations", params={"limit": 100})).json()["data"]


async def test_a_repeated_request_is_answered_with_the_first_ones_job(submit, client):
    first = await submit(headers={"Idempotency-Key": "k-1"})
    second = await submit(headers={"Idempotency-Key": "k-1"})

    assert second.status_code == 202
    assert second.json()["id"] == first.json()["id"]
    assert second.headers["location"] == first.headers["location"]
    assert (first.headers.get(REPLAYED), second.headers[REPLAYED]) == (None, "true")
    assert len(await listed(client)) == 1


async def test_a_drawn_seed_is_no_part_of_what_was_asked(submit):
    first = await submit(headers={"Idempotency-Key": "k-1"})
    second = await submit(headers={"Idempotency-Key": "k-1"})

    assert first.json()["parameters"]["seed"] == second.json()["parameters"]["seed"]


async def test_a_replay_tells_the_job_as_it_is_now(submit, queue, store):
    await submit(headers={"Idempotency-Key": "k-1"})
    worker = ScriptedWorker(queue, store)
    worker.take()
    worker.succeed()

    replayed = await submit(headers={"Idempotency-Key": "k-1", "Prefer": "wait=1"})

    assert (replayed.status_code, replayed.json()["status"]) == (200, "succeeded")


async def test_a_form_and_json_that_ask_the_same_are_the_same(submit, client, photo):
    first = await submit(headers={"Idempotency-Key": "k-1"}, steps=7, metadata='{"a": "b"}')
    body = {
        "prompt": "a portrait",
        "steps": 7,
        "metadata": {"a": "b"},
        "image": base64.b64encode(photo).decode(),
    }
    second = await client.post("/v1/generations", json=body, headers={"Idempotency-Key": "k-1"})

    assert second.json()["id"] == first.json()["id"]


@pytest.mark.parametrize("change", [{"seed": 1}, {"prompt": "another"}, {"priority": "high"}])
async def test_another_request_with_the_key_is_refused(submit, change):
    await submit(headers={"Idempotency-Key": "k-1"})

    response = await submit(headers={"Idempotency-Key": "k-1"}, **change)

    assert_problem(response, 422, "idempotency_key_reused")


async def test_another_photo_with_the_key_is_refused_before_it_is_decoded(submit, client):
    await submit(headers={"Idempotency-Key": "k-1"})

    form = {"data": {"prompt": "a portrait"}, "files": {"image": b"no photo at all"}}
    response = await client.post("/v1/generations", **form, headers={"Idempotency-Key": "k-1"})

    assert_problem(response, 422, "idempotency_key_reused")


async def test_two_tenants_with_one_key_have_two_jobs(submit, other, photo):
    mine = await submit(headers={"Idempotency-Key": "k-1"})

    form = {"data": {"prompt": "a portrait"}, "files": {"image": photo}}
    theirs = await other.post("/v1/generations", **form, headers={"Idempotency-Key": "k-1"})

    assert theirs.json()["id"] != mine.json()["id"]


@pytest.mark.parametrize("key", ["", " ", "a b", "k" * 256, "\u00fc".encode("latin-1"), b"a\tb"])
async def test_a_key_that_is_none_is_refused(submit, key):
    assert_problem(await submit(headers={"Idempotency-Key": key}), 422, "invalid_request")


async def test_two_keys_are_refused(client, photo):
    headers = [("Idempotency-Key", "a"), ("Idempotency-Key", "b")]
    form = {"data": {"prompt": "a portrait"}, "files": {"image": photo}}

    assert_problem(await client.post("/v1/generations", **form, headers=headers), 422, "invalid_request")


async def test_fifty_at_once_with_one_key_make_one_job(submit, client, settings):
    for number in range(10):
        answers = await asyncio.gather(*(submit(headers={"Idempotency-Key": f"k-{number}"}) for _ in range(50)))

        assert {answer.status_code for answer in answers} == {202}
        assert len({answer.json()["id"] for answer in answers}) == 1
        assert sum(REPLAYED in answer.headers for answer in answers) == 49
    assert len(await listed(client)) == 10
    assert len(stored_files(settings)) == 10


async def test_a_request_whose_answer_was_lost_is_the_same_when_it_comes_again(app, client, photo):
    body = json.dumps({"prompt": "a portrait", "image": base64.b64encode(photo).decode()}).encode()
    lines = [
        "POST /v1/generations HTTP/1.1",
        "Host: test",
        f"Authorization: Bearer {KEYS['acme']}",
        "Idempotency-Key: lost",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
    ]
    async with served(app) as (host, port):
        _, writer = await asyncio.open_connection(host, port)
        writer.write("\r\n".join([*lines, "", ""]).encode() + body)
        await writer.drain()
        writer.transport.abort()  # gone before anything is answered

        headers = {"Idempotency-Key": "lost", "Content-Type": "application/json"}
        again = await client.post("/v1/generations", content=body, headers=headers)
        async with asyncio.timeout(5):
            while not await listed(client):  # noqa: ASYNC110 - nothing tells of a request nobody waits for
                await asyncio.sleep(0.01)
        later = await client.post("/v1/generations", content=body, headers=headers)

    assert (again.status_code, later.status_code) == (202, 202)
    assert later.headers[REPLAYED] == "true"
    assert [job["id"] for job in await listed(client)] == [again.json()["id"]] == [later.json()["id"]]
