"""What a tenant uses of its limits, and the queue as a whole."""

import pytest
from doubles.service import LEASE_S, add, claim_one, image

from instantid_serve.errors import QuotaExceededError
from instantid_serve.service.fairness import Room
from instantid_serve.service.job import Speed
from instantid_serve.service.standing import QueueState, Standing


@pytest.fixture
def standing(database, clock):
    return Standing(database, clock)


@pytest.fixture(autouse=True)
def november(clock):
    clock.now = 1_795_582_800.0  # 2026-11-25


def test_a_tenants_load_is_what_waits_runs_and_was_accepted_this_month(jobs, queue, standing):
    add(jobs, count=3)
    queue.claim("w1", Room(8), LEASE_S)
    add(jobs, count=2)
    add(jobs, count=1)

    load = standing.load("alice")

    assert (load.queued_jobs, load.running_pictures, load.month_pictures) == (2, 3, 6)
    assert load.month_ends_at == 1_796_083_200.0  # 2026-12-01


def test_nothing_of_other_tenants_is_in_it(jobs, standing):
    add(jobs, "bob", count=4)

    load = standing.load("alice")

    assert (load.queued_jobs, load.running_pictures, load.month_pictures) == (0, 0, 0)
    assert standing.months("alice") == []


def test_a_new_month_begins_at_nothing_and_the_old_one_is_still_told(jobs, queue, standing, clock):
    add(jobs, count=2)
    claim = claim_one(queue)
    queue.settle_succeeded(claim.job.id, claim.fence, [image(), image()], {})
    clock.now += 7 * 86_400

    assert standing.load("alice").month_pictures == 0
    assert [(month.period, month.pictures, month.made) for month in standing.months("alice")] == [("2026-11", 2, 2)]


def test_months_come_latest_first_and_no_more_than_asked(jobs, standing, clock):
    for _ in range(4):
        add(jobs)
        clock.now += 31 * 86_400

    assert [month.period for month in standing.months("alice", 2)] == ["2027-02", "2027-01"]


def test_the_queue_is_everyones_and_workers_that_fell_silent_do_not_count(jobs, queue, standing, clock):
    queue.report("silent", Speed(0, 8, 0.0, 0.0))
    clock.now += 60
    add(jobs, "alice")
    clock.now += 7
    add(jobs, "bob")
    queue.report("w1", Speed(0, 8, 0.0, 0.0))

    assert standing.queue() == QueueState(queued=2, oldest_age_s=7.0, running=0, workers=1)


def test_an_empty_service_has_an_empty_queue(standing):
    assert standing.queue() == QueueState(queued=0, oldest_age_s=0.0, running=0, workers=0)


def test_a_used_up_month_names_its_end_and_a_wait_of_a_day_at_most(jobs, tenants):
    tenants.ensure("alice")
    tenants.change("alice", {"pictures_per_month": 1})
    add(jobs)

    with pytest.raises(QuotaExceededError) as refused:
        add(jobs)

    assert refused.value.facts == {
        "quota": 1,
        "used": 1,
        "resets_at": "2026-12-01T00:00:00+00:00",
        "retry_after_s": 86_400,
    }


def test_in_a_months_last_hour_the_wait_is_what_is_left_of_it(jobs, tenants, clock):
    clock.now = 1_796_083_200.0 - 600.5
    tenants.ensure("alice")
    tenants.change("alice", {"pictures_per_month": 0})

    with pytest.raises(QuotaExceededError) as refused:
        add(jobs)

    assert refused.value.facts["retry_after_s"] == 601
