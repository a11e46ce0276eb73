"""B2: our engine with the admission policy of vLLM-Omni's step batching, so that only the policy differs.

Its key holds the guidance scale (and so whether there is guidance), and it admits first come, first served: when the
head of the queue does not fit to what runs, nobody behind it may pass.
"""

from __future__ import annotations

import dataclasses
from collections import deque

from instantid_serve.engine.request import Entry, ShapeKey
from instantid_serve.engine.runner import Runner
from instantid_serve.messages import Request


class GuidanceKeyedRunner(Runner):
    """The engine's runner, whose key also holds the guidance scale."""

    def shape_key(self, request: Request) -> ShapeKey:
        """Return the key under which rows may share a step."""
        key = super().shape_key(request)
        return dataclasses.replace(key, weights=f"{key.weights} guidance={request.guidance_scale:g}")


class HeadOfLineScheduler:
    """First come, first served: those who run go on; the head joins when its key is theirs and its rows fit."""

    def __init__(self, *, max_batch_rows: int) -> None:
        self._max_rows = max_batch_rows
        self._waiting: deque[Entry] = deque()
        self._running: dict[str, Entry] = {}

    def __len__(self) -> int:
        return len(self._waiting) + len(self._running)

    def __contains__(self, request_id: object) -> bool:
        return request_id in self._running or any(e.id == request_id for e in self._waiting)

    def add(self, entry: Entry) -> None:
        """Queue a prepared request."""
        self._waiting.append(entry)

    def remove(self, request_id: str) -> Entry | None:
        """Drop a request (done, canceled, failed); None when it is not here."""
        if request_id in self._running:
            return self._running.pop(request_id)
        found = next((e for e in self._waiting if e.id == request_id), None)
        if found is not None:
            self._waiting.remove(found)
        return found

    def past_deadline(self, now_s: float) -> list[Entry]:
        """The requests whose deadline has passed."""
        everybody = (*self._running.values(), *self._waiting)
        return [e for e in everybody if e.request.deadline_s is not None and e.request.deadline_s <= now_s]

    def next_batch(self, now_s: float) -> list[Entry]:  # noqa: ARG002 - the engine's interface
        """Return those who run, and from the head of the queue those who may join them."""
        while self._waiting and self._fits(self._waiting[0]):
            entry = self._waiting.popleft()
            self._running[entry.id] = entry
        return list(self._running.values())

    def ran(self, batch: list[Entry], seconds: float, timings: object = None) -> None:  # noqa: ARG002 - the same
        """Account for a step that ``batch`` has run."""
        for entry in batch:
            entry.steps_done += 1

    def _fits(self, head: Entry) -> bool:
        rows = sum(e.rows for e in self._running.values())
        return not rows or (next(iter(self._running.values())).key == head.key and rows + head.rows <= self._max_rows)
