"""What jobs put into the outbox, in the transaction of their changes."""

import datetime as dt
import threading

import pytest
from doubles.service import add, claim_one, image
from doubles.webhooks import WebhookDesk

from instantid_serve.service import outbox, wakeups
from instantid_serve.service.outbox import TYPES

ERROR = {"code": "face_not_found", "status": 422, "retryable": False, "detail": "no face", "facts": {"boxes": []}}
DONE = ("generation.succeeded",)


@pytest.fixture
def desk(database, clock):
    return WebhookDesk(database, clock)


def succeed(jobs, queue, **changes):
    job = add(jobs, **changes)
    queue.settle_succeeded(job.id, claim_one(queue).fence, [image()], {})
    return job


def types(desk):
    return sorted(row.type for row in desk.rows().values())


def test_every_endpoint_hears_of_the_types_it_wants(desk, jobs, queue):
    all_types, done = desk.endpoint(), desk.endpoint(events=DONE)

    succeed(jobs, queue)

    told = sorted((row.endpoint_id, row.type) for row in desk.rows().values())
    assert told == sorted([(all_types.id, "generation.running"), (all_types.id, DONE[0]), (done.id, DONE[0])])


def test_nobody_hears_of_another_tenants_jobs(desk, jobs, queue):
    desk.endpoint(tenant="bob")

    succeed(jobs, queue)

    assert desk.rows() == {}


def test_a_disabled_endpoint_hears_nothing(desk, jobs, queue):
    desk.webhooks.change("alice", desk.endpoint().id, {"disabled": True})

    succeed(jobs, queue)

    assert desk.rows() == {}


@pytest.mark.parametrize(("events", "count"), [([], 2), (list(DONE), 1)])
def test_a_job_can_name_a_receiver_of_its_own(desk, jobs, queue, events, count):
    succeed(jobs, queue, webhook={"url": "https://Mine.example:8443/x", "events": events})

    rows = desk.rows().values()
    assert {(row.endpoint_id, row.host) for row in rows} == {(None, "mine.example:8443")}
    assert len(rows) == count


def test_what_is_told_is_thin_and_its_times_are_iso_8601(desk, jobs, queue, clock):
    desk.endpoint(events=DONE)

    job = succeed(jobs, queue, metadata={"order": "7"}, prompt="a secret prompt")

    told = desk.row().payload
    assert told["type"] == DONE[0]
    assert dt.datetime.fromisoformat(told["timestamp"]).timestamp() == clock.now
    assert (told["data"]["id"], told["data"]["status"], told["data"]["metadata"]) == (
        job.id,
        "succeeded",
        {"order": "7"},
    )
    assert dt.datetime.fromisoformat(told["data"]["expires_at"]).timestamp() > clock.now
    assert "a secret prompt" not in str(told)


def test_a_failure_tells_its_code_but_not_its_facts(desk, jobs, queue):
    desk.endpoint(events=("generation.failed",))

    queue.settle_failed(add(jobs).id, claim_one(queue).fence, ERROR)

    assert desk.row().payload["data"]["error"] == {"code": "face_not_found", "detail": "no face"}


def test_a_change_that_is_taken_back_tells_nobody(desk, database, clock):
    def change_and_fail():
        with database.write() as connection:
            outbox.put(connection, clock(), [outbox.delivery("alice", {"type": DONE[0]}, "https://a.example")])
            raise RuntimeError

    with pytest.raises(RuntimeError):
        change_and_fail()

    assert desk.rows() == {}


def test_couriers_are_told_where_the_database_can(desk, jobs, queue, database):
    if not database.is_postgresql:
        pytest.skip("SQLite tells nobody; couriers look")
    heard = threading.Event()
    listener = wakeups.listen(database, [wakeups.DELIVERIES], lambda _channel, _payload: heard.set())
    desk.endpoint()

    while not heard.wait(0.2):  # until the listener has begun to listen
        succeed(jobs, queue)

    listener.close()
    assert set(types(desk)) <= set(TYPES)
