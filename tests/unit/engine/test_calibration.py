"""Step times are measured before the first request, in batch sizes up to what memory holds."""

import numpy as np
import pytest
import torch
from doubles.engine import CountingRunner

from instantid_serve.engine.calibration import calibrate, rehearse, row_counts
from instantid_serve.engine.request import ShapeKey
from instantid_serve.engine.runner import Runner
from instantid_serve.engine.step_times import StepTimes

KEY = ShapeKey(8, 8)


class TimedRunner(CountingRunner):
    """Steps take 10 ms and 1 ms more for each row, on its own clock; too many rows do not fit."""

    def __init__(self, memory_rows=99):
        super().__init__()
        self.now_s, self.memory_rows, self.rows = 0.0, memory_rows, []

    def step(self, states):
        rows = sum(state.request.rows for state in states)
        if rows > self.memory_rows:
            raise torch.OutOfMemoryError
        self.rows.append(rows)
        self.now_s += 0.010 + 0.001 * rows
        return super().step(states)

    def wait(self):
        pass


@pytest.mark.parametrize(("most", "counts"), [(1, [1]), (6, [1, 2, 4, 6]), (16, [1, 2, 4, 8, 16])])
def test_powers_of_two_and_the_largest_are_measured(most, counts):
    assert row_counts(most) == counts


def test_the_table_knows_the_knee_from_the_start():
    runner, times = TimedRunner(), StepTimes()

    fitting = calibrate(runner, times, 64, 64, 12, clock=lambda: runner.now_s)

    assert fitting == 12
    assert times.estimate_s(KEY, 8) == pytest.approx(0.018)
    assert times.knee(KEY, 12) == 12


def test_batches_that_do_not_fit_into_memory_lower_the_limit():
    runner = TimedRunner(memory_rows=5)

    assert calibrate(runner, StepTimes(), 64, 64, 16, clock=lambda: runner.now_s) == 4
    assert runner.rows[-1] == 4  # and the device's memory has room for that many, and holds no more


def test_a_device_too_small_for_one_row_is_an_error():
    with pytest.raises(torch.OutOfMemoryError):
        calibrate(TimedRunner(memory_rows=0), StepTimes(), 64, 64, 16)


def test_a_rehearsal_is_one_step_of_that_size():
    runner = TimedRunner()

    rehearse(runner, 64, 64, 7)

    assert set(runner.rows) == {7}


def test_it_runs_on_the_real_runner_and_leaves_nothing_behind(miniature_model):
    times = StepTimes()

    assert calibrate(Runner(miniature_model), times, 32, 32, 4) == 4
    assert np.isfinite(times.estimate_s(ShapeKey(4, 4), 4))
