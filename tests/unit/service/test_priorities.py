"""Priority classes within one tenant: they change the order of its own jobs, and nothing for others."""

import collections
import itertools

import pytest
from doubles.service import LEASE_S, add

from instantid_serve.service.fairness import AGED_S, Room
from instantid_serve.service.job import Priority

LOW, NORMAL, HIGH = Priority


@pytest.fixture
def take(queue):
    """Claim once; the jobs in the order of their turns."""
    return lambda pictures: [claim.job for claim in queue.claim("w1", Room(pictures), LEASE_S)]


class TestOrder:
    def test_high_goes_before_normal_and_normal_before_low(self, jobs, take, clock):
        for priority in (LOW, HIGH, NORMAL, LOW, NORMAL, HIGH):
            add(jobs, priority=priority)
            clock.now += 1

        assert [job.priority for job in take(6)] == [HIGH, HIGH, NORMAL, NORMAL, LOW, LOW]

    @pytest.mark.parametrize("priority", Priority)
    def test_within_a_class_the_first_comes_first(self, jobs, take, priority):
        ids = [add(jobs, priority=priority).id for _ in range(4)]

        assert [job.id for job in take(4)] == ids

    def test_one_that_comes_while_others_are_claimed_goes_first_too(self, jobs, take, clock):
        for tenant in ("alice", "bob") * 4:
            add(jobs, tenant, priority=LOW)
        take(3)  # bob's second is next, at the very time that the queue has come to
        clock.now += 1
        high = add(jobs, "bob", priority=HIGH)

        mine = [job.id for job in take(4) if job.tenant == "bob"]

        assert mine[0] == high.id

    def test_one_of_a_tenant_that_is_held_back_by_its_limit_goes_first_too(self, jobs, take, tenants, queue):
        tenants.ensure("alice")
        tenants.change("alice", {"max_running_pictures": 1})
        for _ in range(3):
            add(jobs, "alice", priority=LOW)
        for _ in range(20):
            add(jobs, "bob")
        held = next(job for job in take(12) if job.tenant == "alice")
        high = add(jobs, "alice", priority=HIGH)
        queue.settle_canceled(held.id, held.fence)

        assert [job.id for job in take(4) if job.tenant == "alice"] == [high.id]

    def test_a_high_one_takes_its_place_however_large_it_is(self, jobs, take):
        add(jobs, priority=LOW, count=1)
        add(jobs, priority=HIGH, count=4)

        assert [job.spec.count for job in take(8)] == [4, 1]


class TestAgeing:
    def test_one_that_waited_long_is_passed_by_none(self, jobs, take, clock):
        old = add(jobs, priority=LOW)
        clock.now += AGED_S + 1
        add(jobs, priority=HIGH)

        assert take(1)[0].id == old.id

    def test_until_then_it_is(self, jobs, take, clock):
        add(jobs, priority=LOW)
        clock.now += AGED_S - 1
        high = add(jobs, priority=HIGH)

        assert take(1)[0].id == high.id

    def test_those_behind_an_aged_one_still_keep_their_order(self, jobs, take, clock):
        aged = add(jobs, priority=LOW)
        clock.now += AGED_S - 1
        normal = add(jobs, priority=NORMAL)
        clock.now += 2
        low, high = add(jobs, priority=LOW), add(jobs, priority=HIGH)

        order = [job.id for job in take(4)]

        assert order == [normal.id, aged.id, high.id, low.id]


class TestOthers:
    @pytest.mark.parametrize("sizes", [(1, 1, 1), (4, 1, 2)])
    def test_a_tenant_of_which_half_is_high_and_half_is_low_gets_what_another_gets(self, jobs, take, sizes):
        classes = itertools.cycle(zip((HIGH, LOW), sizes[:2], strict=True))

        def arrive(tenant):
            priority, size = next(classes) if tenant == "alice" else (NORMAL, sizes[2])
            add(jobs, tenant, priority=priority, count=size)

        for tenant in ("alice", "bob") * 6:
            arrive(tenant)
        got = collections.Counter()
        for _ in range(40):
            for job in take(6):
                got[job.tenant] += job.spec.count
                arrive(job.tenant)

        assert got["alice"] == pytest.approx(got["bob"], rel=0.05)
