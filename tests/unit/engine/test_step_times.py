"""The step-time table: what it estimates from what was measured, and where it puts the cap."""

import json

import pytest

from instantid_serve.engine.request import ShapeKey
from instantid_serve.engine.step_times import ENOUGH, SAMPLES, StepTimes

KEY = ShapeKey(8, 8)


def measured(pairs):
    times = StepTimes()
    for rows, seconds in pairs:
        times.record(KEY, rows, seconds)
    return times


def test_it_knows_nothing_until_something_is_measured():
    times = StepTimes()

    assert times.estimate_s(KEY, 2) is None
    assert times.knee(KEY, 16) == 16


@pytest.mark.parametrize(("rows", "seconds"), [(1, 0.1), (2, 0.1), (3, 0.15), (4, 0.2), (8, 0.4)])
def test_estimates_are_measured_interpolated_or_scaled(rows, seconds):
    times = measured([(2, 0.1), (4, 0.2)])

    assert times.estimate_s(KEY, rows) == pytest.approx(seconds)


def test_one_slow_step_does_not_move_an_estimate():
    times = measured([(2, 0.1)] * 4 + [(2, 9.0)])

    assert times.estimate_s(KEY, 2) == pytest.approx(0.1)


def test_old_measurements_give_way_to_new_ones():
    times = measured([(2, 0.1)] * 50 + [(2, 0.3)] * SAMPLES)

    assert times.estimate_s(KEY, 2) == pytest.approx(0.3)


def test_the_knee_is_the_smallest_batch_with_nearly_the_best_throughput():
    times = measured([(2, 0.10), (4, 0.11), (8, 0.20), (16, 0.41)] * ENOUGH)

    assert times.knee(KEY, 16) == 8


def test_there_is_no_cap_while_large_batches_are_unmeasured():
    times = measured([(2, 0.1), (4, 0.2)] * ENOUGH)

    assert times.knee(KEY, 16) == 16


def test_a_few_slow_large_batches_on_a_busy_machine_are_no_reason_for_a_cap():
    times = measured([(2, 0.1)] * 50 + [(16, 9.0)] * (ENOUGH - 1))

    assert times.knee(KEY, 16) == 16


def test_the_knee_compares_the_best_that_each_size_was_seen_to_do():
    times = measured([(2, 0.1), (16, 0.3)] * ENOUGH + [(16, 9.0)] * (SAMPLES - 1))

    assert times.knee(KEY, 16) == 16


def test_the_table_is_the_same_after_it_was_written_and_read():
    times = measured([(2, 0.1), (4, 0.15)] * ENOUGH)

    read = StepTimes.from_json(json.loads(json.dumps(times.to_json())))

    assert read.to_json() == times.to_json()
    assert read.knee(KEY, 4) == times.knee(KEY, 4)
