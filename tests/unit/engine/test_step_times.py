"""The step-time table: what it estimates from what was measured, and where it puts the cap."""

import pytest

from instantid_serve.engine.request import ShapeKey
from instantid_serve.engine.step_times import FORGET_AFTER_STEPS, StepTimes

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


def test_a_new_measurement_moves_the_mean_by_a_fifth():
    times = measured([(2, 0.1), (2, 0.2)])

    assert times.estimate_s(KEY, 2) == pytest.approx(0.12)


def test_the_knee_is_the_smallest_batch_with_nearly_the_best_throughput():
    times = measured([(2, 0.10), (4, 0.11), (8, 0.20), (16, 0.41)])

    assert times.knee(KEY, 16) == 8


def test_there_is_no_cap_while_large_batches_are_unmeasured():
    times = measured([(2, 0.1), (4, 0.2)])

    assert times.knee(KEY, 16) == 16


def test_an_old_measurement_is_forgotten():
    times = measured([(16, 9.0), (2, 0.1)])
    assert times.knee(KEY, 16) == 2

    for _ in range(FORGET_AFTER_STEPS + 1):
        times.record(KEY, 2, 0.1)

    assert times.knee(KEY, 16) == 16
