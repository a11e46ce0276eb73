"""Claimed once, settled once, tried by the schedule, given up at its end."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from doubles.webhooks import GONE, LEASE_S, PLENTY, REFUSED, TAKEN, WebhookDesk

from instantid_serve.errors import StaleFenceError
from instantid_serve.service.delivery import Attempt, Outcome
from instantid_serve.service.webhook_schedule import DELAYS_S

DAY_S = 86_400.0


@pytest.fixture
def desk(database, clock):
    return WebhookDesk(database, clock)


def test_a_delivery_is_claimed_by_one_courier(desk):
    desk.put(desk.endpoint(), count=30)

    with ThreadPoolExecutor(4) as couriers:
        claims = [couriers.submit(desk.claim) for _ in range(8)]
        claimed = [errand.id for claim in claims for errand in claim.result()]

    assert sorted(claimed) == sorted(desk.rows())


def test_what_was_taken_is_delivered_and_logged(desk):
    desk.put(desk.endpoint())

    outcome = desk.queue.settle(desk.claim_one(), TAKEN)

    assert outcome is Outcome.DELIVERED
    assert (desk.row().status, desk.row().attempts) == ("delivered", [TAKEN.to_json()])
    assert desk.claim() == []


@pytest.mark.parametrize("status", [302, 400, 404, 500])
def test_any_answer_but_success_is_tried_again(desk, status):
    desk.put(desk.endpoint())

    outcome = desk.queue.settle(desk.claim_one(), Attempt(at=1.0, took_s=0.1, status=status))

    assert (outcome, desk.row().status) == (Outcome.RETRIED, "pending")


def test_a_delivery_is_tried_ten_times_by_the_schedule_and_then_failed(desk, clock):
    desk.put(desk.endpoint())
    waits, messages = [], set()

    for _ in range(len(DELAYS_S)):
        errand = desk.claim_one()
        messages.add(errand.message_id)
        desk.queue.settle(errand, REFUSED)
        waits.append(desk.row().due_at - clock.now)
        clock.now = max(clock.now, desk.row().due_at)

    assert [wait == pytest.approx(delay, rel=0.2) for wait, delay in zip(waits, DELAYS_S[1:], strict=False)] == [
        True
    ] * 9
    assert (desk.row().status, len(desk.row().attempts), len(messages)) == ("failed", 10, 1)
    assert desk.claim() == []


def test_a_receiver_that_names_a_time_is_left_alone_until_then(desk, clock):
    desk.put(desk.endpoint())

    desk.queue.settle(desk.claim_one(), Attempt(at=1.0, took_s=0.1, status=429, retry_after_s=120.0))

    clock.now += 119
    assert desk.claim() == []
    clock.now += 2
    assert len(desk.claim()) == 1


def test_a_delivery_whose_courier_died_is_claimed_again_with_the_same_message(desk, clock):
    desk.put(desk.endpoint())
    first = desk.claim_one()
    clock.now += LEASE_S + 1

    second = desk.claim_one()

    assert (second.message_id, second.tries) == (first.message_id, 2)


def test_a_courier_that_was_taken_for_dead_settles_nothing(desk, clock):
    desk.put(desk.endpoint())
    slow = desk.claim_one()
    clock.now += LEASE_S + 1
    desk.claim_one()

    with pytest.raises(StaleFenceError):
        desk.queue.settle(slow, TAKEN)

    assert (desk.row().status, desk.row().attempts) == ("sending", [])


def test_a_delivery_that_kills_its_couriers_ends(desk, clock):
    desk.put(desk.endpoint())
    for _ in DELAYS_S:
        desk.claim_one()
        clock.now += LEASE_S + 1

    desk.queue.tidy(DAY_S)

    assert (desk.claim(), desk.row().status) == ([], "failed")


def test_gone_disables_the_endpoint_and_fails_what_waits(desk):
    endpoint = desk.endpoint()
    desk.put(endpoint)
    errand = desk.claim_one()
    desk.put(endpoint)

    outcome = desk.queue.settle(errand, GONE)

    assert outcome is Outcome.DISABLED
    assert desk.webhooks.get("alice", endpoint.id).disabled_reason == "gone"
    assert {row.status for row in desk.rows().values()} == {"failed"}


def test_what_was_under_way_to_an_endpoint_that_is_disabled_is_not_tried_again(desk):
    endpoint = desk.endpoint()
    desk.put(endpoint, count=2)
    first, second = desk.claim()
    desk.queue.settle(first, GONE)

    assert desk.queue.settle(second, REFUSED) is Outcome.DISABLED


def fail_daily(desk, clock, days):
    for _ in range(days):
        desk.put(desk.webhooks.list("alice")[0])
        for errand in desk.claim():
            desk.queue.settle(errand, REFUSED)
        clock.now += DAY_S


def test_an_endpoint_that_fails_for_five_days_is_disabled(desk, clock):
    endpoint = desk.endpoint()

    fail_daily(desk, clock, 5)
    before = desk.webhooks.get("alice", endpoint.id)
    fail_daily(desk, clock, 1)

    assert before.disabled_reason is None
    assert desk.webhooks.get("alice", endpoint.id).disabled_reason == "failing"


def test_one_success_ends_a_row_of_failures(desk, clock):
    endpoint = desk.endpoint()
    fail_daily(desk, clock, 4)
    for errand in desk.claim():
        desk.queue.settle(errand, TAKEN)

    fail_daily(desk, clock, 3)

    assert desk.webhooks.get("alice", endpoint.id).disabled_at is None


def test_failures_with_nothing_to_deliver_between_them_are_no_row(desk, clock):
    endpoint = desk.endpoint()
    for _ in range(2):
        desk.put(endpoint)
        desk.queue.settle(desk.claim_one(), REFUSED)
        desk.webhooks.change("alice", endpoint.id, {"url": "https://example.com/other"})
        with desk.database.write() as connection:
            connection.exec_driver_sql("DELETE FROM webhook_deliveries")
        clock.now += 10 * DAY_S

    assert desk.webhooks.get("alice", endpoint.id).disabled_at is None


def test_what_ended_is_forgotten_after_its_time(desk, clock):
    endpoint = desk.endpoint()
    desk.put(endpoint)
    desk.queue.settle(desk.claim_one(), TAKEN)
    clock.now += 3 * DAY_S
    [waiting] = desk.put(endpoint)

    desk.queue.tidy(2 * DAY_S)

    assert list(desk.rows()) == [waiting]


def test_what_came_for_an_endpoint_as_it_was_disabled_is_failed_in_the_end(desk):
    endpoint = desk.endpoint()
    desk.webhooks.change("alice", endpoint.id, {"disabled": True})
    desk.put(endpoint)

    assert desk.claim(PLENTY) == []
    desk.queue.tidy(DAY_S)

    assert desk.row().status == "failed"


def test_the_oldest_that_is_due_has_an_age(desk, clock):
    assert desk.queue.oldest_due_age_s() == 0.0
    desk.put(desk.endpoint())

    clock.now += 7.0

    assert desk.queue.oldest_due_age_s() == pytest.approx(7.0)
