"""Where a job stands, and how long it still takes: on a clock moved by hand."""

import dataclasses

import pytest
from doubles.service import add, claim_one

from instantid_serve.errors import DatabaseError
from instantid_serve.service.job import Speed
from instantid_serve.service.outlook import Outlook, Outlooks


@dataclasses.dataclass
class Second:
    """A process's clock that the test moves."""

    now: float = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def process_clock():
    return Second()


@pytest.fixture
def outlooks(database, clock, process_clock):
    return Outlooks(database, clock, process_clock)


def test_a_job_stands_behind_those_that_are_claimed_before_it(jobs, outlooks):
    first, second, third = (add(jobs) for _ in range(3))

    assert [outlooks.of(job).position for job in (first, second, third)] == [0, 1, 2]


def test_nothing_is_said_of_the_time_while_nothing_was_measured(jobs, outlooks):
    assert outlooks.of(add(jobs)) == Outlook(0, None)


def test_the_time_is_that_of_the_steps_before_it_and_of_its_own(jobs, queue, outlooks):
    add(jobs, steps=30)
    second = add(jobs, steps=20)
    queue.report("w1", Speed(4, 8, steps_per_s=10.0, step_s=0.5))

    assert outlooks.of(second) == Outlook(1, 30 / 10 + 20 * 0.5)


def test_pictures_of_one_job_are_made_side_by_side(jobs, queue, outlooks):
    job = add(jobs, steps=20, count=4)
    queue.report("w1", Speed(4, 8, steps_per_s=10.0, step_s=0.5))

    assert outlooks.of(job) == Outlook(0, 20 * 0.5)


def test_a_running_job_waits_for_nobody(jobs, queue, outlooks):
    job = claim_one(queue) if add(jobs) else None
    queue.report("w1", Speed(4, 8, steps_per_s=10.0, step_s=0.5))

    assert outlooks.of(job.job).position == 0


def test_a_job_that_has_ended_has_no_outlook(jobs, outlooks):
    job = add(jobs)

    assert outlooks.of(jobs.request_cancel("alice", job.id)) is None


def test_a_worker_that_fell_silent_counts_for_nothing(jobs, queue, outlooks, clock):
    job = add(jobs)
    queue.report("w1", Speed(4, 8, steps_per_s=10.0, step_s=0.5))
    clock.now += 16

    assert outlooks.of(job).eta_s is None


def test_what_was_seen_answers_for_a_second(jobs, outlooks, process_clock):
    first, second = add(jobs), add(jobs)
    outlooks.of(second)
    jobs.request_cancel("alice", first.id)

    process_clock.now = 0.9
    soon = outlooks.of(second).position
    process_clock.now = 1.1
    later = outlooks.of(second).position

    assert (soon, later) == (1, 0)


def test_a_job_that_came_later_is_placed_by_its_turn(jobs, outlooks):
    add(jobs)
    outlooks.of(add(jobs))

    assert outlooks.of(add(jobs)).position == 2


def test_while_the_database_is_away_the_last_outlook_stands(jobs, outlooks, process_clock):
    add(jobs)
    job = add(jobs)
    outlooks.of(job)

    class Away:
        def read(self):
            raise DatabaseError("the database does not answer")

    outlooks._database = Away()
    process_clock.now = 10

    assert outlooks.of(job).position == 1
