"""Shares of tenants under load. Nothing here ends a job: only the order of claiming is looked at."""

import collections
import random
from concurrent.futures import ThreadPoolExecutor

import pytest
from doubles.service import LEASE_S, add, new_job

from instantid_serve.service.fairness import Room
from instantid_serve.service.job_queue import JobQueue
from instantid_serve.service.tables import tenants as table


@pytest.fixture
def backlog(jobs, tenants):
    """Put jobs of the sizes given into the queue, of a tenant with these limits."""

    def put(tenant, sizes, **limits):
        tenants.ensure(tenant)
        known = tenants.change(tenant, limits) if limits else tenants.get(tenant)
        return jobs.accept(known, [new_job(tenant, count=size) for size in sizes]).jobs

    return put


@pytest.fixture
def take(queue):
    """Claim once; the jobs in the order of their turns."""

    def claim(pictures, **room):
        return [claim.job for claim in queue.claim("w1", Room(pictures, **room), LEASE_S)]

    return claim


def pictures(claimed):
    """Pictures per tenant."""
    counted = collections.Counter()
    for job in claimed:
        counted[job.tenant] += job.spec.count
    return counted


def sizes(count, seed=1):
    mixed = random.Random(seed)
    return [mixed.randint(1, 4) for _ in range(count)]


class TestShares:
    def test_tenants_with_a_backlog_get_pictures_by_their_weights(self, backlog, take):
        backlog("alice", sizes(100), weight=1)
        backlog("bob", sizes(200, seed=2), weight=3)

        claimed = [job for _ in range(50) for job in take(8)]

        got = pictures(claimed)
        assert got["bob"] / got["alice"] == pytest.approx(3, rel=0.05)

    def test_so_they_do_when_jobs_arrive_while_others_are_claimed(self, backlog, take):
        backlog("alice", sizes(8), weight=1)
        backlog("bob", sizes(8), weight=3)
        claimed = []
        for turn in range(50):
            taken = take(8)
            claimed += taken
            for tenant, number in collections.Counter(job.tenant for job in taken).items():
                backlog(tenant, sizes(number, seed=turn))

        got = pictures(claimed)
        assert got["bob"] / got["alice"] == pytest.approx(3, rel=0.05)

    def test_one_with_many_small_jobs_gets_no_more_than_one_with_few_large_ones(self, backlog, take):
        backlog("alice", [1] * 120)
        backlog("bob", [4] * 30)

        got = pictures([job for _ in range(20) for job in take(8)])

        assert abs(got["alice"] - got["bob"]) <= 4

    def test_one_that_was_idle_gets_its_share_from_now_on_and_no_burst(self, backlog, take):
        backlog("alice", [1] * 100)
        for _ in range(5):
            take(8)
        backlog("bob", [1] * 40)

        got = pictures([job for _ in range(4) for job in take(8)])

        assert abs(got["alice"] - got["bob"]) <= 2

    def test_one_with_a_long_queue_delays_another_by_one_job_at_most(self, backlog, take):
        backlog("alice", [4] * 50)
        backlog("bob", [1])

        assert "bob" in [job.tenant for job in take(5)]

    def test_what_was_canceled_is_not_charged_to_the_tenants_next_jobs(self, backlog, take, jobs):
        for job in backlog("alice", [4] * 10):
            jobs.request_cancel("alice", job.id)
        backlog("bob", [1] * 4)
        backlog("alice", [1] * 4)

        assert pictures(take(4)) == {"alice": 2, "bob": 2}


class TestRunningLimits:
    def test_a_tenant_at_its_limit_is_passed_over_and_others_go_on(self, backlog, take):
        backlog("alice", [1] * 20, max_running_pictures=3)
        backlog("bob", [1] * 20)

        got = pictures([job for _ in range(3) for job in take(5)])

        assert got == {"alice": 3, "bob": 12}

    def test_it_catches_up_only_to_its_limit(self, backlog, take, queue):
        backlog("alice", [1] * 20, max_running_pictures=3)
        backlog("bob", [1] * 60)
        held = [job for _ in range(3) for job in take(10)]
        for job in held:
            if job.tenant == "alice":
                queue.settle_canceled(job.id, job.fence)

        assert pictures(take(10)) == {"alice": 3, "bob": 7}

    def test_one_whose_row_says_nothing_has_the_workers_limit(self, backlog, take):
        backlog("alice", [1] * 9)

        assert len(take(9, tenant_pictures=4)) == 4

    def test_a_job_larger_than_the_limit_runs_alone(self, backlog, take):
        backlog("alice", [4, 1], max_running_pictures=2)

        assert [job.spec.count for job in take(8)] == [4]
        assert take(8) == []

    def test_no_worker_exceeds_it_by_claiming_at_the_same_moment(self, backlog, database, clock):
        backlog("alice", [1] * 40, max_running_pictures=5)
        queues = [JobQueue(database, clock) for _ in range(4)]

        with ThreadPoolExecutor(4) as pool:
            rooms = [Room(1 + number % 3) for number in range(16)]
            claims = [
                pool.submit(queue.claim, "w1", room, LEASE_S) for queue, room in zip(queues * 4, rooms, strict=True)
            ]
            taken = sum(len(claim.result()) for claim in claims)

        assert taken <= 5
        taken += len(queues[0].claim("w0", Room(8), LEASE_S))
        assert taken == 5


class TestReserve:
    def test_a_tenant_with_nothing_running_gets_in_while_another_holds_the_rest(self, backlog, take):
        backlog("alice", [1] * 20)
        first = take(8, reserved=2)
        backlog("bob", [1] * 4)

        second = take(2, reserved=2)

        assert (pictures(first), pictures(second)) == ({"alice": 6}, {"bob": 2})

    def test_one_that_holds_much_does_not_get_the_last_places(self, backlog, take):
        backlog("alice", [1] * 20)
        take(8)

        assert take(2, reserved=2) == []


class TestLargeJobs:
    def test_one_is_not_starved_by_small_ones(self, backlog, take):
        backlog("alice", [4])
        backlog("bob", [1] * 20)

        taken = [pictures(take(3)) for _ in range(3)]

        assert taken == [{"bob": 3}, {}, {}]  # its turn has come, so places are kept until it fits
        assert pictures(take(4)) == {"alice": 4}

    def test_an_idle_worker_takes_one_that_is_larger_than_its_room(self, backlog, take):
        backlog("alice", [4, 1])

        assert [job.spec.count for job in take(2, oversized=True)] == [4]

    def test_a_worker_that_holds_something_does_not(self, backlog, take):
        backlog("alice", [4, 1])

        assert take(2) == []


def test_a_tenant_without_a_row_is_claimed_for_all_the_same(jobs, take, database):
    job = add(jobs)
    with database.write() as connection:
        connection.execute(table.delete())

    assert [taken.id for taken in take(4)] == [job.id]
