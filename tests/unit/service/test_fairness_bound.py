"""The bound of self-clocked fair queueing, over random arrivals and claims."""

import itertools
import tempfile
from collections import Counter
from pathlib import Path

from doubles.service import LEASE_S, HandClock, new_job
from hypothesis import given, settings
from hypothesis import strategies as st

from instantid_serve.service.database import open_database, upgrade
from instantid_serve.service.fairness import Room
from instantid_serve.service.job import Priority
from instantid_serve.service.job_queue import JobQueue
from instantid_serve.service.jobs import Jobs
from instantid_serve.service.tenants import Tenants
from instantid_serve.settings import TenancySettings

WEIGHTS = {"alice": 1.0, "bob": 3.0, "carol": 0.5}
ARRIVALS = st.tuples(
    st.sampled_from(sorted(WEIGHTS)), st.lists(st.integers(1, 4), min_size=1, max_size=6), st.sampled_from(Priority)
)
CLAIMS = st.integers(1, 8)


class Served:
    """What was claimed, in turn: (tenant, pictures, the tenants that waited just before)."""

    def __init__(self, folder):
        self.database = open_database(f"sqlite:///{Path(folder) / 'jobs.sqlite3'}")
        upgrade(self.database)
        clock = HandClock()
        self.jobs, self.queue = Jobs(self.database, clock), JobQueue(self.database, clock)
        known = Tenants(self.database, TenancySettings(), clock)
        self.tenants = {tenant: known.create(tenant, {"weight": weight}) for tenant, weight in WEIGHTS.items()}
        self.waiting, self.largest = Counter(), Counter()
        self.turns = []

    def arrive(self, tenant, sizes, priority):
        self.jobs.accept(self.tenants[tenant], [new_job(tenant, count=size, priority=priority) for size in sizes])
        self.waiting[tenant] += len(sizes)
        self.largest[tenant] = max(self.largest[tenant], *sizes)

    def claim(self, pictures):
        for claim in self.queue.claim("w1", Room(pictures), LEASE_S):
            tenant = claim.job.tenant
            self.turns.append((tenant, claim.job.spec.count, {name for name, left in self.waiting.items() if left}))
            self.waiting[tenant] -= 1

    def bound(self, *tenants):
        return sum(self.largest[tenant] / WEIGHTS[tenant] for tenant in tenants)


def widest_gap(turns, one, other):
    """The most that the two's service by weight differs within any time in which both have jobs waiting."""
    widest = gap = highest = lowest = 0.0
    for tenant, pictures, waiting in turns:
        if not {one, other} <= waiting:
            gap = highest = lowest = 0.0
            continue
        gap += (pictures / WEIGHTS[tenant]) * ((tenant == one) - (tenant == other))
        highest, lowest = max(highest, gap), min(lowest, gap)
        widest = max(widest, highest - lowest)
    return widest


@settings(max_examples=40, deadline=None)
@given(st.lists(ARRIVALS | CLAIMS, min_size=5, max_size=60))
def test_two_tenants_that_both_wait_differ_by_no_more_than_their_largest_jobs(steps):
    with tempfile.TemporaryDirectory() as folder:
        served = Served(folder)
        for step in steps:
            served.claim(step) if isinstance(step, int) else served.arrive(*step)
        served.database.close()

    for pair in itertools.combinations(WEIGHTS, 2):
        assert widest_gap(served.turns, *pair) <= served.bound(*pair) + 1e-6
