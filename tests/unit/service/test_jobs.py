"""The rules of jobs, one by one."""

import pytest
from doubles.service import LEASE_S, add, image, spec

from instantid_serve.errors import ConflictError, NotFoundError, StaleFenceError
from instantid_serve.service.jobs import Beat, JobStatus, new_job_id

ERROR = {"code": "face_not_found", "status": 422, "retryable": False, "detail": "no face", "facts": {"n": 0}}


def claim_one(jobs, worker="w1"):
    [claim] = jobs.claim(worker, 100, LEASE_S)
    return claim


def beat(claim, step=1, steps=10):
    return Beat(claim.job.id, claim.fence, step, steps)


def key_of(claim):
    return (claim.job.id, claim.fence)


def status_of(jobs, job):
    return jobs.get(job.tenant, job.id).status


class TestInsertAndGet:
    def test_a_new_job_is_queued_with_what_was_asked(self, jobs, clock):
        asked = spec(count=2, face="largest", negative_prompt="blurry")

        job = jobs.insert("alice", asked, "alice/gen_1/photo", "gen_1")

        assert (job.status, job.spec, job.attempts, job.fence) == (JobStatus.QUEUED, asked, 0, 0)
        assert (job.step, job.steps, job.created_at) == (0, 20, clock.now)
        assert jobs.get("alice", "gen_1") == job

    def test_an_id_is_taken_once(self, jobs):
        jobs.insert("alice", spec(), "key", "gen_1")

        with pytest.raises(ConflictError):
            jobs.insert("bob", spec(), "key", "gen_1")

    @pytest.mark.parametrize("tenant", ["bob", "", "alice "])
    def test_another_tenants_job_is_not_found(self, jobs, tenant):
        job = add(jobs, "alice")

        with pytest.raises(NotFoundError):
            jobs.get(tenant, job.id)
        with pytest.raises(NotFoundError):
            jobs.request_cancel(tenant, job.id)
        assert status_of(jobs, job) is JobStatus.QUEUED

    def test_ids_sort_by_the_time_they_were_made(self):
        ids = [new_job_id() for _ in range(1000)]

        assert [i[:22] for i in ids] == sorted(i[:22] for i in ids)  # what is left is random
        assert len(set(ids)) == 1000
        assert all(len(i) == 30 for i in ids)


class TestClaim:
    def test_the_claimer_holds_the_job_under_a_new_fence(self, jobs, clock):
        job = add(jobs)
        clock.now += 5

        claim = claim_one(jobs)

        assert (claim.job.id, claim.fence, claim.job.attempts) == (job.id, 1, 1)
        assert (claim.job.status, claim.job.started_at) == (JobStatus.RUNNING, clock.now)

    def test_a_claimed_job_is_not_claimed_again_within_its_lease(self, jobs, clock):
        add(jobs)
        claim_one(jobs)
        clock.now += LEASE_S - 1

        assert jobs.claim("w2", 100, LEASE_S) == []

    def test_older_jobs_come_first(self, jobs, clock):
        ids = []
        for _ in range(4):
            ids.append(add(jobs).id)
            clock.now += 1

        claims = jobs.claim("w1", 3, LEASE_S)

        assert [claim.job.id for claim in claims] == ids[:3]

    def test_the_budget_counts_pictures(self, jobs, clock):
        for _ in range(3):
            add(jobs, count=2)
            clock.now += 1

        assert len(jobs.claim("w1", 5, LEASE_S)) == 2

    def test_a_large_job_is_not_overtaken_by_small_ones(self, jobs, clock):
        large = add(jobs, count=4)
        clock.now += 1
        add(jobs, count=1)

        assert jobs.claim("w1", 3, LEASE_S) == []
        assert [c.job.id for c in jobs.claim("w1", 4, LEASE_S)] == [large.id]

    def test_an_idle_worker_takes_a_job_larger_than_its_budget_alone(self, jobs, clock):
        large = add(jobs, count=4)
        clock.now += 1
        add(jobs, count=1)

        claims = jobs.claim("w1", 3, LEASE_S, oversized=True)

        assert [claim.job.id for claim in claims] == [large.id]

    def test_tenants_take_turns_however_many_jobs_one_has(self, jobs, clock):
        for tenant in ["alice"] * 10 + ["bob"] * 2 + ["carol"]:
            add(jobs, tenant)
            clock.now += 1

        first = sorted(claim.job.tenant for claim in jobs.claim("w1", 6, LEASE_S))

        assert first == ["alice", "alice", "alice", "bob", "bob", "carol"]

    def test_pictures_that_run_already_count_against_a_tenant(self, jobs, clock):
        add(jobs, "alice", count=3)
        claim_one(jobs)
        add(jobs, "alice")
        clock.now += 1
        for _ in range(4):
            add(jobs, "bob")

        tenants = [claim.job.tenant for claim in jobs.claim("w1", 3, LEASE_S)]

        assert tenants == ["bob", "bob", "bob"]

    def test_a_silent_workers_job_is_taken_back_with_a_higher_fence(self, jobs, clock):
        add(jobs)
        first = claim_one(jobs)
        clock.pass_lease()

        second = claim_one(jobs, "w2")

        assert (second.job.id, second.fence, second.job.attempts) == (first.job.id, 2, 2)

    def test_a_silent_workers_job_keeps_its_turn(self, jobs, clock):
        silenced = add(jobs, "alice", count=2)
        claim_one(jobs)
        clock.pass_lease()
        add(jobs, "bob")

        [first] = jobs.claim("w2", 2, LEASE_S)

        assert first.job.id == silenced.id

    def test_after_the_last_attempt_a_silent_workers_job_fails(self, jobs, clock):
        job = add(jobs)
        for _ in range(3):
            claim_one(jobs)
            clock.pass_lease()

        assert jobs.claim("w1", 100, LEASE_S) == []
        ended = jobs.get("alice", job.id)
        assert (ended.status, ended.attempts) == (JobStatus.FAILED, 3)
        assert ended.error["code"] == "attempts_exhausted"
        assert ended.error["facts"] == {"attempts": 3, "cause": "worker_lost"}


class TestHeartbeat:
    def test_it_keeps_the_lease(self, jobs, clock):
        add(jobs)
        claim = claim_one(jobs)
        for _ in range(4):
            clock.now += LEASE_S * 0.9
            jobs.heartbeat([beat(claim)], LEASE_S)

        assert jobs.claim("w2", 100, LEASE_S) == []

    def test_it_writes_each_jobs_progress(self, jobs):
        add(jobs)
        add(jobs)
        one, two = jobs.claim("w1", 2, LEASE_S)

        jobs.heartbeat([beat(one, 3, 10), beat(two, 8, 12)], LEASE_S)

        progress = [(job.step, job.steps) for job in (jobs.get("alice", c.job.id) for c in (one, two))]
        assert progress == [(3, 10), (8, 12)]

    def test_it_hears_of_cancels(self, jobs):
        job = add(jobs)
        claim = claim_one(jobs)
        jobs.request_cancel("alice", job.id)

        pulse = jobs.heartbeat([beat(claim)], LEASE_S)

        assert (pulse.canceled, pulse.lost) == ({key_of(claim)}, frozenset())

    def test_it_hears_of_jobs_that_another_worker_took(self, jobs, clock):
        add(jobs)
        old = claim_one(jobs)
        clock.pass_lease()
        new = claim_one(jobs, "w2")

        pulse = jobs.heartbeat([beat(old, step=9)], LEASE_S)

        assert pulse.lost == {key_of(old)}
        assert jobs.get("alice", new.job.id).step == 0

    def test_it_renews_a_lease_that_ran_out_when_nobody_took_the_job(self, jobs, clock):
        add(jobs)
        claim = claim_one(jobs)
        clock.pass_lease()

        pulse = jobs.heartbeat([beat(claim)], LEASE_S)

        assert pulse.lost == frozenset()
        assert jobs.claim("w2", 100, LEASE_S) == []

    def test_nothing_held_is_nothing_learned(self, jobs):
        assert jobs.heartbeat([], LEASE_S).lost == frozenset()


class TestSettle:
    def test_success_commits_the_result(self, jobs, clock):
        job = add(jobs)
        claim = claim_one(jobs)
        clock.now += 3

        jobs.settle_succeeded(job.id, claim.fence, [image()], {"queue_s": 0.5})

        done = jobs.get("alice", job.id)
        assert (done.status, done.images, done.timings) == (JobStatus.SUCCEEDED, (image(),), {"queue_s": 0.5})
        assert (done.step, done.finished_at, done.error) == (10, clock.now, None)

    def test_failure_keeps_the_error(self, jobs):
        job = add(jobs)
        claim = claim_one(jobs)

        jobs.settle_failed(job.id, claim.fence, ERROR)

        failed = jobs.get("alice", job.id)
        assert (failed.status, failed.error) == (JobStatus.FAILED, ERROR)

    def test_a_passed_deadline_expires_it(self, jobs):
        job = add(jobs)

        jobs.settle_expired(job.id, claim_one(jobs).fence, ERROR)

        assert status_of(jobs, job) is JobStatus.EXPIRED

    def test_a_stale_fence_is_refused_and_changes_nothing(self, jobs, clock):
        job = add(jobs)
        old = claim_one(jobs)
        clock.pass_lease()
        claim_one(jobs, "w2")
        before = jobs.get("alice", job.id)

        for settle in (
            lambda: jobs.settle_succeeded(job.id, old.fence, [image()], {}),
            lambda: jobs.settle_failed(job.id, old.fence, ERROR),
            lambda: jobs.settle_canceled(job.id, old.fence),
            lambda: jobs.settle_expired(job.id, old.fence, ERROR),
            lambda: jobs.release(job.id, old.fence),
        ):
            with pytest.raises(StaleFenceError):
                settle()

        assert jobs.get("alice", job.id) == before

    def test_the_same_settle_twice_is_one(self, jobs):
        job = add(jobs)
        claim = claim_one(jobs)
        jobs.settle_succeeded(job.id, claim.fence, [image(1)], {})

        jobs.settle_succeeded(job.id, claim.fence, [image(2)], {})

        assert jobs.get("alice", job.id).images == (image(1),)

    def test_another_settle_of_an_ended_job_is_refused(self, jobs):
        job = add(jobs)
        claim = claim_one(jobs)
        jobs.settle_succeeded(job.id, claim.fence, [image()], {})

        with pytest.raises(StaleFenceError):
            jobs.settle_failed(job.id, claim.fence, ERROR)
        assert status_of(jobs, job) is JobStatus.SUCCEEDED

    def test_an_unknown_job_cannot_be_settled(self, jobs):
        with pytest.raises(StaleFenceError):
            jobs.settle_canceled("gen_none", 0)
