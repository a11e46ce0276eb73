"""Jobs whose deadline passes: while they wait, and while they are made."""

import time

import pytest
from doubles.service import LEASE_S, add, claim_one
from doubles.stages import HandStages, dispatching, ended

from instantid_serve.service import usage
from instantid_serve.service.fairness import Room
from instantid_serve.service.job import JobStatus
from instantid_serve.service.job_queue import JobQueue
from instantid_serve.service.jobs import Jobs


class TestWaiting:
    @pytest.mark.parametrize("look", [lambda queue: queue.claim("w1", Room(8), LEASE_S), lambda queue: queue.tidy()])
    def test_one_past_its_deadline_expires_without_a_worker_and_costs_nothing(self, jobs, queue, clock, database, look):
        job = add(jobs, deadline_s=10, count=2)
        clock.now += 11

        look(queue)

        expired = jobs.get("alice", job.id)
        assert (expired.status, expired.error["code"]) == (JobStatus.EXPIRED, "deadline_passed")
        assert (expired.attempts, expired.fence, expired.finished_at) == (0, 0, clock.now)
        with database.read() as connection:
            assert usage.of(connection, "alice")[0].pictures == 0

    def test_it_takes_no_place_from_the_next(self, jobs, queue, clock):
        add(jobs, deadline_s=10)
        other = add(jobs)
        clock.now += 11

        assert claim_one(queue).job.id == other.id

    def test_until_then_it_is_claimed(self, jobs, queue, clock):
        job = add(jobs, deadline_s=10)
        clock.now += 9

        claim = claim_one(queue)

        assert (claim.job.id, claim.job.deadline_at) == (job.id, job.created_at + 10)

    def test_one_that_was_handed_back_expires_too(self, jobs, queue, clock):
        job = add(jobs, deadline_s=10)
        queue.release(job.id, claim_one(queue).fence, delay_s=60)
        clock.now += 11

        queue.tidy()

        assert jobs.get("alice", job.id).status is JobStatus.EXPIRED


class TestRunning:
    async def test_one_is_stopped_and_expires(self, database):
        jobs, queue, stages = Jobs(database), JobQueue(database), HandStages()
        stages.gate.clear()
        job = add(jobs, deadline_s=0.5)
        began = time.monotonic()

        async with dispatching(queue, stages):
            expired = await ended(jobs, job)

            assert stages.running == set()
        assert (expired.status, expired.error["code"]) == (JobStatus.EXPIRED, "deadline_passed")
        assert time.monotonic() - began < 5

    async def test_one_that_is_done_in_time_is_not(self, database):
        jobs, queue, stages = Jobs(database), JobQueue(database), HandStages()
        job = add(jobs, deadline_s=30)

        async with dispatching(queue, stages):
            assert (await ended(jobs, job)).status is JobStatus.SUCCEEDED
