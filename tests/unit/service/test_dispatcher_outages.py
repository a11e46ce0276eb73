"""Dispatchers that stop, die or fall silent, and databases that go away: no job is lost, each ends once."""

import asyncio
import contextlib
import sqlite3

import pytest
from doubles.service import LEASE_S, HandClock, add
from doubles.stages import ChaoticStages, HandStages, dispatching, ended, quick, until

from instantid_serve.errors import (
    CanceledError,
    EngineStoppedError,
    FaceNotFoundError,
    NonFiniteOutputError,
    OverloadedError,
    StoreError,
    UnavailableError,
)
from instantid_serve.service.database import open_database, upgrade
from instantid_serve.service.dispatcher import Dispatcher
from instantid_serve.service.fairness import Room
from instantid_serve.service.job import JobStatus
from instantid_serve.service.job_queue import JobQueue
from instantid_serve.service.jobs import Jobs


@pytest.fixture
def stages():
    return HandStages()


@pytest.fixture
def clock():
    """None: the database's own time."""


class TestStopping:
    async def test_jobs_that_end_in_the_drain_time_are_settled(self, jobs, queue, stages):
        stages.gate.clear()
        job = add(jobs)
        async with dispatching(queue, stages, drain_timeout_s=20) as dispatcher:
            await until(lambda: bool(stages.running))
            stopping = asyncio.create_task(dispatcher.stop())
            await asyncio.sleep(0.1)

            stages.gate.set()
            await stopping

        assert jobs.get("alice", job.id).status is JobStatus.SUCCEEDED

    async def test_jobs_that_do_not_are_handed_back_unharmed(self, jobs, queue, stages):
        stages.gate.clear()
        job = add(jobs)
        async with dispatching(queue, stages, drain_timeout_s=0.1) as dispatcher:
            await until(lambda: bool(stages.running))

            await dispatcher.stop()

            assert stages.running == set()
        back = jobs.get("alice", job.id)
        assert (back.status, back.attempts) == (JobStatus.QUEUED, 0)

    async def test_nothing_is_claimed_any_more(self, jobs, queue, stages):
        async with dispatching(queue, stages) as dispatcher:
            await dispatcher.stop()
            job = add(jobs)
            await asyncio.sleep(0.1)

        assert jobs.get("alice", job.id).status is JobStatus.QUEUED

    async def test_stopping_one_that_never_ran_returns(self, queue, stages):
        await Dispatcher(queue, stages, quick(), "w1").stop()


class TestDying:
    async def test_a_dead_dispatchers_job_is_finished_by_another(self, jobs, queue, stages):
        stages.gate.clear()
        job = add(jobs)
        dying = asyncio.create_task(Dispatcher(queue, stages, quick(lease_s=0.3), "w1").run())
        await until(lambda: bool(stages.running))
        dying.cancel()
        await asyncio.gather(dying, return_exceptions=True)
        stages.gate.set()

        async with dispatching(queue, stages, "w2"):
            done = await ended(jobs, job)

        assert (done.status, done.attempts) == (JobStatus.SUCCEEDED, 2)

    async def test_one_that_lost_its_lease_stops_working_and_writes_nothing(self, database, stages):
        clock = HandClock()
        jobs, queue = Jobs(database, clock), JobQueue(database, clock)
        stages.gate.clear()
        job = add(jobs)
        async with dispatching(queue, stages, lease_s=LEASE_S, heartbeat_s=0.2):
            await until(lambda: bool(stages.running))
            clock.pass_lease()
            [taken] = queue.claim("w2", Room(1), LEASE_S)

            await until(lambda: not stages.running)
            await asyncio.sleep(0.1)

        now = jobs.get("alice", job.id)
        assert (now.status, now.fence) == (JobStatus.RUNNING, taken.fence)

    async def test_a_job_that_it_lost_and_claims_again_itself_is_not_mixed_up(self, database, stages):
        clock = HandClock()
        jobs, queue = Jobs(database, clock), JobQueue(database, clock)
        stages.gate.clear()
        job = add(jobs)
        async with dispatching(queue, stages, lease_s=LEASE_S, heartbeat_s=0.2):
            await until(lambda: bool(stages.running))
            clock.pass_lease()
            await until(lambda: jobs.get("alice", job.id).fence > 1)
            await asyncio.sleep(0.5)
            stages.gate.set()
            done = await ended(jobs, job)

        assert (done.status, done.images[0].key) == (JobStatus.SUCCEEDED, f"alice/{job.id}/{done.fence}/0.png")


@pytest.fixture
def impatient(tmp_path):
    """Jobs and the queue of an SQLite file whose locks are waited for only briefly."""
    database = open_database(f"sqlite:///{tmp_path / 'impatient.sqlite3'}", busy_timeout_s=0.05)
    upgrade(database)
    yield Jobs(database), JobQueue(database)
    database.close()


@pytest.fixture
def outage(tmp_path):
    """A database that nobody can write to while the context lasts: another connection sits on the lock."""

    @contextlib.contextmanager
    def begin():
        with contextlib.closing(sqlite3.connect(tmp_path / "impatient.sqlite3", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            yield
            other.execute("ROLLBACK")

    return begin


class TestDatabaseOutages:
    async def test_a_settle_is_tried_until_the_database_is_back(self, impatient, stages, outage):
        jobs, queue = impatient
        stages.gate.clear()
        job = add(jobs)
        async with dispatching(queue, stages):
            await until(lambda: bool(stages.running))
            with outage():
                stages.gate.set()
                await asyncio.sleep(0.5)
                assert jobs.get("alice", job.id).status is JobStatus.RUNNING

            done = await ended(jobs, job)

        assert (done.status, done.attempts, stages.calls["generate"]) == (JobStatus.SUCCEEDED, 1, 1)

    async def test_an_end_that_cannot_be_written_at_all_is_not_tried_for_ever(self, jobs, queue, stages):
        stages.faults["generate"].append(FaceNotFoundError("there is no face", {"not": object()}))
        job = add(jobs)
        async with dispatching(queue, stages, lease_s=0.2):
            done = await ended(jobs, job)

        assert (done.status, done.attempts) == (JobStatus.SUCCEEDED, 2)

    async def test_claiming_goes_on_when_the_database_is_back(self, impatient, stages, outage):
        jobs, queue = impatient
        job = add(jobs)
        with outage():
            dispatcher = Dispatcher(queue, stages, quick(), "w1")
            running = asyncio.create_task(dispatcher.run())
            await asyncio.sleep(0.4)

        assert (await ended(jobs, job)).status is JobStatus.SUCCEEDED
        await dispatcher.stop()
        await running

    async def test_stopping_during_an_outage_ends(self, impatient, stages, outage):
        jobs, queue = impatient
        stages.gate.clear()
        add(jobs)
        async with dispatching(queue, stages) as dispatcher:
            await until(lambda: bool(stages.running))
            with outage():
                async with asyncio.timeout(15):
                    await dispatcher.stop()


class TestChaos:
    @pytest.mark.parametrize("seed", [1, 2])
    async def test_of_200_jobs_each_ends_once_and_none_is_lost(self, jobs, queue, seed):
        errors = [
            *(CanceledError, EngineStoppedError, FaceNotFoundError, NonFiniteOutputError, OverloadedError),
            *(StoreError, UnavailableError, ValueError, asyncio.CancelledError),
        ]
        stages = ChaoticStages(seed, errors, chance=0.02)
        added = [add(jobs, tenant, steps=4) for tenant in ["alice", "bob"] * 100]

        async with contextlib.AsyncExitStack() as stack:
            for worker in ("w1", "w2"):
                limits = {"max_pictures_in_flight": 20, "stage_timeout_s": 0.5, "lease_s": 5.0}
                await stack.enter_async_context(dispatching(queue, stages, worker, **limits))
            for number, job in enumerate(added):
                if number % 17 == 0:
                    jobs.request_cancel(job.tenant, job.id)
            await until(lambda: sum(n for status, n in queue.counts().items() if status.terminal) == 200, timeout_s=120)

        done = [jobs.get(job.tenant, job.id) for job in added]
        succeeded = [job for job in done if job.status is JobStatus.SUCCEEDED]
        assert all(job.attempts <= 3 for job in done)
        assert all(len(job.images) == (job.status is JobStatus.SUCCEEDED) for job in done)
        assert all((job.error is not None) == (job.status is JobStatus.FAILED) for job in done)
        assert {image.key for job in succeeded for image in job.images} <= stages.published.keys()
        assert len(succeeded) > 100
        assert stages.running == set()
