"""How much of a tenant may wait, and how many pictures it may have in a month."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from doubles.service import LEASE_S, add, claim_one, image, new_job

from instantid_serve.errors import LimitError, QueueFullError, QuotaExceededError
from instantid_serve.service import usage
from instantid_serve.service.fairness import Room
from instantid_serve.service.idempotency import IdempotencyKey

ERROR = {"code": "face_not_found", "status": 422, "retryable": False, "detail": "", "facts": {}}
DAY_S = 86_400.0


@pytest.fixture
def limited(tenants):
    """The tenant alice with these limits."""

    def to(**limits):
        tenants.ensure("alice")
        return tenants.change("alice", limits)

    return to


@pytest.fixture
def used(database):
    """The tenant's months, the latest first."""

    def of(tenant="alice"):
        with database.read(tenant) as connection:
            return usage.of(connection, tenant)

    return of


def send(jobs, tenant, **changes):
    return jobs.accept(tenant, [new_job(tenant.id, **changes)])


def accepted_of(jobs, tenant, threads, each=1):
    """How many of many requests at one moment were accepted; each asks for so many pictures."""
    together = threading.Barrier(threads)

    def ask():
        together.wait(20)
        try:
            send(jobs, tenant, count=each)
        except LimitError:
            return False
        return True

    with ThreadPoolExecutor(threads) as pool:
        return sum(answer.result() for answer in [pool.submit(ask) for _ in range(threads)])


class TestQueue:
    def test_no_more_jobs_wait_than_may(self, jobs, limited):
        alice = limited(max_queued_jobs=2)
        send(jobs, alice)
        send(jobs, alice)

        with pytest.raises(QueueFullError) as caught:
            send(jobs, alice)
        assert caught.value.facts == {"max_queued_jobs": 2, "queued": 2, "retry_after_s": 5}

    def test_of_several_jobs_that_do_not_all_fit_none_is_added(self, jobs, queue, limited):
        alice = limited(max_queued_jobs=2)

        with pytest.raises(QueueFullError):
            jobs.accept(alice, [new_job() for _ in range(3)])
        assert sum(queue.counts().values()) == 0

    def test_a_job_that_began_makes_room(self, jobs, queue, limited):
        alice = limited(max_queued_jobs=1)
        send(jobs, alice)
        claim_one(queue)

        assert send(jobs, alice)

    def test_other_tenants_jobs_do_not_count(self, jobs, limited):
        alice = limited(max_queued_jobs=1)
        add(jobs, "bob")

        assert send(jobs, alice)

    def test_racing_requests_do_not_get_past_it(self, jobs, limited):
        assert accepted_of(jobs, limited(max_queued_jobs=7), threads=20) == 7


class TestQuota:
    def test_pictures_count_not_jobs(self, jobs, limited):
        alice = limited(pictures_per_month=5)
        send(jobs, alice, count=4)

        with pytest.raises(QuotaExceededError) as caught:
            send(jobs, alice, count=2)
        assert caught.value.facts.items() >= {"quota": 5, "used": 4}.items()
        assert send(jobs, alice, count=1)

    def test_racing_requests_do_not_get_past_it(self, jobs, limited, used):
        assert accepted_of(jobs, limited(pictures_per_month=10), threads=20, each=2) == 5
        assert used()[0].pictures == 10

    def test_the_next_month_is_a_new_one(self, jobs, limited, clock, used):
        alice = limited(pictures_per_month=1)
        send(jobs, alice)
        clock.now += 31 * DAY_S

        assert send(jobs, alice)
        assert [month.pictures for month in used()] == [1, 1]

    def test_a_repeated_request_is_not_counted_again(self, jobs, limited, used):
        alice = limited(pictures_per_month=1)
        key = IdempotencyKey("k", "f")

        for _ in range(3):
            jobs.accept(alice, [new_job()], key)

        assert (used()[0].pictures, used()[0].jobs) == (1, 1)

    def test_what_was_refused_is_not_counted(self, jobs, limited, used):
        alice = limited(pictures_per_month=3)

        with pytest.raises(QuotaExceededError):
            send(jobs, alice, count=4)

        assert used() == []


class TestUsage:
    def test_success_counts_what_was_made_and_how_long_it_took(self, jobs, queue, used):
        job = add(jobs, count=2)
        queue.settle_succeeded(job.id, claim_one(queue).fence, [image(1), image(2)], {})

        [month] = used()
        assert (month.pictures, month.jobs, month.made, month.denoise_s) == (2, 1, 2, 1.0)

    def test_settling_twice_counts_once(self, jobs, queue, used):
        job = add(jobs)
        fence = claim_one(queue).fence
        for _ in range(2):
            queue.settle_succeeded(job.id, fence, [image()], {})

        assert used()[0].made == 1

    def test_what_failed_is_given_back(self, jobs, queue, used):
        job = add(jobs, count=3)
        queue.settle_failed(job.id, claim_one(queue).fence, ERROR)

        assert (used()[0].pictures, used()[0].made) == (0, 0)

    def test_what_was_tried_too_often_is_given_back(self, jobs, queue, used):
        job = add(jobs, max_attempts=1)
        queue.release(job.id, claim_one(queue).fence, cause=ERROR)

        assert used()[0].pictures == 0

    def test_what_was_canceled_before_it_began_is_given_back(self, jobs, used):
        job = add(jobs, count=3)
        jobs.request_cancel("alice", job.id)
        jobs.request_cancel("alice", job.id)

        assert used()[0].pictures == 0

    def test_what_was_canceled_in_the_middle_is_not(self, jobs, queue, used):
        job = add(jobs, count=3)
        claim = claim_one(queue)
        jobs.request_cancel("alice", job.id)
        queue.settle_canceled(job.id, claim.fence)

        assert (used()[0].pictures, used()[0].made) == (3, 0)

    def test_it_is_given_back_to_the_month_it_was_taken_from(self, jobs, queue, clock, used):
        job = add(jobs, count=2)
        clock.now += 31 * DAY_S
        add(jobs, "alice")
        for claim in queue.claim("w1", Room(8), LEASE_S):
            if claim.job.id == job.id:
                queue.settle_failed(job.id, claim.fence, ERROR)

        assert [month.pictures for month in used()] == [1, 0]

    def test_months_are_of_utc(self):
        assert [usage.period_of(time_s) for time_s in (0.0, 1_767_225_599.0, 1_767_225_600.0)] == [
            "1970-01",
            "2025-12",
            "2026-01",
        ]
