import asyncio
import base64
import json

import pytest
from doubles.api_callers import assert_problem
from doubles.scripted_worker import ScriptedWorker
from doubles.service import new_job

LIST = "/v1/generations"


@pytest.fixture
def add(context):
    """Accept a job of a tenant, without a photo."""

    def accept(tenant="acme", **changes):
        return context.jobs.accept(context.tenants.ensure(tenant), [new_job(tenant, **changes)]).jobs[0]

    return accept


async def ids(client, **params):
    response = await client.get(LIST, params=params)
    assert response.status_code == 200, response.text
    return [job["id"] for job in response.json()["data"]]


async def test_the_newest_comes_first_and_pages_leave_nothing_out(client, add):
    added = [add().id for _ in range(7)]

    seen, params = [], {"limit": 3}
    while params:
        page = (await client.get(LIST, params=params)).json()
        seen += [job["id"] for job in page["data"]]
        params = {"limit": 3, "cursor": page["next_cursor"]} if page["next_cursor"] else None

    assert seen == added[::-1]


async def test_jobs_that_come_while_one_turns_pages_move_nothing(client, add):
    added = [add().id for _ in range(4)]
    page = (await client.get(LIST, params={"limit": 2})).json()
    add()

    assert await ids(client, limit=2, cursor=page["next_cursor"]) == added[1::-1]


async def test_jobs_are_found_by_status(client, add, queue, store):
    add()
    add()
    worker = ScriptedWorker(queue, store)
    done = worker.take()
    worker.succeed()
    running = worker.take()

    assert await ids(client, status="succeeded") == [done]
    assert set(await ids(client, status=["succeeded", "running"])) == {done, running}


async def test_no_job_is_after_or_before_the_time_it_was_told_with(client, add):
    for _ in range(20):
        add()
    (newest, *_), (*_, oldest) = [(await client.get(LIST)).json()["data"]] * 2

    assert await ids(client, created_after=newest["created_at"]) == []
    assert await ids(client, created_before=oldest["created_at"]) == []


async def test_jobs_are_found_by_time_batch_identity_and_metadata(client, add):
    first = add(metadata={"order": "1", "a.b-c": "x"}, identity_id="idn_1")
    await asyncio.sleep(0.005)  # SQLite's clock has milliseconds
    second = add(metadata={"order": "2"}, batch_id="bat_1")
    at = [job["created_at"] for job in (await client.get(LIST)).json()["data"]]

    assert await ids(client, created_after=at[1]) == [second.id]
    assert await ids(client, created_before=at[1]) == []
    assert await ids(client, batch_id="bat_1") == [second.id]
    assert await ids(client, identity_id="idn_1") == [first.id]
    assert await ids(client, **{"metadata.order": "1"}) == [first.id]
    assert await ids(client, **{"metadata.order": "1", "metadata.a.b-c": "y"}) == []


async def test_deleted_jobs_and_other_tenants_jobs_are_not_listed(client, add):
    mine, gone, _theirs = add(), add(), add("other")
    await client.delete(f"{LIST}/{gone.id}")

    assert await ids(client) == [mine.id]


@pytest.mark.parametrize(
    "params",
    [
        {"limit": "0"},
        {"limit": "101"},
        {"limit": "x"},
        {"status": "done"},
        {"created_after": "yesterday"},
        {"created_after": "1700000000"},
        {"created_after": "2026-11-25T08:00:00"},
        {"created_before": "2026-13-25T08:00:00Z"},
        {"tenant": "other"},
        {"metadata": "x"},
        {"metadata.": "x"},
        {"metadata.a b": "x"},
        {"metadata." + "k" * 65: "x"},
        {"batch_id": "a\0b"},
        {"metadata.k": "a\0b"},
        {"metadata.k": ["a", "b"]},
        {"batch_id": "b" * 65},
        {"cursor": "c" * 513},
    ],
    ids=str,
)
async def test_a_query_that_is_not_understood_is_refused(client, params):
    assert_problem(await client.get(LIST, params=params), 422, "invalid_request")


def encoded(value):
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


@pytest.fixture
async def told(client, add):
    """What a true cursor says."""
    for _ in range(2):
        add()
    sent = (await client.get(LIST, params={"limit": 1})).json()["next_cursor"]
    return json.loads(base64.urlsafe_b64decode(sent + "=="))


@pytest.mark.parametrize(
    "forge",
    [
        lambda _: "x",
        lambda _: "\u00fc",
        lambda _: "!!!!",
        lambda _: encoded([]),
        lambda _: encoded(None),
        lambda _: base64.urlsafe_b64encode(b"[" * 300).decode(),
        lambda told: encoded({**told, "s": "0" * 16}),
        lambda told: encoded({**told, "more": 1}),
        lambda told: encoded({**told, "t": "1"}),
        lambda told: encoded({**told, "t": float("nan")}),
        lambda told: encoded({**told, "t": True}),
        lambda told: encoded({**told, "i": "x'; DROP TABLE jobs"}),
        lambda told: encoded({**told, "i": 7}),
        lambda told: encoded({**told, "i": "gen_\0"}),
    ],
)
async def test_a_forged_cursor_is_refused(client, told, forge):
    assert_problem(await client.get(LIST, params={"cursor": forge(told)}), 422, "invalid_request")


async def test_a_cursor_of_another_filter_tenant_or_list_is_refused(client, other, told):
    sent = encoded(told)

    for asker, path, params in [
        (client, LIST, {"status": "queued"}),
        (client, LIST, {"metadata.a": "b"}),
        (other, LIST, {}),
        (client, "/v1/batches", {}),
    ]:
        assert_problem(await asker.get(path, params={**params, "cursor": sent}), 422, "invalid_request")
