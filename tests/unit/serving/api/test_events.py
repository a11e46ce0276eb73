"""The event stream over a real server and a real SQLite file, while a scripted worker drives the job."""

import asyncio
import contextlib
import random

import httpx2
import pytest
from doubles.api_callers import KEYS, assert_problem
from doubles.scripted_worker import ScriptedWorker
from doubles.served_api import events_in, served, stream

from instantid_serve.errors import DatabaseError, FaceNotFoundError

SUCCESS = ["generation.queued", "generation.running", "generation.succeeded"]


@pytest.fixture
async def live(app):
    """Acme's client of a real server."""
    async with served(app) as (host, port):
        headers = {"Authorization": f"Bearer {KEYS['acme']}"}
        async with httpx2.AsyncClient(base_url=f"http://{host}:{port}", headers=headers, timeout=10) as client:
            yield client


@pytest.fixture
def worker(queue, store):
    return ScriptedWorker(queue, store)


@pytest.fixture
def scripted(worker):
    """Drives the one queued job to its end, with pauses in which it can be looked at."""

    async def drive(pause_s=0.02, hand_backs=0, steps=3):
        for _ in range(hand_backs):
            await asyncio.to_thread(worker.take)
            await asyncio.sleep(pause_s)
            await asyncio.to_thread(worker.hand_back)
        await asyncio.to_thread(worker.take)
        for step in range(1, steps + 1):
            await asyncio.sleep(pause_s)
            await asyncio.to_thread(worker.step, step)
        await asyncio.sleep(pause_s)
        await asyncio.to_thread(worker.succeed)

    return drive


async def read(client, job_id, last_id=None):
    async with stream(client, job_id, last_id) as response:
        return [told async for told in events_in(response)]


async def test_a_stream_tells_every_change_with_growing_ids_and_ends_with_the_whole_job(live, submit, scripted):
    job_id = (await submit()).json()["id"]
    driving = asyncio.create_task(scripted())

    told = await read(live, job_id)

    await driving
    durable = [event for event in told if event.id]
    ids = [int(event.id) for event in durable]
    assert [event.event for event in durable] == SUCCESS
    assert ids == sorted(ids)
    assert told[-1].data == (await live.get(f"/v1/generations/{job_id}")).json()


async def test_between_changes_comes_progress_without_ids(live, submit, scripted):
    job_id = (await submit()).json()["id"]
    driving = asyncio.create_task(scripted(pause_s=0.1))

    told = await read(live, job_id)

    await driving
    progress = [event for event in told if event.event == "progress"]
    assert {event.id for event in progress} == {None}
    assert [event.data["progress"]["step"] for event in progress][-1] == 3
    assert progress[0].data["queue"] == {"position": 0, "eta_seconds": None}


async def test_a_failed_job_ends_its_stream_with_the_error(live, submit, worker):
    job_id = (await submit()).json()["id"]
    worker.take()
    worker.fail(FaceNotFoundError("there is no face in the photo").to_json())

    told = await read(live, job_id)

    assert told[-1].event == "generation.failed"
    assert told[-1].data["error"]["code"] == "face_not_found"


async def test_a_stream_cut_fifty_times_loses_and_repeats_nothing(live, submit, scripted):
    rng = random.Random(7)
    job_id = (await submit()).json()["id"]
    driving = asyncio.create_task(scripted(pause_s=0.03, hand_backs=15, steps=20))
    durable, last_id, cuts = [], None, 0

    while not durable or durable[-1].event != SUCCESS[-1]:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(rng.uniform(0, 0.04) if cuts < 50 else None), stream(live, job_id, last_id) as r:
                async for told in events_in(r):
                    if told.id:
                        durable.append(told)
                        last_id = told.id
        cuts += 1

    await driving
    whole = [event for event in await read(live, job_id) if event.id]
    assert cuts > 50
    assert durable == whole
    assert len(durable) == 1 + 2 * 15 + 2


async def test_who_has_the_last_event_is_told_that_nothing_follows(live, submit, scripted):
    job_id = (await submit()).json()["id"]
    await scripted(pause_s=0)
    last_id = (await read(live, job_id))[-1].id

    async with stream(live, job_id, last_id) as response:
        assert response.status_code == 204


async def test_an_empty_last_event_id_is_none(live, submit, scripted):
    job_id = (await submit()).json()["id"]
    await scripted(pause_s=0)

    told = await read(live, job_id, "")

    assert told[0].event == SUCCESS[0]


@pytest.mark.parametrize("last_id", ["x", "-1", "1e3", "999999", "9" * 30, "1 2"])
async def test_an_event_id_that_no_event_has_is_refused(client, submit, last_id):
    job_id = (await submit()).json()["id"]

    response = await client.get(f"/v1/generations/{job_id}/events", headers={"Last-Event-ID": last_id})

    assert_problem(response, 422, "invalid_request")


async def test_an_event_id_of_another_generation_is_refused(live, client, submit, scripted):
    first = (await submit()).json()["id"]
    await scripted(pause_s=0)
    last_id = (await read(live, first))[-1].id
    second = (await submit()).json()["id"]

    response = await client.get(f"/v1/generations/{second}/events", headers={"Last-Event-ID": last_id})

    assert_problem(response, 422, "invalid_request")


async def test_another_tenants_events_are_like_those_of_a_job_that_does_not_exist(other, submit):
    job_id = (await submit()).json()["id"]

    theirs = await other.get(f"/v1/generations/{job_id}/events")
    nobodys = await other.get("/v1/generations/gen_nobody/events")

    assert_problem(theirs, 404, "not_found")
    assert {**theirs.json(), "request_id": ""} == {**nobodys.json(), "request_id": ""}


async def test_a_tenant_has_so_many_streams_and_its_place_back_when_one_is_cut(app, live, submit):
    app.state.context.streams._limit = 2
    job_id = (await submit()).json()["id"]

    async with stream(live, job_id), stream(live, job_id):
        refused = await live.get(f"/v1/generations/{job_id}/events")
    async with asyncio.timeout(5):
        while app.state.context.streams._open["acme"]:  # noqa: ASYNC110 - it is the server that sees the cut
            await asyncio.sleep(0.01)

    assert_problem(refused, 429, "rate_limited")


async def test_a_replica_has_so_many_streams_of_all_tenants(app, live, submit):
    app.state.context.streams._in_all = 1
    job_id = (await submit()).json()["id"]

    async with stream(live, job_id):
        refused = await live.get(f"/v1/generations/{job_id}/events")

    assert_problem(refused, 503, "overloaded")


async def test_one_who_does_not_read_holds_nobody_up(live, submit, scripted):
    job_id = (await submit()).json()["id"]

    async with stream(live, job_id):
        driving = asyncio.create_task(scripted())
        told = await read(live, job_id)

    await driving
    assert told[-1].event == "generation.succeeded"


async def test_a_deleted_job_ends_its_streams(live, submit):
    job_id = (await submit()).json()["id"]
    reading = asyncio.create_task(read(live, job_id))
    await asyncio.sleep(0.1)

    await live.delete(f"/v1/generations/{job_id}")

    async with asyncio.timeout(5):
        told = await reading
    assert "generation.succeeded" not in [event.event for event in told]


async def test_a_stream_outlives_an_outage_of_the_database(app, live, submit, scripted):
    job_id = (await submit()).json()["id"]
    reading = asyncio.create_task(read(live, job_id))
    await asyncio.sleep(0.1)
    watch, events = app.state.context.watch, app.state.context.events
    sound = watch._jobs

    class Away:
        def __getattr__(self, _):
            raise DatabaseError("the database does not answer")

    watch._jobs = events.jobs = Away()
    await scripted(pause_s=0.05)
    assert not reading.done()
    watch._jobs = events.jobs = sound

    async with asyncio.timeout(10):
        told = await reading
    assert [event.event for event in told if event.id] == SUCCESS


async def test_a_quiet_stream_is_kept_open_by_pings(app, live, submit):
    app.state.context.events.ping_s = 0.1
    job_id = (await submit()).json()["id"]

    async with asyncio.timeout(5), stream(live, job_id) as response:
        async for line in response.aiter_lines():
            if line == ": ping":
                break

    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.headers["x-accel-buffering"] == "no"
