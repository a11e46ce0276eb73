"""What a request says of its job beside the picture, and what the job says of it then."""

import asyncio
import datetime as dt
import json

import pytest
import sqlalchemy as sa
from doubles.api_callers import assert_problem, fields_of
from doubles.scripted_worker import ScriptedWorker

from instantid_serve.service import outbox
from instantid_serve.service.tables import jobs as table
from instantid_serve.serving.api import job_fields


def seconds_between(job, earlier, later):
    return (dt.datetime.fromisoformat(job[later]) - dt.datetime.fromisoformat(job[earlier])).total_seconds()


async def test_a_job_says_what_was_asked_of_it(submit_json):
    fields = {"priority": "high", "metadata": {"order": "7", "a.b-c_D": "ü"}, "retry": "never"}

    job = (await submit_json(**fields)).json()

    assert (job["priority"], job["metadata"]) == ("high", fields["metadata"])
    assert (job["batch_id"], job["identity_id"], job["deadline"], job["provenance"]) == (None,) * 4
    assert job["queue"] == {"position": 0, "eta_seconds": None}


async def test_a_form_says_parts_as_json(submit, database):
    url = "https://example.com/hook"
    events = ["generation.failed", "generation.succeeded"]

    job = (await submit(metadata='{"a": "b"}', webhook_url=url, webhook_events=json.dumps(events), steps=9)).json()

    with database.read() as connection:
        webhook = connection.execute(sa.select(table.c.webhook)).scalar_one()
    assert (job["metadata"], job["parameters"]["steps"]) == ({"a": "b"}, 9)
    assert webhook == {"url": url, "events": events}


@pytest.mark.parametrize("metadata", ["x", "[]", '{"a": 1}', '{"a": "b", "a": "c"}', '{"a": "\\ud800"}', "NaN", ""])
async def test_a_form_whose_parts_are_not_as_they_should_be_is_refused(submit, metadata):
    response = await submit(metadata=metadata)

    assert_problem(response, 422, "invalid_request")
    assert fields_of(response) == {"/metadata"}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("priority", "urgent"),
        ("priority", 1),
        ("metadata", {f"k{number}": "v" for number in range(17)}),
        ("metadata", {"": "v"}),
        ("metadata", {"k" * 65: "v"}),
        ("metadata", {"a b": "v"}),
        ("metadata", {"k": "v" * 513}),
        ("metadata", {"k": 1}),
        ("metadata", {"k": None}),
        ("metadata", {"k": {}}),
        ("metadata", {"k": "a\0b"}),
        ("metadata", []),
        ("webhook_url", "ftp://example.com"),
        ("webhook_url", "http://127.0.0.1/"),
        ("webhook_url", "x" * 2049),
        ("webhook_events", ["generation.queued"]),
        ("webhook_events", "generation.failed"),
        ("webhook_events", ["generation.failed"]),  # with nobody to tell
        ("retention_s", 1),
        ("retention_s", 86_401),
        ("retention_s", "90"),
        ("retry", "always"),
        ("tenant_id", "other"),
        ("status", "succeeded"),
        ("batch_id", "bat_x"),
        ("deadline", 5),
    ],
)
async def test_a_field_that_is_not_as_it_should_be_is_refused(submit_json, name, value):
    response = await submit_json(**{name: value})

    assert response.status_code == 422, response.text
    assert response.headers["content-type"] == "application/problem+json"


async def test_a_shorter_retention_is_kept_from_the_jobs_end(submit_json, queue, store, client):
    job_id = (await submit_json(retention_s=90)).json()["id"]
    worker = ScriptedWorker(queue, store)
    worker.take()
    worker.succeed()

    job = (await client.get(f"/v1/generations/{job_id}")).json()

    assert seconds_between(job, "finished_at", "expires_at") == pytest.approx(90, abs=0.01)
    assert job["provenance"] == {"model": "none"}
    assert job["queue"] is None
    assert job["images"][0]["download_url"] is None  # a folder has no addresses


async def test_retry_never_gives_a_job_one_attempt(submit_json, jobs):
    job_id = (await submit_json(retry="never")).json()["id"]

    assert jobs.get("acme", job_id).max_attempts == 1


async def test_a_tenants_defaults_fill_what_a_request_leaves_out(submit, context):
    await submit()
    context.tenants.change("acme", {"defaults": {"steps": 11, "priority": "high", "metadata": {"team": "a"}}})
    context.keyring._known.clear()

    job = (await submit(quality=50)).json()

    assert (job["parameters"]["steps"], job["priority"], job["metadata"]) == (11, "high", {"team": "a"})


@pytest.mark.parametrize(("sent", "seconds"), [("15s", 15), ("15", 15), ("2m", 120), ("24h", 86_400), ("1h", 3600)])
async def test_cancel_after_is_a_deadline(submit, sent, seconds):
    job = (await submit(headers={"Cancel-After": sent})).json()

    assert seconds_between(job, "created_at", "deadline") == pytest.approx(seconds, abs=0.01)


@pytest.mark.parametrize(
    "sent", ["0", "0s", "-1", "1.5s", "25h", "86401", "soon", "", "1d", "1s2m", "9" * 30, "\u0661s"]
)
async def test_a_cancel_after_that_makes_no_sense_is_refused(submit, sent):
    assert_problem(await submit(headers={"Cancel-After": sent.encode()}), 422, "invalid_request")


async def test_a_job_that_was_not_begun_by_its_deadline_expires(submit, queue, client):
    job_id = (await submit(headers={"Cancel-After": "1s"})).json()["id"]
    await asyncio.sleep(1.1)

    queue.tidy()

    job = (await client.get(f"/v1/generations/{job_id}")).json()
    assert (job["status"], job["error"]["code"]) == ("expired", "deadline_passed")


async def test_a_deleted_job_is_gone_and_a_second_delete_finds_nothing(submit, client):
    path = f"/v1/generations/{(await submit()).json()['id']}"

    first, second = await client.delete(path), await client.delete(path)

    assert (first.status_code, first.content) == (204, b"")
    assert_problem(second, 404, "not_found")
    assert_problem(await client.get(path), 404, "not_found")


async def test_a_deleted_jobs_photo_is_removed_at_once(submit, client, settings):
    path = f"/v1/generations/{(await submit()).json()['id']}"

    await client.delete(path)

    assert not [found for found in settings.results.folder.rglob("*") if found.is_file()]


async def test_places_in_the_queue_are_told(submit, client):
    ids = [(await submit()).json()["id"] for _ in range(3)]
    await asyncio.sleep(1.1)  # what was seen of the queue is good for a second

    places = [(await client.get(f"/v1/generations/{job_id}")).json()["queue"]["position"] for job_id in ids]

    assert places == [0, 1, 2]


def test_the_events_of_webhooks_are_those_that_are_sent():
    assert set(job_fields.WebhookEvent.__args__) == set(outbox.TYPES)
