"""How long a step takes, by shape and number of rows, as measured at the start and while serving."""

from __future__ import annotations

import bisect
import dataclasses
from collections import deque
from collections.abc import Iterable, Mapping
from statistics import median
from typing import Any, Self

from instantid_serve.engine.request import ShapeKey

SAMPLES = 9  # the newest measurements that count, per shape and number of rows
ENOUGH = 5  # measurements before a batch size may cap others: a busy machine's single measurement says little
KNEE_SHARE = 0.95  # the cap is the smallest batch that reaches this share of the best measured rows per second


class StepTimes:
    """Measured step times. Until something is measured it knows nothing, and says so with None."""

    def __init__(self) -> None:
        self._shapes: dict[ShapeKey, dict[int, deque[float]]] = {}

    @property
    def known(self) -> bool:
        """Whether anything was measured."""
        return bool(self._shapes)

    def to_json(self) -> list[dict[str, Any]]:
        """Plain values, for :meth:`from_json` in a later process on the same kind of device."""
        return [
            {"key": dataclasses.asdict(key), "rows": rows, "seconds": list(times)}
            for key, measured in self._shapes.items()
            for rows, times in measured.items()
        ]

    @classmethod
    def from_json(cls, values: Iterable[Mapping[str, Any]]) -> Self:
        """The table that was written. Raises KeyError, TypeError or ValueError for anything else."""
        table = cls()
        for value in values:
            for seconds in value["seconds"]:
                table.record(ShapeKey(**value["key"]), int(value["rows"]), float(seconds))
        return table

    def record(self, key: ShapeKey, rows: int, seconds: float) -> None:
        """Add one measured step."""
        self._shapes.setdefault(key, {}).setdefault(rows, deque(maxlen=SAMPLES)).append(seconds)

    def estimate_s(self, key: ShapeKey, rows: int) -> float | None:
        """Seconds that a step of ``rows`` rows takes: measured, interpolated, or scaled from the nearest known."""
        measured = self._shapes.get(key)
        if not measured:
            return None
        known = sorted(measured)
        at = bisect.bisect_left(known, rows)
        if at == len(known):
            return median(measured[known[-1]]) * rows / known[-1]
        if known[at] == rows or at == 0:
            return median(measured[known[at]])
        low, high = known[at - 1], known[at]
        share = (rows - low) / (high - low)
        return median(measured[low]) * (1 - share) + median(measured[high]) * share

    def knee(self, key: ShapeKey, max_rows: int) -> int:
        """Rows beyond which a larger batch brings no more throughput; ``max_rows`` while that is not known.

        Where the device is busy at few rows, a larger batch only makes everybody wait longer. Minima are compared:
        whatever else the machine does can only make a step slower.
        """
        known = {rows: min(times) for rows, times in self._shapes.get(key, {}).items() if len(times) >= ENOUGH}
        # A request brings at most two rows, so a batch of max_rows - 1 counts as full.
        if not known or max(known) < max_rows - 1:
            return max_rows
        speed = {rows: rows / seconds for rows, seconds in known.items()}
        return min(max_rows, *(rows for rows in speed if speed[rows] >= KNEE_SHARE * max(speed.values())))
