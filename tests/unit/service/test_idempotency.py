"""The same request sent twice is one job."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from doubles.service import LEASE_S, new_job

from instantid_serve.errors import IdempotencyMismatchError, NotFoundError, QuotaExceededError
from instantid_serve.service.fairness import Room
from instantid_serve.service.idempotency import KEPT_S, IdempotencyKey, fingerprint

KEY = IdempotencyKey("key-1", "fingerprint-1")
THREADS, ROUNDS = 50, 20


@pytest.fixture
def alice(tenants):
    return tenants.ensure("alice")


def accept(jobs, tenant, key=KEY, **changes):
    return jobs.accept(tenant, [new_job(tenant.id, **changes)], key)


class TestRepeating:
    def test_the_second_request_gets_the_first_ones_job(self, jobs, queue, alice):
        first, second = accept(jobs, alice), accept(jobs, alice)

        assert (first.replayed, second.replayed) == (False, True)
        assert second.jobs == first.jobs
        assert sum(queue.counts().values()) == 1

    def test_it_gets_the_job_as_it_is_by_then(self, jobs, queue, alice):
        accept(jobs, alice)
        queue.claim("w1", Room(1), LEASE_S)

        assert accept(jobs, alice).jobs[0].status == "running"

    def test_several_jobs_at_once_come_back_together_and_in_order(self, jobs, alice):
        new = [new_job("alice", batch_id="bat_1") for _ in range(3)]
        first = jobs.accept(alice, new, KEY, batch={})

        again = jobs.accept(alice, [new_job("alice", batch_id="bat_2") for _ in range(3)], KEY, batch={})

        assert [job.id for job in again.jobs] == [job.id for job in first.jobs] == [job.id for job in new]

    def test_it_can_be_asked_for_before_anything_is_read(self, jobs, alice):
        assert jobs.replay("alice", KEY) is None
        first = accept(jobs, alice)

        assert jobs.replay("alice", KEY).jobs == first.jobs

    def test_a_request_that_was_refused_leaves_its_key_free(self, jobs, tenants):
        tenants.ensure("alice")
        poor = tenants.change("alice", {"pictures_per_month": 1})
        with pytest.raises(QuotaExceededError):
            accept(jobs, poor, count=2)

        assert not accept(jobs, poor, count=1).replayed

    def test_what_was_deleted_is_not_made_again(self, jobs, alice):
        job = accept(jobs, alice).jobs[0]
        jobs.delete("alice", job.id)

        with pytest.raises(NotFoundError):
            accept(jobs, alice)


class TestTellingApart:
    def test_the_same_key_with_another_request_is_refused(self, jobs, queue, alice):
        accept(jobs, alice)

        with pytest.raises(IdempotencyMismatchError):
            accept(jobs, alice, IdempotencyKey(KEY.key, "another"))
        with pytest.raises(IdempotencyMismatchError):
            jobs.replay("alice", IdempotencyKey(KEY.key, "another"))
        assert sum(queue.counts().values()) == 1

    def test_another_tenants_same_key_is_its_own(self, jobs, tenants, alice):
        first, theirs = accept(jobs, alice), accept(jobs, tenants.ensure("bob"))

        assert not theirs.replayed
        assert theirs.jobs[0].id != first.jobs[0].id

    def test_after_a_day_the_key_is_new(self, jobs, clock, alice):
        first = accept(jobs, alice)
        clock.now += KEPT_S - 1
        within = accept(jobs, alice)
        clock.now += 2

        after = accept(jobs, alice)

        assert (within.replayed, after.replayed) == (True, False)
        assert after.jobs[0].id != first.jobs[0].id

    @pytest.mark.parametrize(
        "other",
        [("POST /b", {"n": 1}, b"x"), ("POST /a", {"n": 2}, b"x"), ("POST /a", {"n": 1}, b"y"), ("POST /a", {"n": 1})],
    )
    def test_route_fields_and_files_all_count(self, other):
        assert fingerprint(*other) != fingerprint("POST /a", {"n": 1}, b"x")

    def test_the_order_of_fields_does_not(self):
        assert fingerprint("r", {"a": 1, "b": 2}) == fingerprint("r", {"b": 2, "a": 1})


def test_of_many_requests_at_once_exactly_one_makes_a_job(jobs, queue, alice):
    with ThreadPoolExecutor(THREADS) as pool:
        for number in range(ROUNDS):
            key = IdempotencyKey(f"round-{number}", "same")
            sent = [pool.submit(accept, jobs, alice, key) for _ in range(THREADS)]
            answers = [answer.result() for answer in sent]

            assert len({answer.jobs[0].id for answer in answers}) == 1
            assert [answer.replayed for answer in answers].count(False) == 1

    assert sum(queue.counts().values()) == ROUNDS
