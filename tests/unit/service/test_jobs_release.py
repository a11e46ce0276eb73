"""Jobs that go back into the queue, that are canceled, and what is counted of them."""

import pytest
from doubles.service import LEASE_S, add, claim_one

from instantid_serve.service.fairness import Room
from instantid_serve.service.job import Beat, JobStatus

CAUSE = {"code": "unavailable", "status": 503, "retryable": True, "detail": "gone", "facts": {}}


class TestRelease:
    def test_a_released_job_is_claimed_again_under_a_higher_fence(self, jobs, queue):
        job = add(jobs)
        queue.release(job.id, claim_one(queue).fence, cause=CAUSE)

        claim = claim_one(queue)

        assert (claim.job.id, claim.fence, claim.job.attempts) == (job.id, 2, 2)

    def test_it_waits_for_its_delay(self, jobs, queue, clock):
        job = add(jobs)
        queue.release(job.id, claim_one(queue).fence, delay_s=5, cause=CAUSE)

        assert queue.claim("w1", Room(100), LEASE_S) == []
        clock.now += 5
        assert claim_one(queue).job.id == job.id

    def test_after_the_last_spoiled_attempt_it_fails_with_the_cause(self, jobs, queue):
        job = add(jobs)
        for _ in range(3):
            queue.release(job.id, claim_one(queue).fence, cause=CAUSE)

        failed = jobs.get("alice", job.id)
        assert (failed.status, failed.error["code"]) == (JobStatus.FAILED, "attempts_exhausted")
        assert failed.error["facts"]["cause"] == "unavailable"

    def test_one_handed_back_unharmed_has_lost_no_attempt(self, jobs, queue):
        job = add(jobs)
        for _ in range(10):
            queue.release(job.id, claim_one(queue).fence)

        back = jobs.get("alice", job.id)
        assert (back.status, back.attempts, back.fence) == (JobStatus.QUEUED, 0, 10)

    def test_a_canceled_one_ends_instead_of_going_back(self, jobs, queue):
        job = add(jobs)
        claim = claim_one(queue)
        jobs.request_cancel("alice", job.id)

        queue.release(job.id, claim.fence, cause=CAUSE)

        assert jobs.get("alice", job.id).status is JobStatus.CANCELED


class TestCancel:
    def test_a_queued_job_is_canceled_at_once(self, jobs, queue, clock):
        job = add(jobs)

        canceled = jobs.request_cancel("alice", job.id)

        assert (canceled.status, canceled.finished_at) == (JobStatus.CANCELED, clock.now)
        assert queue.claim("w1", Room(100), LEASE_S) == []

    def test_a_running_job_runs_until_its_worker_hears(self, jobs, queue):
        job = add(jobs)
        claim = claim_one(queue)

        asked = jobs.request_cancel("alice", job.id)
        queue.settle_canceled(job.id, claim.fence)

        assert (asked.status, asked.cancel_requested) == (JobStatus.RUNNING, True)
        assert jobs.get("alice", job.id).status is JobStatus.CANCELED

    def test_a_silent_workers_canceled_job_is_not_tried_again(self, jobs, queue, clock):
        job = add(jobs)
        claim_one(queue)
        jobs.request_cancel("alice", job.id)
        clock.pass_lease()

        assert queue.claim("w2", Room(100), LEASE_S) == []
        assert jobs.get("alice", job.id).status is JobStatus.CANCELED

    @pytest.mark.parametrize("end", ["settle_failed", "settle_expired"])
    def test_an_ended_job_stays_as_it_ended(self, jobs, queue, end):
        job = add(jobs)
        claim = claim_one(queue)
        getattr(queue, end)(job.id, claim.fence, CAUSE)
        before = jobs.get("alice", job.id)

        assert jobs.request_cancel("alice", job.id) == before

    def test_twice_is_once(self, jobs, clock):
        job = add(jobs)
        first = jobs.request_cancel("alice", job.id)
        clock.now += 1

        assert jobs.request_cancel("alice", job.id) == first


class TestCounts:
    def test_every_status_is_counted(self, jobs, queue):
        for _ in range(3):
            add(jobs)
        queue.claim("w1", Room(1), LEASE_S)

        counts = queue.counts()

        assert counts == dict.fromkeys(JobStatus, 0) | {JobStatus.QUEUED: 2, JobStatus.RUNNING: 1}

    def test_the_oldest_queued_jobs_age_is_told(self, jobs, queue, clock):
        assert queue.oldest_queued_age_s() == 0
        add(jobs)
        clock.now += 4
        add(jobs)

        assert queue.oldest_queued_age_s() == pytest.approx(4)

    def test_running_jobs_wait_no_more(self, jobs, queue, clock):
        add(jobs)
        claim = claim_one(queue)
        clock.now += 4
        queue.heartbeat([Beat(claim.job.id, claim.fence, 1, 10)], LEASE_S)

        assert queue.oldest_queued_age_s() == 0
