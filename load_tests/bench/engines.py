"""The engine as the benchmarks drive it: on the miniature, by hand on one thread, or with its own threads."""

from __future__ import annotations

import atexit
import dataclasses
import functools
import shutil
import tempfile
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from instantid_serve.engine.loop import Engine
from instantid_serve.engine.request import Entry, StepReport
from instantid_serve.engine.runner import Runner
from instantid_serve.engine.scheduler import Scheduler
from instantid_serve.messages import Picture, Request
from instantid_serve.models import miniature
from instantid_serve.models.instantid import InstantIDModel
from instantid_serve.verify import InlineExecutor

MAX_BATCH_ROWS = 16  # the service's default, and the simulation's cap
MAX_RESIDENT_REQUESTS = 32
AGEING_S = 0.5


@functools.cache
def miniature_folder() -> Path:
    """Make the miniature in a folder that goes when the process does."""
    parent = Path(tempfile.mkdtemp(prefix="instantid-bench-"))
    atexit.register(shutil.rmtree, parent, ignore_errors=True)
    miniature.make(parent / "miniature")
    return parent / "miniature"


@functools.cache
def miniature_model() -> InstantIDModel:
    """Load the miniature once per process. It remembers no prompt and no face: every request does its own work."""
    return InstantIDModel.load(miniature_folder(), cache_bytes=0)


@functools.cache
def serving_model() -> InstantIDModel:
    """Load the miniature as a replica does: prompts and faces that come again are remembered."""
    return InstantIDModel.load(miniature_folder())


class WatchedScheduler:
    """A scheduler that notes for every step how many rows were there to run, and how many ran."""

    def __init__(self, inner: Any) -> None:  # noqa: ANN401 - ours or a baseline's
        self._inner = inner
        self._rows: dict[str, int] = {}
        self.steps: list[tuple[int, int, float]] = []  # rows there, rows run, CPU seconds of the process by then

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401
        return getattr(self._inner, name)

    def __len__(self) -> int:
        return len(self._inner)

    def __contains__(self, request_id: object) -> bool:
        return request_id in self._inner

    def add(self, entry: Entry) -> None:
        """Count its rows in."""
        self._inner.add(entry)
        self._rows[entry.id] = entry.rows

    def remove(self, request_id: str) -> Entry | None:
        """Count its rows out."""
        self._rows.pop(request_id, None)
        entry: Entry | None = self._inner.remove(request_id)
        return entry

    def next_batch(self, now_s: float) -> list[Entry]:
        """Note what was there and what was picked."""
        batch: list[Entry] = self._inner.next_batch(now_s)
        if batch:
            self.steps.append((sum(self._rows.values()), sum(e.rows for e in batch), time.process_time()))
        return batch


def scheduler(max_batch_rows: int = MAX_BATCH_ROWS) -> Scheduler:
    """Our scheduler with the service's default ageing."""
    return Scheduler(max_batch_rows=max_batch_rows, ageing_s=AGEING_S)


@dataclasses.dataclass(slots=True, eq=False)
class ByHand:
    """An engine without threads: prepare, steps and decode all run in `run`, one after the other."""

    runner: Any
    scheduler: Any
    max_resident_requests: int = MAX_RESIDENT_REQUESTS
    reports: list[StepReport] = dataclasses.field(default_factory=list)
    engine: Engine = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        inline = InlineExecutor()
        self.engine = Engine(
            self.runner,
            self.scheduler,
            max_resident_requests=self.max_resident_requests,
            on_step=self.reports.append,
            prepare_on=inline,
            decode_on=inline,
        )

    def run(self, requests: Iterable[Request]) -> list[Picture]:
        """Hand in all requests at once and run until every picture is there."""
        futures = [self.engine.submit(request) for request in requests]
        self.finish(futures)
        return [future.result(0) for future in futures]

    def finish(self, futures: Sequence[Future[Picture]]) -> None:
        """Run until every future is done."""
        while self.engine.tick() or any(not f.done() for f in futures):
            pass


def ours(max_batch_rows: int = MAX_BATCH_ROWS) -> ByHand:
    """Return our engine on the miniature, by hand."""
    return ByHand(Runner(miniature_model()), scheduler(max_batch_rows))
