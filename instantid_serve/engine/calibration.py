"""Measures how long steps of each size take before the first request does, so that the knee is known from the start."""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable, Iterator

import torch

from instantid_serve.engine.request import ShapeKey, stand_in
from instantid_serve.engine.runner import Runner
from instantid_serve.engine.step_times import ENOUGH, StepTimes

log = logging.getLogger(__name__)


def row_counts(max_rows: int) -> list[int]:
    """The batch sizes that are measured: 1, 2, 4 and so on, and the largest."""
    powers = itertools.takewhile(lambda rows: rows < max_rows, (1 << n for n in itertools.count()))
    return [*powers, max_rows]


def calibrate(
    runner: Runner,
    times: StepTimes,
    width: int,
    height: int,
    max_rows: int,
    clock: Callable[[], float] = time.monotonic,
) -> int:
    """Measure steps of up to ``max_rows`` rows at one picture size into ``times``.

    Returns the most rows that the device's memory holds: fewer than ``max_rows`` where a larger batch did not fit.
    """
    fitting = 0
    for rows in row_counts(max_rows):
        try:
            for key, seconds in _measured(runner, width, height, rows, clock):
                times.record(key, rows, seconds)
        except torch.OutOfMemoryError:
            log.warning("a batch of %d rows at %dx%d does not fit into memory", rows, width, height)
            if not fitting:
                raise
            break
        fitting = rows
    if fitting < max_rows:
        # torch still holds all of the memory, and what is free is what requests may take: hold what the largest takes.
        torch.cuda.empty_cache()
        rehearse(runner, width, height, fitting)
    return fitting


def rehearse(runner: Runner, width: int, height: int, rows: int) -> None:
    """Run one step of that size: from then on the device's memory has room for it."""
    for _ in itertools.islice(_measured(runner, width, height, rows, time.monotonic), 1):
        pass


def _measured(
    runner: Runner, width: int, height: int, rows: int, clock: Callable[[], float]
) -> Iterator[tuple[ShapeKey, float]]:
    steps = ENOUGH + 1  # the first one also chooses kernels, compiles and records
    requests = [stand_in(f"pair {n}", width, height, steps=steps) for n in range(rows // 2)]
    requests += [stand_in("single", width, height, steps=steps, guided=False)] * (rows % 2)
    states = [runner.prepare(request) for request in requests]
    for step in range(steps):
        began_s = clock()
        if errors := runner.step(states):
            raise next(iter(errors.values()))
        runner.wait()
        if step:
            yield states[0].key, clock() - began_s
