"""A runner without tensors whose requests do what their prompt says, and an engine driven by hand."""

import dataclasses
import threading
from concurrent.futures import Executor

import numpy as np

from instantid_serve.engine.loop import Engine
from instantid_serve.engine.request import ShapeKey
from instantid_serve.engine.scheduler import Scheduler
from instantid_serve.errors import NonFiniteOutputError
from instantid_serve.messages import Checkpoint, Request
from instantid_serve.verify import InlineExecutor


@dataclasses.dataclass
class CountingState:
    request: Request
    steps: int
    key: ShapeKey
    step: int = 0
    nbytes: int = 100


class CountingRunner:
    """Counts steps. Prompts: `bad prepare`, `bad sampler`, `bad forward`, `bad decode`; others go well."""

    precision = "none"

    def __init__(self):
        self.batches = []
        self.prepared = []
        self.gate = threading.Event()
        self.gate.set()

    def estimated_bytes(self, request):
        return 100 * len(request.prompt.split())

    def prepare(self, request, checkpoint=None):
        self.prepared.append(request.id)
        if request.prompt == "bad prepare":
            raise ValueError("this prompt cannot be prepared")
        step = checkpoint.step if checkpoint else 0
        return CountingState(request, request.steps, ShapeKey(request.height // 8, request.width // 8), step)

    def checkpoint(self, state):
        return Checkpoint(state.step, np.zeros((1, 4, 8, 8), np.float32), {}, np.zeros(1, np.uint8))

    def step(self, states):
        self.gate.wait(10)
        self.batches.append([s.request.id for s in states])
        if any(s.request.prompt == "bad forward" for s in states):
            raise RuntimeError("out of memory")
        for state in states:
            state.step += 1
        return {s.request.id: ArithmeticError("singular") for s in states if s.request.prompt == "bad sampler"}

    def timings(self):
        return None

    def finish(self, states):
        return [self._finished(state) for state in states]

    def _finished(self, state):
        if state.request.prompt == "bad decode":
            return NonFiniteOutputError("the latents are not finite")
        return np.full((state.request.height, state.request.width, 3), state.step, np.uint8)


def request(name, *, prompt="well", steps=3, size=64, deadline_s=None, guided=True):
    return Request(
        id=name,
        prompt=prompt,
        seed=0,
        width=size,
        height=size,
        embedding=np.zeros(512, np.float32),
        landmarks=np.zeros((5, 2), np.float32),
        steps=steps,
        guidance_scale=5.0 if guided else 1.0,
        deadline_s=deadline_s,
    )


class Clock:
    def __init__(self):
        self.now_s = 100.0

    def __call__(self):
        return self.now_s


class LateExecutor(Executor):
    """Keeps what it is handed until `run_all`."""

    def __init__(self):
        self.kept = []

    def submit(self, fn, /, *args, **kwargs):
        self.kept.append(lambda: fn(*args, **kwargs))

    def run_all(self):
        while self.kept:
            self.kept.pop(0)()


def engine_by_hand(
    runner, *, max_batch_rows=8, max_resident_requests=8, on_step=None, clock=None, decode_on=None, **options
):
    """An engine without threads: each `tick()` reads the inbox and runs at most one step."""
    return Engine(
        runner,
        Scheduler(max_batch_rows=max_batch_rows, ageing_s=1.0),
        max_resident_requests=max_resident_requests,
        on_step=on_step,
        prepare_on=InlineExecutor(),
        decode_on=decode_on or InlineExecutor(),
        clock=clock or Clock(),
        **options,
    )


def run_all(engine):
    while engine.tick():
        pass
    engine.tick()
