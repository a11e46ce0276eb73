"""How fast workers go on, and what those who wait are told of it."""

import pytest
from doubles.service import LEASE_S, add

from instantid_serve.service.fairness import Room
from instantid_serve.service.job import Beat, Speed
from instantid_serve.service.pace import Pace


class TestPace:
    def test_the_first_look_tells_no_speed(self):
        speed = Pace(8).measure(100.0, {"a": 3}, 1)

        assert speed == Speed(1, 8, 0.0, 0.0)

    def test_it_is_the_steps_of_all_and_the_time_of_one(self):
        pace = Pace(8)
        pace.measure(100.0, {"a": 0, "b": 0}, 2)

        speed = pace.measure(102.0, {"a": 10, "b": 10}, 2)

        assert (speed.steps_per_s, speed.step_s) == (10.0, 0.2)

    def test_what_is_new_weighs_more_the_longer_it_lasts(self):
        pace = Pace(8)
        pace.measure(0.0, {"a": 0}, 1)
        pace.measure(1.0, {"a": 10}, 1)

        shortly = pace.measure(2.0, {"a": 30}, 1).steps_per_s
        later = pace.measure(42.0, {"a": 830}, 1).steps_per_s

        assert 10 < shortly < 12
        assert later == pytest.approx(20, rel=0.05)

    def test_idle_time_says_nothing(self):
        pace = Pace(8)
        pace.measure(0.0, {"a": 0}, 1)
        before = pace.measure(1.0, {"a": 10}, 1)

        idle = pace.measure(100.0, {}, 0)

        assert (idle.steps_per_s, idle.step_s, idle.pictures) == (before.steps_per_s, before.step_s, 0)

    def test_a_job_that_begins_again_takes_no_steps_away(self):
        pace = Pace(8)
        pace.measure(0.0, {"a": 0, "b": 0}, 2)
        pace.measure(1.0, {"a": 30, "b": 10}, 2)

        assert pace.measure(2.0, {"a": 1, "b": 20}, 2).steps_per_s > 0

    def test_two_looks_at_one_moment_are_no_division_by_zero(self):
        pace = Pace(8)
        pace.measure(1.0, {"a": 0}, 1)

        assert pace.measure(1.0, {"a": 5}, 1).steps_per_s == 0.0


class TestOutlook:
    @pytest.fixture
    def fast(self, queue):
        """Two workers that together make 100 steps a second."""
        for worker in ("w1", "w2"):
            queue.report(worker, Speed(4, 8, 50.0, 0.08))

    def test_it_counts_the_jobs_before_it_of_all_tenants(self, jobs):
        add(jobs, "alice")
        add(jobs, "bob")
        last = add(jobs, "alice")

        assert jobs.outlook(last).position == 2

    def test_it_tells_no_time_while_nothing_was_measured(self, jobs):
        assert jobs.outlook(add(jobs)).eta_s is None

    @pytest.mark.usefixtures("fast")
    def test_a_waiting_jobs_time_is_that_of_those_before_it_and_its_own(self, jobs):
        add(jobs, "alice", count=4, steps=25)
        add(jobs, "bob", count=4, steps=50)
        last = add(jobs, "alice", count=4, steps=20)

        outlook = jobs.outlook(last)

        assert outlook.eta_s == pytest.approx((100 + 200) / 100 + 20 * 0.08)

    @pytest.mark.usefixtures("fast")
    def test_a_running_jobs_time_is_what_is_left_of_it(self, jobs, queue):
        add(jobs, count=2, steps=20)
        [claim] = queue.claim("w1", Room(8), LEASE_S)
        queue.heartbeat([Beat(claim.job.id, claim.fence, 10, 40)], LEASE_S)
        add(jobs)

        outlook = jobs.outlook(jobs.get("alice", claim.job.id))

        assert (outlook.position, outlook.eta_s) == (0, pytest.approx(15 * 0.08))

    @pytest.mark.usefixtures("fast")
    def test_workers_that_fell_silent_count_no_more(self, jobs, clock):
        job = add(jobs)
        clock.now += 16

        assert jobs.outlook(job).eta_s is None

    @pytest.mark.usefixtures("fast")
    def test_a_workers_last_word_counts(self, jobs, queue):
        queue.report("w1", Speed(4, 8, 150.0, 0.04))
        add(jobs, "alice", steps=100)

        assert jobs.outlook(add(jobs, steps=1)).eta_s == pytest.approx(100 / 200 + 0.08)

    def test_the_estimate_falls_as_the_queue_moves(self, jobs, queue):
        queue.report("w1", Speed(4, 8, 50.0, 0.08))
        waiting = [add(jobs) for _ in range(4)][-1]
        before = jobs.outlook(waiting)
        queue.claim("w1", Room(2), LEASE_S)

        after = jobs.outlook(waiting)

        assert (before.position, after.position) == (3, 1)
        assert after.eta_s < before.eta_s
