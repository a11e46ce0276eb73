"""One look for all who follow, on SQLite and, where the database tells of changes, on PostgreSQL."""

import asyncio
import collections
import time

import pytest
from doubles.scripted_worker import ScriptedWorker
from doubles.service import add

from instantid_serve.errors import DatabaseError, NotFoundError
from instantid_serve.service.database import open_database, upgrade
from instantid_serve.service.job_queue import JobQueue
from instantid_serve.service.jobs import Jobs
from instantid_serve.serving.api.watch import Watch

POLL_S = 0.05


class CountedJobs(Jobs):
    """Counts the looks, and fails when it is told to."""

    looks = 0
    away = False

    def changed(self, seen):
        type(self).looks += 1
        if self.away:
            raise DatabaseError("the database does not answer")
        return super().changed(seen)


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request, tmp_path):
    if request.param == "sqlite":
        url, server = f"sqlite:///{tmp_path / 'jobs.sqlite3'}", None
    else:
        server = request.getfixturevalue("postgres")
        url = server.create_database(migrated=True)
    database = open_database(url)
    upgrade(database)
    yield database
    database.close()
    if server:
        server.drop_database(url)


@pytest.fixture
def counted(database):
    CountedJobs.looks = 0
    return CountedJobs(database)


@pytest.fixture
def watch(database, counted):
    watch = Watch(database, counted, POLL_S)
    yield watch
    watch.close()


@pytest.fixture
def worker(database, store):
    return ScriptedWorker(JobQueue(database), store)


async def test_a_change_wakes_everyone_who_follows_the_job(watch, counted, worker):
    job = add(counted)
    waiting = [asyncio.create_task(watch.ended(job, 5)) for _ in range(20)]
    await asyncio.sleep(0.1)

    worker.take()
    worker.succeed()

    assert {(await task).status for task in waiting} == {"succeeded"}


async def test_looks_are_as_many_for_a_hundred_followers_as_for_one(watch, counted):
    looks = collections.Counter()
    for followers in (1, 100):
        jobs = [add(counted) for _ in range(10)]
        CountedJobs.looks = 0
        await asyncio.gather(*(watch.ended(jobs[number % 10], 0.6) for number in range(followers)))
        looks[followers] = CountedJobs.looks

    assert looks[100] <= looks[1] + 3


async def test_nobody_looks_when_nobody_follows(watch, counted):
    await watch.ended(add(counted), 0.1)
    await asyncio.sleep(2 * POLL_S + 0.1)
    CountedJobs.looks = 0

    await asyncio.sleep(0.3)

    assert CountedJobs.looks == 0
    assert watch._watched == {}


async def test_an_outage_is_waited_out(watch, counted, worker):
    job = add(counted)
    waiting = asyncio.create_task(watch.ended(job, 8))
    await asyncio.sleep(0.1)
    counted.away = True
    worker.take()
    worker.succeed()
    await asyncio.sleep(0.5)

    counted.away = False

    assert (await waiting).status == "succeeded"


async def test_a_change_between_looking_and_following_is_seen_soon(watch, counted, worker):
    job = add(counted)
    worker.take()
    worker.succeed()

    began = time.monotonic()
    ended = await watch.ended(job, 5)

    assert ended.status == "succeeded"
    assert time.monotonic() - began < 1


async def test_a_deleted_job_is_told_as_gone(watch, counted):
    job = add(counted)
    with watch.follow(job) as follower:
        counted.delete("alice", job.id)

        with pytest.raises(NotFoundError):
            await follower.change(2)


async def test_a_wait_that_is_over_tells_the_job_as_it_is(watch, counted):
    job = add(counted)

    assert (await watch.ended(job, 0.1)).status == "queued"
