"""Jobs that go back into the queue, that are canceled, and what is counted of them."""

import pytest
from doubles.service import LEASE_S, add

from instantid_serve.service.jobs import Beat, JobStatus

CAUSE = {"code": "unavailable", "status": 503, "retryable": True, "detail": "gone", "facts": {}}


def claim_one(jobs):
    [claim] = jobs.claim("w1", 100, LEASE_S)
    return claim


class TestRelease:
    def test_a_released_job_is_claimed_again_under_a_higher_fence(self, jobs):
        job = add(jobs)
        jobs.release(job.id, claim_one(jobs).fence, cause=CAUSE)

        claim = claim_one(jobs)

        assert (claim.job.id, claim.fence, claim.job.attempts) == (job.id, 2, 2)

    def test_it_waits_for_its_delay(self, jobs, clock):
        job = add(jobs)
        jobs.release(job.id, claim_one(jobs).fence, delay_s=5, cause=CAUSE)

        assert jobs.claim("w1", 100, LEASE_S) == []
        clock.now += 5
        assert claim_one(jobs).job.id == job.id

    def test_after_the_last_spoiled_attempt_it_fails_with_the_cause(self, jobs):
        job = add(jobs)
        for _ in range(3):
            jobs.release(job.id, claim_one(jobs).fence, cause=CAUSE)

        failed = jobs.get("alice", job.id)
        assert (failed.status, failed.error["code"]) == (JobStatus.FAILED, "attempts_exhausted")
        assert failed.error["facts"]["cause"] == "unavailable"

    def test_one_handed_back_unharmed_has_lost_no_attempt(self, jobs):
        job = add(jobs)
        for _ in range(10):
            jobs.release(job.id, claim_one(jobs).fence)

        back = jobs.get("alice", job.id)
        assert (back.status, back.attempts, back.fence) == (JobStatus.QUEUED, 0, 10)

    def test_a_canceled_one_ends_instead_of_going_back(self, jobs):
        job = add(jobs)
        claim = claim_one(jobs)
        jobs.request_cancel("alice", job.id)

        jobs.release(job.id, claim.fence, cause=CAUSE)

        assert jobs.get("alice", job.id).status is JobStatus.CANCELED


class TestCancel:
    def test_a_queued_job_is_canceled_at_once(self, jobs, clock):
        job = add(jobs)

        canceled = jobs.request_cancel("alice", job.id)

        assert (canceled.status, canceled.finished_at) == (JobStatus.CANCELED, clock.now)
        assert jobs.claim("w1", 100, LEASE_S) == []

    def test_a_running_job_runs_until_its_worker_hears(self, jobs):
        job = add(jobs)
        claim = claim_one(jobs)

        asked = jobs.request_cancel("alice", job.id)
        jobs.settle_canceled(job.id, claim.fence)

        assert (asked.status, asked.cancel_requested) == (JobStatus.RUNNING, True)
        assert jobs.get("alice", job.id).status is JobStatus.CANCELED

    def test_a_silent_workers_canceled_job_is_not_tried_again(self, jobs, clock):
        job = add(jobs)
        claim_one(jobs)
        jobs.request_cancel("alice", job.id)
        clock.pass_lease()

        assert jobs.claim("w2", 100, LEASE_S) == []
        assert jobs.get("alice", job.id).status is JobStatus.CANCELED

    @pytest.mark.parametrize("end", ["settle_failed", "settle_expired"])
    def test_an_ended_job_stays_as_it_ended(self, jobs, end):
        job = add(jobs)
        claim = claim_one(jobs)
        getattr(jobs, end)(job.id, claim.fence, CAUSE)
        before = jobs.get("alice", job.id)

        assert jobs.request_cancel("alice", job.id) == before

    def test_twice_is_once(self, jobs, clock):
        job = add(jobs)
        first = jobs.request_cancel("alice", job.id)
        clock.now += 1

        assert jobs.request_cancel("alice", job.id) == first


class TestCounts:
    def test_every_status_is_counted(self, jobs):
        for _ in range(3):
            add(jobs)
        jobs.claim("w1", 1, LEASE_S)

        counts = jobs.counts()

        assert counts == dict.fromkeys(JobStatus, 0) | {JobStatus.QUEUED: 2, JobStatus.RUNNING: 1}

    def test_the_oldest_queued_jobs_age_is_told(self, jobs, clock):
        assert jobs.oldest_queued_age_s() == 0
        add(jobs)
        clock.now += 4
        add(jobs)

        assert jobs.oldest_queued_age_s() == pytest.approx(4)

    def test_running_jobs_wait_no_more(self, jobs, clock):
        add(jobs)
        claim = claim_one(jobs)
        clock.now += 4
        jobs.heartbeat([Beat(claim.job.id, claim.fence, 1, 10)], LEASE_S)

        assert jobs.oldest_queued_age_s() == 0
