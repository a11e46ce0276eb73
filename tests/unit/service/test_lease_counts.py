"""What becomes of silent workers' jobs is counted: jobs taken back, and ends that came too late and were refused."""

import pytest
import sqlalchemy as sa
from doubles.service import LEASE_S, add, claim_one, image
from doubles.stages import HandStages, dispatching, ended, until

from instantid_serve.errors import DatabaseError, StaleFenceError
from instantid_serve.service.database import open_database
from instantid_serve.service.fairness import Room
from instantid_serve.service.job import JobStatus
from instantid_serve.service.job_queue import JobQueue
from instantid_serve.service.jobs import Jobs
from instantid_serve.service.tables import events

LATE_ENDS = {
    "succeeded": lambda queue, job, fence: queue.settle_succeeded(job, fence, [image()], {}),
    "failed": lambda queue, job, fence: queue.settle_failed(job, fence, {"code": "x", "detail": "x"}),
    "canceled": lambda queue, job, fence: queue.settle_canceled(job, fence),
    "expired": lambda queue, job, fence: queue.settle_expired(job, fence, {"code": "x", "detail": "x"}),
    "released": lambda queue, job, fence: queue.release(job, fence),
}


class Counted:
    """Counters in this process."""

    def __init__(self):
        self.reclaims = self.refusals = 0

    def reclaimed(self, jobs):
        self.reclaims += jobs

    def refused(self):
        self.refusals += 1


class Unheard(JobQueue):
    """The queue of a worker that was paused, or cut off: its heartbeats do not arrive."""

    def heartbeat(self, beats, lease_s):  # noqa: ARG002 - what a queue is called with
        raise DatabaseError("nobody hears it")


@pytest.fixture
def counted():
    return Counted()


@pytest.fixture
def queue(database, clock, counted):
    return JobQueue(database, clock, reclaimed=counted.reclaimed, refused=counted.refused)


def terminal_events(database, job_id):
    query = sa.select(events.c.type).where(events.c.job_id == job_id).order_by(events.c.id)
    with database.read() as connection:
        types = connection.execute(query).scalars().all()
    return [kind for kind in types if JobStatus(kind.replace("generation.", "").replace("retrying", "queued")).terminal]


@pytest.mark.parametrize("late", LATE_ENDS.values(), ids=LATE_ENDS)
def test_an_end_under_an_old_fence_is_refused_and_counted(jobs, queue, clock, counted, late):
    old = claim_one_added(jobs, queue)
    clock.pass_lease()
    claim_one(queue, "w2")

    with pytest.raises(StaleFenceError):
        late(queue, old.job.id, old.fence)

    assert (counted.refusals, jobs.get("alice", old.job.id).status) == (1, JobStatus.RUNNING)


def test_the_same_end_told_twice_is_not_counted(jobs, queue, counted):
    claim = claim_one_added(jobs, queue)

    for _ in range(2):
        queue.settle_succeeded(claim.job.id, claim.fence, [image()], {})

    assert counted.refusals == 0


def test_whatever_is_taken_from_silent_workers_is_counted(jobs, queue, clock, counted):
    add(jobs)
    add(jobs, max_attempts=1)
    canceled = add(jobs)
    add(jobs, deadline_s=5)
    assert len(queue.claim("w1", Room(3), LEASE_S)) == 3
    jobs.request_cancel("alice", canceled.id)
    clock.pass_lease()

    for _ in range(2):
        queue.tidy()

    ended_as = {status: number for status, number in queue.counts().items() if number}
    assert counted.reclaims == 3
    assert ended_as == dict.fromkeys(("queued", "failed", "canceled", "expired"), 1)


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
async def test_a_paused_workers_end_is_refused_and_counted_and_there_is_one_result(database_url, counted):
    database = open_database(database_url)
    jobs = Jobs(database)
    counters = {"reclaimed": counted.reclaimed, "refused": counted.refused}
    paused, working = HandStages(), HandStages()
    paused.gate.clear()
    job = add(jobs)
    async with dispatching(Unheard(database, **counters), paused, "w1", lease_s=0.3):
        await until(lambda: bool(paused.running))
        async with dispatching(JobQueue(database, **counters), working, "w2"):
            await ended(jobs, job)
        paused.gate.set()

        await until(lambda: counted.refusals)

    done = jobs.get("alice", job.id)
    assert [stored.key for stored in done.images] == [f"alice/{job.id}/{done.fence}/0.png"]
    assert terminal_events(database, job.id) == ["generation.succeeded"]
    assert (counted.reclaims, counted.refusals) == (1, 1)
    database.close()


def claim_one_added(jobs, queue):
    add(jobs)
    return claim_one(queue)
