"""How long a step takes, by shape and number of rows, as measured while serving."""

from __future__ import annotations

import bisect
import dataclasses

from instantid_serve.engine.request import ShapeKey

SMOOTHING = 0.2  # weight of the newest measurement in the running mean
KNEE_SHARE = 0.97  # the cap is the smallest batch that reaches this share of the best measured rows per second
FORGET_AFTER_STEPS = 500  # so that one slow measurement of a large batch does not cap a shape for ever


@dataclasses.dataclass(slots=True)
class _Measured:
    seconds: float
    at_step: int


class StepTimes:
    """A running mean of measured step times. Until something is measured it knows nothing, and says so with None."""

    def __init__(self) -> None:
        self._shapes: dict[ShapeKey, dict[int, _Measured]] = {}
        self._steps: dict[ShapeKey, int] = {}

    def record(self, key: ShapeKey, rows: int, seconds: float) -> None:
        """Add one measured step."""
        step = self._steps[key] = self._steps.get(key, 0) + 1
        measured = self._shapes.setdefault(key, {})
        if rows in measured:
            seconds = measured[rows].seconds + SMOOTHING * (seconds - measured[rows].seconds)
        measured[rows] = _Measured(seconds, step)
        for stale in [r for r, m in measured.items() if step - m.at_step > FORGET_AFTER_STEPS]:
            del measured[stale]

    def estimate_s(self, key: ShapeKey, rows: int) -> float | None:
        """Seconds that a step of ``rows`` rows takes: measured, interpolated, or scaled from the nearest known."""
        measured = self._shapes.get(key)
        if not measured:
            return None
        known = sorted(measured)
        at = bisect.bisect_left(known, rows)
        if at == len(known):
            return measured[known[-1]].seconds * rows / known[-1]
        if known[at] == rows or at == 0:
            return measured[known[at]].seconds
        low, high = known[at - 1], known[at]
        share = (rows - low) / (high - low)
        return measured[low].seconds + (measured[high].seconds - measured[low].seconds) * share

    def knee(self, key: ShapeKey, max_rows: int) -> int:
        """Rows beyond which a larger batch brings no more throughput; ``max_rows`` while the largest are unmeasured.

        Where the device is busy at few rows, a larger batch only makes everybody wait longer.
        """
        measured = self._shapes.get(key, {})
        # A request brings at most two rows, so a batch of max_rows - 1 counts as full.
        if not measured or max(measured) < max_rows - 1:
            return max_rows
        speed = {rows: rows / m.seconds for rows, m in measured.items()}
        return min(max_rows, *(rows for rows in speed if speed[rows] >= KNEE_SHARE * max(speed.values())))
