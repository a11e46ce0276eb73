"""How fast a worker's pictures go on."""

import pytest

from instantid_serve.service.job import Speed
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
