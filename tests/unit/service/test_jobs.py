"""The rules of jobs, one by one."""

import pytest
from doubles.service import LEASE_S, add, claim_one, image, spec

from instantid_serve.errors import ConflictError, NotFoundError, StaleFenceError
from instantid_serve.service.fairness import Room
from instantid_serve.service.ids import new_id
from instantid_serve.service.job import Beat, JobStatus

ERROR = {"code": "face_not_found", "status": 422, "retryable": False, "detail": "no face", "facts": {"n": 0}}


def beat(claim, step=1, steps=10):
    return Beat(claim.job.id, claim.fence, step, steps)


def key_of(claim):
    return (claim.job.id, claim.fence)


def status_of(jobs, job):
    return jobs.get(job.tenant, job.id).status


class TestAcceptAndGet:
    def test_a_new_job_is_queued_with_what_was_asked(self, jobs, clock):
        asked = spec(count=2, face="largest", negative_prompt="blurry")

        job = add(jobs, "alice", id="gen_1", spec=asked)

        assert (job.status, job.spec, job.attempts, job.fence) == (JobStatus.QUEUED, asked, 0, 0)
        assert (job.step, job.steps, job.created_at) == (0, 20, clock.now)
        assert jobs.get("alice", "gen_1") == job

    def test_an_id_is_taken_once(self, jobs):
        add(jobs, "alice", id="gen_1")

        with pytest.raises(ConflictError):
            add(jobs, "bob", id="gen_1")

    @pytest.mark.parametrize("tenant", ["bob", "", "alice "])
    def test_another_tenants_job_is_not_found(self, jobs, tenant):
        job = add(jobs, "alice")

        with pytest.raises(NotFoundError):
            jobs.get(tenant, job.id)
        with pytest.raises(NotFoundError):
            jobs.request_cancel(tenant, job.id)
        assert status_of(jobs, job) is JobStatus.QUEUED

    def test_ids_sort_by_the_time_they_were_made(self):
        ids = [new_id("gen") for _ in range(1000)]

        assert [i[:22] for i in ids] == sorted(i[:22] for i in ids)  # what is left is random
        assert len(set(ids)) == 1000
        assert all(len(i) == 30 for i in ids)


class TestClaim:
    def test_the_claimer_holds_the_job_under_a_new_fence(self, jobs, queue, clock):
        job = add(jobs)
        clock.now += 5

        claim = claim_one(queue)

        assert (claim.job.id, claim.fence, claim.job.attempts) == (job.id, 1, 1)
        assert (claim.job.status, claim.job.started_at) == (JobStatus.RUNNING, clock.now)

    def test_a_claimed_job_is_not_claimed_again_within_its_lease(self, jobs, queue, clock):
        add(jobs)
        claim_one(queue)
        clock.now += LEASE_S - 1

        assert queue.claim("w2", Room(100), LEASE_S) == []

    def test_older_jobs_come_first(self, jobs, queue, clock):
        ids = []
        for _ in range(4):
            ids.append(add(jobs).id)
            clock.now += 1

        claims = queue.claim("w1", Room(3), LEASE_S)

        assert [claim.job.id for claim in claims] == ids[:3]

    def test_the_budget_counts_pictures(self, jobs, queue, clock):
        for _ in range(3):
            add(jobs, count=2)
            clock.now += 1

        assert len(queue.claim("w1", Room(5), LEASE_S)) == 2

    def test_a_large_job_is_not_overtaken_by_small_ones(self, jobs, queue, clock):
        large = add(jobs, count=4)
        clock.now += 1
        add(jobs, count=1)

        assert queue.claim("w1", Room(3), LEASE_S) == []
        assert [c.job.id for c in queue.claim("w1", Room(4), LEASE_S)] == [large.id]

    def test_an_idle_worker_takes_a_job_larger_than_its_budget_alone(self, jobs, queue, clock):
        large = add(jobs, count=4)
        clock.now += 1
        add(jobs, count=1)

        claims = queue.claim("w1", Room(3, oversized=True), LEASE_S)

        assert [claim.job.id for claim in claims] == [large.id]

    def test_tenants_take_turns_however_many_jobs_one_has(self, jobs, queue, clock):
        for tenant in ["alice"] * 10 + ["bob"] * 2 + ["carol"]:
            add(jobs, tenant)
            clock.now += 1

        first = sorted(claim.job.tenant for claim in queue.claim("w1", Room(6), LEASE_S))

        assert first == ["alice", "alice", "alice", "bob", "bob", "carol"]

    def test_pictures_that_a_tenant_had_already_count_against_it(self, jobs, queue, clock):
        for _ in range(2):
            add(jobs, "alice", count=3)
        queue.claim("w1", Room(3), LEASE_S)
        clock.now += 1
        for _ in range(4):
            add(jobs, "bob")

        tenants = [claim.job.tenant for claim in queue.claim("w1", Room(2), LEASE_S)]

        assert tenants == ["bob", "bob"]

    def test_a_silent_workers_job_is_taken_back_with_a_higher_fence(self, jobs, queue, clock):
        add(jobs)
        first = claim_one(queue)
        clock.pass_lease()

        second = claim_one(queue, "w2")

        assert (second.job.id, second.job.attempts) == (first.job.id, 2)
        assert second.fence > first.fence

    def test_a_silent_workers_job_keeps_its_turn(self, jobs, queue, clock):
        silenced = add(jobs, "alice", count=2)
        claim_one(queue)
        clock.pass_lease()
        add(jobs, "bob")

        [first] = queue.claim("w2", Room(2), LEASE_S)

        assert first.job.id == silenced.id

    def test_after_the_last_attempt_a_silent_workers_job_fails(self, jobs, queue, clock):
        job = add(jobs)
        for _ in range(3):
            claim_one(queue)
            clock.pass_lease()

        assert queue.claim("w1", Room(100), LEASE_S) == []
        ended = jobs.get("alice", job.id)
        assert (ended.status, ended.attempts) == (JobStatus.FAILED, 3)
        assert ended.error["code"] == "attempts_exhausted"
        assert ended.error["facts"] == {"attempts": 3, "cause": "worker_lost"}


class TestHeartbeat:
    def test_it_keeps_the_lease(self, jobs, queue, clock):
        add(jobs)
        claim = claim_one(queue)
        for _ in range(4):
            clock.now += LEASE_S * 0.9
            queue.heartbeat([beat(claim)], LEASE_S)

        assert queue.claim("w2", Room(100), LEASE_S) == []

    def test_it_writes_each_jobs_progress(self, jobs, queue):
        add(jobs)
        add(jobs)
        one, two = queue.claim("w1", Room(2), LEASE_S)

        queue.heartbeat([beat(one, 3, 10), beat(two, 8, 12)], LEASE_S)

        progress = [(job.step, job.steps) for job in (jobs.get("alice", c.job.id) for c in (one, two))]
        assert progress == [(3, 10), (8, 12)]

    def test_it_hears_of_cancels(self, jobs, queue):
        job = add(jobs)
        claim = claim_one(queue)
        jobs.request_cancel("alice", job.id)

        pulse = queue.heartbeat([beat(claim)], LEASE_S)

        assert (pulse.canceled, pulse.lost) == ({key_of(claim)}, frozenset())

    def test_it_hears_of_jobs_that_another_worker_took(self, jobs, queue, clock):
        add(jobs)
        old = claim_one(queue)
        clock.pass_lease()
        new = claim_one(queue, "w2")

        pulse = queue.heartbeat([beat(old, step=9)], LEASE_S)

        assert pulse.lost == {key_of(old)}
        assert jobs.get("alice", new.job.id).step == 0

    def test_it_renews_a_lease_that_ran_out_when_nobody_took_the_job(self, jobs, queue, clock):
        add(jobs)
        claim = claim_one(queue)
        clock.pass_lease()

        pulse = queue.heartbeat([beat(claim)], LEASE_S)

        assert pulse.lost == frozenset()
        assert queue.claim("w2", Room(100), LEASE_S) == []

    def test_nothing_held_is_nothing_learned(self, queue):
        assert queue.heartbeat([], LEASE_S).lost == frozenset()


class TestSettle:
    def test_success_commits_the_result(self, jobs, queue, clock):
        job = add(jobs)
        claim = claim_one(queue)
        clock.now += 3

        queue.settle_succeeded(job.id, claim.fence, [image()], {"queue_s": 0.5})

        done = jobs.get("alice", job.id)
        assert (done.status, done.images, done.timings) == (JobStatus.SUCCEEDED, (image(),), {"queue_s": 0.5})
        assert (done.step, done.finished_at, done.error) == (10, clock.now, None)

    def test_failure_keeps_the_error(self, jobs, queue):
        job = add(jobs)
        claim = claim_one(queue)

        queue.settle_failed(job.id, claim.fence, ERROR)

        failed = jobs.get("alice", job.id)
        assert (failed.status, failed.error) == (JobStatus.FAILED, ERROR)

    def test_a_passed_deadline_expires_it(self, jobs, queue):
        job = add(jobs)

        queue.settle_expired(job.id, claim_one(queue).fence, ERROR)

        assert status_of(jobs, job) is JobStatus.EXPIRED

    def test_a_stale_fence_is_refused_and_changes_nothing(self, jobs, queue, clock):
        job = add(jobs)
        old = claim_one(queue)
        clock.pass_lease()
        claim_one(queue, "w2")
        before = jobs.get("alice", job.id)

        for settle in (
            lambda: queue.settle_succeeded(job.id, old.fence, [image()], {}),
            lambda: queue.settle_failed(job.id, old.fence, ERROR),
            lambda: queue.settle_canceled(job.id, old.fence),
            lambda: queue.settle_expired(job.id, old.fence, ERROR),
            lambda: queue.release(job.id, old.fence),
        ):
            with pytest.raises(StaleFenceError):
                settle()

        assert jobs.get("alice", job.id) == before

    def test_the_same_settle_twice_is_one(self, jobs, queue):
        job = add(jobs)
        claim = claim_one(queue)
        queue.settle_succeeded(job.id, claim.fence, [image(1)], {})

        queue.settle_succeeded(job.id, claim.fence, [image(2)], {})

        assert jobs.get("alice", job.id).images == (image(1),)

    def test_another_settle_of_an_ended_job_is_refused(self, jobs, queue):
        job = add(jobs)
        claim = claim_one(queue)
        queue.settle_succeeded(job.id, claim.fence, [image()], {})

        with pytest.raises(StaleFenceError):
            queue.settle_failed(job.id, claim.fence, ERROR)
        assert status_of(jobs, job) is JobStatus.SUCCEEDED

    def test_an_unknown_job_cannot_be_settled(self, queue):
        with pytest.raises(StaleFenceError):
            queue.settle_canceled("gen_none", 0)
