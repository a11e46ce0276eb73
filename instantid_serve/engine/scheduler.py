"""Who runs the next step. Plain bookkeeping: no tensors, no threads, and time is an argument.

Between shapes: the shape that has had the least device time per live request goes next, so none starves and a crowd of
requests gets a crowd's share. Inside a shape: requests that would otherwise miss their deadline, then the least
remaining work, where having come earlier counts as having less of it, so that a stream of short ones cannot starve a
long one.
"""

from __future__ import annotations

from collections.abc import Iterable

from instantid_serve.engine.request import Entry, ShapeKey
from instantid_serve.engine.step_times import StepTimes

Timing = tuple[tuple[ShapeKey, int], float]  # shape, rows and seconds of one step
DEADLINE_MARGIN = 2.0  # a request is urgent when its slack is below this many times its estimated remaining work


class Scheduler:
    """Holds the prepared requests and picks the batch of each step."""

    def __init__(self, *, max_batch_rows: int, ageing_s: float, step_times: StepTimes | None = None) -> None:
        """``max_batch_rows`` caps a batch; a request that came ``ageing_s`` earlier counts as one step shorter."""
        self._max_rows = max_batch_rows
        self._ageing_s = ageing_s
        self._times = step_times or StepTimes()
        self._shapes: dict[ShapeKey, dict[str, Entry]] = {}
        self._keys: dict[str, ShapeKey] = {}
        self._share_s: dict[ShapeKey, float] = {}  # device seconds per live request that a shape has had

    def __len__(self) -> int:
        return len(self._keys)

    def __contains__(self, request_id: object) -> bool:
        return request_id in self._keys

    def add(self, entry: Entry) -> None:
        """Let a prepared request take part from the next step on. Raises ValueError for an id already here."""
        if entry.id in self._keys:
            raise ValueError(f"request {entry.id} is already scheduled")
        if entry.key not in self._shapes:
            # A shape that was away has no claim on the time that others used meanwhile.
            self._share_s[entry.key] = min(self._share_s.values(), default=0.0)
            self._shapes[entry.key] = {}
        self._shapes[entry.key][entry.id] = entry
        self._keys[entry.id] = entry.key

    def remove(self, request_id: str) -> Entry | None:
        """Drop a request (done, canceled, failed); None when it is not here."""
        key = self._keys.pop(request_id, None)
        if key is None:
            return None
        shape = self._shapes[key]
        entry = shape.pop(request_id)
        if not shape:
            del self._shapes[key], self._share_s[key]
        return entry

    def past_deadline(self, now_s: float) -> list[Entry]:
        """The requests whose deadline has passed."""
        return [e for e in self._entries() if e.request.deadline_s is not None and e.request.deadline_s <= now_s]

    def next_batch(self, now_s: float) -> list[Entry]:
        """The requests that share the next step: all of one shape, within the row cap; empty when none are here."""
        if not self._shapes:
            return []
        key = min(self._shapes, key=lambda k: self._share_s[k])
        return self._pack(sorted(self._shapes[key].values(), key=lambda e: self._precedence(e, now_s)), key)

    def ran(self, batch: list[Entry], seconds: float, timings: Iterable[Timing] | None = None) -> None:
        """Account for a step that ``batch`` has run.

        With ``timings``, what a device that is still at it tells of the steps before, ``seconds`` is not looked at.
        """
        for entry in batch:
            entry.steps_done += 1
        own: Timing = ((batch[0].key, sum(e.rows for e in batch)), seconds)
        for (key, rows), took_s in [own] if timings is None else timings:
            self._times.record(key, rows, took_s)
            if key in self._share_s:
                self._share_s[key] += took_s / len(self._shapes[key])

    def _entries(self) -> Iterable[Entry]:
        return (entry for shape in self._shapes.values() for entry in shape.values())

    def _pack(self, ordered: list[Entry], key: ShapeKey) -> list[Entry]:
        # The first always runs, even one wider than the knee: a request may not be locked out by a measurement.
        batch, free = ordered[:1], self._cap(key) - ordered[0].rows
        for entry in ordered[1:]:
            if entry.rows <= free:
                batch.append(entry)
                free -= entry.rows
        return batch

    def _cap(self, key: ShapeKey) -> int:
        # The fixed bucket is a promise about bits: no measurement may change it.
        return key.exact_rows or self._times.knee(key, self._max_rows)

    def _precedence(self, entry: Entry, now_s: float) -> tuple[bool, float, float, str]:
        aged = entry.remaining + entry.arrived_s / self._ageing_s
        return not self._urgent(entry, now_s), aged, entry.arrived_s, entry.id

    def _urgent(self, entry: Entry, now_s: float) -> bool:
        if entry.request.deadline_s is None:
            return False
        step_s = self._times.estimate_s(entry.key, entry.rows) or 0.0
        return entry.request.deadline_s - now_s < DEADLINE_MARGIN * step_s * entry.remaining
