"""Whatever workers do in whatever order, no job is lost, ends twice, or is written by a worker that lost it."""

import sqlalchemy as sa
from doubles.service import LEASE_S, HandClock, add, image
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from instantid_serve.errors import StaleFenceError
from instantid_serve.service.fairness import Room
from instantid_serve.service.job import Beat, JobStatus, Priority
from instantid_serve.service.job_queue import JobQueue
from instantid_serve.service.jobs import Jobs
from instantid_serve.service.tables import events, tenants, usage
from instantid_serve.service.tables import jobs as table

MAX_ATTEMPTS = 3
ERROR = {"code": "nan_output", "status": 500, "retryable": False, "detail": "", "facts": {}}
ENDS = {f"generation.{status}" for status in JobStatus if status.terminal}
WORKERS = st.sampled_from(["w1", "w2"])


class JobsMachine(RuleBasedStateMachine):
    """The model: per job, the fence that holds it (None: nobody), and how it ended."""

    claims = Bundle("claims")

    def __init__(self, database):
        super().__init__()
        self.database = database

    @initialize()
    def open(self):
        with self.database.write() as connection:
            for emptied in (table, tenants, usage, events):
                connection.execute(sa.delete(emptied))
        self.clock = HandClock()
        self.jobs = Jobs(self.database, self.clock)
        self.queue = JobQueue(self.database, self.clock, max_attempts=MAX_ATTEMPTS)
        self.inserted = {}  # id -> tenant
        self.holder = {}  # id -> fence of the claim whose worker may write
        self.ended = {}  # id -> the job as it ended
        self.results = {}  # id -> how many successes were accepted

    @rule(
        tenant=st.sampled_from(["alice", "bob"]),
        count=st.integers(1, 4),
        priority=st.sampled_from(Priority),
        deadline_s=st.sampled_from([None, 5.0]),
    )
    def accept(self, tenant, count, priority, deadline_s):
        job = add(self.jobs, tenant, count=count, priority=priority, deadline_s=deadline_s)
        self.inserted[job.id] = tenant

    @rule(target=claims, worker=WORKERS, room=st.integers(1, 8), reserved=st.integers(0, 2))
    def claim(self, worker, room, reserved):
        claimed = self.queue.claim(worker, Room(room, min(reserved, room)), LEASE_S)
        assert sum(claim.job.spec.count for claim in claimed) <= room
        for claim in claimed:
            assert claim.job.attempts <= MAX_ATTEMPTS
            assert claim.fence > self.holder.get(claim.job.id, 0)
            self.holder[claim.job.id] = claim.fence
        self.notice_ends()
        return [(claim.job.id, claim.fence) for claim in claimed]

    @rule(claimed=claims)
    def beat(self, claimed):
        pulse = self.queue.heartbeat([Beat(job_id, fence, 1, 10) for job_id, fence in claimed], LEASE_S)
        for job_id, fence in claimed:
            assert ((job_id, fence) in pulse.lost) == (not self.holds(job_id, fence))

    @rule(seconds=st.sampled_from([1.0, LEASE_S / 2, LEASE_S + 1]))
    def pass_time(self, seconds):
        self.clock.now += seconds

    @rule(claimed=claims, end=st.sampled_from(["succeeded", "failed", "canceled", "expired"]))
    def settle(self, claimed, end):
        for job_id, fence in claimed:
            held = self.holds(job_id, fence)
            ended = self.ended.get(job_id)
            repeated = ended is not None and ended.status == end and ended.fence == fence
            accepted = self.try_to_settle(job_id, fence, end)
            assert accepted == (held or repeated)
            if held and end == "succeeded":
                self.results[job_id] = self.results.get(job_id, 0) + 1
        self.notice_ends()

    @rule(claimed=claims, harmed=st.booleans(), delay_s=st.sampled_from([0.0, 5.0]))
    def release(self, claimed, harmed, delay_s):
        for job_id, fence in claimed:
            held = self.holds(job_id, fence)
            try:
                self.queue.release(job_id, fence, delay_s=delay_s, cause=ERROR if harmed else None)
            except StaleFenceError:
                assert not held
            else:
                assert held
                self.holder[job_id] = fence + 0.5  # nobody's; the next fence is higher
        self.notice_ends()

    @rule(data=st.data())
    def cancel(self, data):
        if not self.inserted:
            return
        job_id = data.draw(st.sampled_from(sorted(self.inserted)))
        self.jobs.request_cancel(self.inserted[job_id], job_id)
        self.notice_ends()

    @invariant()
    def no_job_is_lost(self):
        assert sum(self.queue.counts().values()) == len(self.inserted)

    @invariant()
    def what_ended_never_changes(self):
        for job_id, ended in self.ended.items():
            assert self.jobs.get(self.inserted[job_id], job_id) == ended

    @invariant()
    def a_job_has_at_most_one_result(self):
        assert all(count == 1 for count in self.results.values())
        for job_id, ended in self.ended.items():
            assert (ended.status is JobStatus.SUCCEEDED) == (job_id in self.results) == bool(ended.images)

    def holds(self, job_id, fence):
        return self.holder.get(job_id) == fence and job_id not in self.ended

    def try_to_settle(self, job_id, fence, end):
        settles = {
            "succeeded": lambda: self.queue.settle_succeeded(job_id, fence, [image()], {}),
            "failed": lambda: self.queue.settle_failed(job_id, fence, ERROR),
            "canceled": lambda: self.queue.settle_canceled(job_id, fence),
            "expired": lambda: self.queue.settle_expired(job_id, fence, ERROR),
        }
        try:
            settles[end]()
        except StaleFenceError:
            return False
        return True

    def notice_ends(self):
        with self.database.read() as connection:
            query = sa.select(table.c.id).where(table.c.finished_at.is_not(None))
            ids = set(connection.execute(query).scalars())
        for job_id in ids - self.ended.keys():
            job = self.jobs.get(self.inserted[job_id], job_id)
            assert job.status.terminal
            told = [event.type for event in self.jobs.events_after(job.tenant, job_id, 0)]
            assert (told[0], told[-1]) == ("generation.queued", f"generation.{job.status}")
            assert not ENDS & set(told[:-1])
            self.ended[job_id] = job


def test_the_rules_hold_in_any_order(database):
    limits = settings(max_examples=40, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck))
    run_state_machine_as_test(lambda: JobsMachine(database), settings=limits)
