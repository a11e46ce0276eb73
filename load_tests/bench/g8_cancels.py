"""G8, the cancels: what a canceled request still costs, and what it leaves behind."""

from __future__ import annotations

import dataclasses
import gc
import queue
import random
import sys
import threading
import time
import weakref
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from statistics import fmean
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from instantid_serve.engine.loop import Engine
from instantid_serve.engine.runner import Runner, State
from instantid_serve.errors import CanceledError
from instantid_serve.messages import Picture, Progress, Request
from load_tests.bench import engines
from load_tests.bench.harness import Run, main, percentile
from load_tests.bench.traffic import GUIDANCE_SCALES, make_request

MEASURED = (
    "Cancels at random moments (in the queue, in preparation, at any step) of requests in the real engine and runner "
    "over a model that computes nothing: steps begun after a cancel that still held its rows, row-steps run for nobody "
    "beside B0, which runs to the end, and what is left of requests, tensors and places afterwards."
)
STEPS = 30
SIDE_PX = 32
FINISH_TIMEOUT_S = 120.0


class FakeSampler:
    """A sampler that moves nothing."""

    init_noise_sigma = 1.0

    def set_timesteps(self, steps: int, device: object = None) -> None:  # noqa: ARG002 - a sampler's signature
        """Lay out the schedule."""
        self.timesteps = torch.arange(steps, 0, -1)

    def scale_model_input(self, latents: torch.Tensor, _: object) -> torch.Tensor:
        """Return them as they are."""
        return latents

    def step(self, output: torch.Tensor, _: object, latents: torch.Tensor, *, return_dict: bool) -> tuple[torch.Tensor]:
        """Return new latents, as a sampler does."""
        del return_dict
        return (latents + 0.0 * output,)


class FakeModel:
    """A model that computes nothing; its tensors are real."""

    device = torch.device("cpu")
    precision = "float32"
    latent_channels, latent_scale = 4, 8

    def new_sampler(self, class_name: str, options: Mapping[str, Any]) -> FakeSampler:  # noqa: ARG002
        """One per request."""
        return FakeSampler()

    def condition(
        self,
        prompts: Sequence[str],
        faces: Sequence[torch.Tensor],
        picture: torch.Tensor,  # noqa: ARG002
        *,
        scope: str,  # noqa: ARG002
    ) -> dict[str, torch.Tensor]:
        """Small tensors of a request's own."""
        rows = len(prompts)
        return {
            "text": torch.zeros(rows, 77, 8),
            "identity": torch.stack(list(faces))[:, :64].reshape(rows, 16, 4).clone(),
            "pooled": torch.zeros(rows, 8),
        }

    def row_bytes(self, text_windows: int, height: int, width: int) -> int:  # noqa: ARG002
        """About what `condition` returns."""
        return 4 * 77 * 8 * text_windows

    def identitynet(self, *arguments: Any) -> list[torch.Tensor]:  # noqa: ANN401, ARG002
        """No residuals."""
        return []

    def unet(self, latents: torch.Tensor, *_: object, **__: object) -> torch.Tensor:
        """No noise."""
        return torch.zeros_like(latents)

    def decode(self, latents: torch.Tensor) -> NDArray[np.uint8]:
        """No picture."""
        return np.zeros((len(latents), 8, 8, 3), np.uint8)


class WatchedRunner(Runner):
    """The engine's runner, which notes who was in every step, and lets states be counted when nobody holds them."""

    def __init__(self, model: FakeModel) -> None:
        super().__init__(model)
        self.begun, self.ended = 0, 0
        self.steps_of: dict[str, list[int]] = {}
        self.tensors: weakref.WeakSet[torch.Tensor] = weakref.WeakSet()

    def prepare(self, request: Request, *rest: Any) -> State:  # noqa: ANN401
        """Prepare, and watch its tensors."""
        state = super().prepare(request, *rest)
        self.tensors.update([state.latents, *state.conditioning.values()])
        return state

    def step(self, states: Sequence[State]) -> dict[str, Exception]:
        """Step, and note who was in it. Steps count from 1."""
        for state in states:
            self.steps_of.setdefault(state.request.id, []).append(self.begun + 1)
        self.begun += 1
        failed = super().step(states)
        self.ended += 1
        return failed


@dataclasses.dataclass(frozen=True, slots=True)
class Cancel:
    """A request was canceled when ``begun`` steps had begun and ``ended`` had ended, of all that the engine ran."""

    request: Request
    begun: int
    ended: int


class Storm:
    """Requests go in, as many as are canceled come after them; another thread cancels each at its own moment."""

    def __init__(self, count: int, seed: int) -> None:
        self.runner = WatchedRunner(FakeModel())
        self.scheduler = engines.scheduler()
        self.engine = Engine(self.runner, self.scheduler, max_resident_requests=engines.MAX_RESIDENT_REQUESTS)
        self.cancels: list[Cancel] = []
        self.futures: dict[str, Future[Picture]] = {}
        self._count, self._draw = count, random.Random(seed)
        self._due: queue.SimpleQueue[Request] = queue.SimpleQueue()
        self._places = threading.Semaphore(engines.MAX_RESIDENT_REQUESTS + 16)  # some always wait in the queue

    def run(self) -> float:
        """Let it blow over; returns the seconds it took. One request in ten is left alone and runs to its end."""
        began_s = time.monotonic()
        self.engine.start()
        submitter = threading.Thread(target=self._submit_all, daemon=True)
        submitter.start()
        for _ in range(self._count):
            self._cancel(self._due.get(timeout=FINISH_TIMEOUT_S))
        submitter.join()
        for future in list(self.futures.values()):
            if not future.cancelled():
                future.exception(FINISH_TIMEOUT_S)
        return time.monotonic() - began_s

    def _submit_all(self) -> None:
        number = canceled = 0
        while canceled < self._count:
            request = make_request(
                number,
                side_px=SIDE_PX,
                steps=STEPS,
                guidance_scale=self._draw.choice(GUIDANCE_SCALES),
                identitynet_strength=self._draw.choice([0.0, 0.8]),
            )
            self._places.acquire()
            doomed = self._draw.random() < 0.9  # noqa: PLR2004 - a share
            self._submit(request, self._draw.randint(-6, STEPS - 1) if doomed else None)
            canceled += doomed
            number += 1

    def _submit(self, request: Request, cancel_after_steps: int | None) -> None:
        """Below 0 the cancel is due at once: in the queue, or while it is prepared."""

        def on_progress(progress: Progress) -> None:
            if progress.step == cancel_after_steps:
                self._due.put(request)

        future = self.engine.submit(request, on_progress)
        self.futures[request.id] = future
        future.add_done_callback(lambda _: self._places.release())
        if cancel_after_steps is not None and cancel_after_steps <= 0:
            self._due.put(request)

    def _cancel(self, request: Request) -> None:
        runner = self.runner
        while request.id not in self.futures:  # its step may come before `submit` returned
            time.sleep(0)
        ended, begun = runner.ended, runner.begun  # in this order: a step between the two counts as one under way
        if self._draw.random() < 0.5:  # noqa: PLR2004 - a share
            self.engine.cancel(request.id)
        else:
            self.futures[request.id].cancel()
        self.cancels.append(Cancel(request, begun, ended))


def measure(run: Run) -> None:
    """Storms, one after the other, and after each a look at what is left."""
    count = run.parameter("cancels per storm", full=2_000, quick=60)
    run.parameter("steps of a request", full=STEPS, quick=STEPS)
    later: list[int] = []
    for seed in range(run.parameter("storms", full=5, quick=1)):
        print(f"  storm {seed + 1}", file=sys.stderr, flush=True)
        storm = Storm(count, seed)
        run.record("storm", storm.run(), "s")
        later += _wasted(run, storm)
        _left_behind(run, storm)
    run.attach("steps begun after the cancel, how often", {str(n): later.count(n) for n in sorted(set(later))})
    _claim(run)
    run.draw(lambda figure: _bars(figure, run))


def _claim(run: Run) -> None:
    late = "steps begun after a cancel with its rows, p99"
    run.require(late, at_most=1, every=True, claim="rows of a canceled request are free within, p99 in steps")
    run.require(
        "ours wasted steps per cancel", at_most=1, every=True, claim="steps run for nobody after a cancel, mean"
    )
    run.ratio("wasted row-steps, B0 / ours", "B0 wasted row-steps per cancel", "ours wasted row-steps per cancel")
    run.require("wasted row-steps, B0 / ours", at_least=15, claim="row-steps run for nobody: B0 over ours")
    run.require(
        "left behind", at_most=0, every=True, claim="requests, tickets, places, bytes, states and tensors left behind"
    )
    run.note(
        "A step under way when the cancel comes counts as wasted in full, for both. B0 cannot be canceled: it is "
        "charged the steps that were left at the same moments, for the request's own rows."
    )


def _wasted(run: Run, storm: Storm) -> list[int]:
    """Record what the cancels cost; return for each how many steps with its rows were begun after it."""
    later, wasted, ours, b0 = [], [], [], []
    for cancel in storm.cancels:
        mine = storm.runner.steps_of.get(cancel.request.id, [])
        done = sum(step <= cancel.ended for step in mine)
        if done == STEPS:
            continue  # there was nothing left to cancel
        later.append(sum(step > cancel.begun for step in mine))
        wasted.append(len(mine) - done)
        ours.append(cancel.request.rows * (len(mine) - done))
        b0.append(cancel.request.rows * (STEPS - done))
    run.record("cancels that came in time", len(later), "requests")
    run.record("steps begun after a cancel with its rows, p99", percentile(later, 99), "steps")
    run.record("steps begun after a cancel with its rows, most", max(later), "steps")
    run.record("ours wasted steps per cancel", fmean(wasted), "steps")
    run.record("ours wasted row-steps per cancel", fmean(ours), "row-steps")
    run.record("B0 wasted row-steps per cancel", fmean(b0), "row-steps")
    return later


def _left_behind(run: Run, storm: Storm) -> None:
    engine, runner = storm.engine, storm.runner
    unnamed = [f for f in storm.futures.values() if not f.cancelled() and _odd(f.exception(0))]
    storm.futures.clear()
    deadline_s = time.monotonic() + 10
    # The last picture is given to its caller a moment before its place is free.
    while (gc.collect() + len(runner.tensors) or engine.charged_bytes) and time.monotonic() < deadline_s:
        time.sleep(0.05)
    states = sum(type(o) is State for o in gc.get_objects())
    left = {
        "requests with another error": len(unnamed),
        "requests in the scheduler": len(storm.scheduler),
        "tickets": len(engine._tickets),  # noqa: SLF001 - what is counted is what nobody outside should see
        "places taken": engine._admission._inside,  # noqa: SLF001
        "bytes charged": engine.charged_bytes,
        "states": states,
        "tensors of requests": len(runner.tensors),
    }
    engine.close()
    run.raw.setdefault("left behind", []).append(left)
    run.record("left behind", sum(left.values()), "things")


def _odd(error: BaseException | None) -> bool:
    return error is not None and not isinstance(error, CanceledError)


def _bars(figure: Any, run: Run) -> None:  # noqa: ANN401
    axes = figure.subplots()
    names = ["ours wasted row-steps per cancel", "B0 wasted row-steps per cancel"]
    bars = axes.bar(["ours", "B0"], [run.median(n) for n in names], color=["#1b6ca8", "#8a8a8a"], width=0.5)
    axes.bar_label(bars, fmt="%.2f")
    axes.set_ylabel("row-steps")
    axes.set_title("row-steps run for nobody, per canceled request", loc="left")


if __name__ == "__main__":
    sys.exit(main("G8-cancels", MEASURED, measure))
