"""A Generator whose model only takes time: a step sleeps as long as one of so many rows would take."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from instantid_serve.engine.loop import Engine
from instantid_serve.engine.request import ShapeKey, StepReport
from instantid_serve.engine.scheduler import Scheduler
from instantid_serve.messages import Checkpoint, Request
from instantid_serve.serving.replicas import generator
from instantid_serve.settings import Settings

STEP_S, ROW_S = 0.1, 0.0125  # a step of 8 rows takes 0.2 s


@dataclasses.dataclass(slots=True, eq=False)
class TimedState:
    """One request."""

    request: Request
    steps: int
    key: ShapeKey
    step: int = 0
    nbytes: int = 0


class TimedRunner:
    """Sleeps instead of computing. Its pictures are black."""

    precision = "none"

    def estimated_bytes(self, _request: Request) -> int:
        """Nothing."""
        return 0

    def prepare(self, request: Request, checkpoint: Checkpoint | None = None) -> TimedState:
        """Take no time."""
        key = ShapeKey(request.height // 8, request.width // 8)
        return TimedState(request, request.steps, key, checkpoint.step if checkpoint else 0)

    def checkpoint(self, state: TimedState) -> Checkpoint:
        """Hold as much as a real one."""
        latents = np.zeros((1, 4, state.request.height // 8, state.request.width // 8), np.float32)
        return Checkpoint(state.step, latents, {}, np.zeros(5056, np.uint8))

    def step(self, states: Sequence[TimedState]) -> dict[str, Exception]:
        """Take the time of a step of so many rows."""
        time.sleep(STEP_S + ROW_S * sum(state.request.rows for state in states))
        for state in states:
            state.step += 1
        return {}

    def timings(self) -> None:
        """A step is done when it returns."""

    def finish(self, states: Sequence[TimedState]) -> list[NDArray[np.uint8]]:
        """Return pictures of the requests' sizes."""
        return [np.zeros((s.request.height, s.request.width, 3), np.uint8) for s in states]


class Generator(generator.Generator):
    """The service's own, over the timed model. It tells of every step, because steps are what is counted."""

    progress_every_s = 0.0

    def _provenance(self, _settings: Settings) -> dict[str, Any]:
        return {}

    def _opened(self, settings: Settings, on_step: Callable[[StepReport], None]) -> Engine:
        runner: Any = TimedRunner()
        limits = settings.engine
        return Engine(
            runner,
            Scheduler(max_batch_rows=limits.max_batch_rows, ageing_s=limits.ageing_s),
            max_resident_requests=limits.max_resident_requests,
            on_step=on_step,
        )
