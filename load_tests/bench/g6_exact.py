"""G6: the fixed-bucket tier makes the same bits in any company, and costs next to nothing when the engine is full."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import random
import sys
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import Future
from typing import Any

import numpy as np
from numpy.typing import NDArray

from instantid_serve.engine.runner import Runner
from instantid_serve.messages import Picture, Request
from load_tests.bench import engines, plots
from load_tests.bench.engines import ByHand
from load_tests.bench.g3_mix import mixed, row_steps
from load_tests.bench.harness import ONE_THREAD, Run, Stopwatch, main
from load_tests.bench.traffic import GUIDANCE_SCALES, SAMPLERS, make_request

MEASURED = (
    "SHA-256 of the latents and pixels of fixed-bucket requests under random schedules (who joins when, cancels, "
    "neighbours that fail, neighbours of the ordinary tier) against the same requests alone; and row-steps per second "
    "of the tier at saturation beside the default tier at the same row cap."
)
EXACT_ROWS = 8
KINDS = 24  # different requests; every schedule draws some of them
SIDES_PX = ((32, 32), (32, 32), (32, 32), (40, 32))


class FailingSampler:
    """A sampler that works until its n-th step."""

    def __init__(self, sampler: Any, failing_step: int) -> None:  # noqa: ANN401 - diffusers' unrelated classes
        self._sampler, self._left = sampler, failing_step

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401
        return getattr(self._sampler, name)

    def step(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        """Fail when its time has come."""
        self._left -= 1
        if self._left < 0:
            raise ArithmeticError("the sampler fails here")
        return self._sampler.step(*args, **kwargs)


class FaultyModel:
    """The miniature, in which a request may ask for a sampler that fails."""

    def __init__(self, model: Any) -> None:  # noqa: ANN401
        self._model = model

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401
        return getattr(self._model, name)

    def new_sampler(self, class_name: str, options: Mapping[str, Any]) -> Any:  # noqa: ANN401
        """Make the model's sampler, or one that fails."""
        rest = {name: value for name, value in options.items() if name != "failing_step"}
        sampler = self._model.new_sampler(class_name, rest)
        return FailingSampler(sampler, options["failing_step"]) if "failing_step" in options else sampler


def exact_request(number: int, *, exact: bool = True) -> Request:
    """One of `KINDS` requests that differ in everything a request can differ in."""
    draw = random.Random(f"exact {number}")
    width, height = draw.choice(SIDES_PX)
    start, end = draw.choice([(0.0, 1.0), (0.0, 1.0), (0.3, 1.0), (0.0, 0.5)])
    return make_request(
        number,
        side_px=32,
        width=width,
        height=height,
        steps=draw.randint(2, 3),
        guidance_scale=draw.choice(GUIDANCE_SCALES),
        sampler=draw.choice((*SAMPLERS, "EulerAncestralDiscreteScheduler")),
        identity_strength=draw.choice([0.0, 0.5, 0.8, 1.3]),
        identitynet_strength=draw.choice([0.0, 0.4, 0.8]),
        identitynet_start=start,
        identitynet_end=end,
        exact=exact,
    )


class Schedule:
    """An engine by hand, and the digests of what its requests came to."""

    def __init__(self, model: Any) -> None:  # noqa: ANN401
        self.latents: dict[str, NDArray[np.float32]] = {}
        runner = Runner(model, exact_rows=EXACT_ROWS, observe=self._observe)
        self.by_hand = ByHand(runner, engines.scheduler())
        self.futures: dict[str, Future[Picture]] = {}

    def _observe(self, request_id: str, _: int, latents: NDArray[np.float32]) -> None:
        self.latents[request_id] = latents.copy()

    def join(self, request: Request) -> None:
        """Hand a request in."""
        self.futures[request.id] = self.by_hand.engine.submit(request)

    def finish(self) -> None:
        """Run until everybody is done."""
        self.by_hand.finish(list(self.futures.values()))

    def digest(self, request_id: str) -> str:
        """SHA-256 of a request's last latents and its pixels."""
        pixels = self.futures[request_id].result(0).pixels
        return hashlib.sha256(self.latents[request_id].tobytes() + pixels.tobytes()).hexdigest()


@functools.cache
def alone(number: int, *, exact: bool = True) -> str:
    """Digest of a request that has the engine for itself."""
    schedule = Schedule(engines.serving_model())
    schedule.join(exact_request(number, exact=exact))
    schedule.finish()
    return schedule.digest(f"r{number}")


def run_schedule(seed: int, *, exact: bool = True) -> tuple[Schedule, list[int], Counter[str]]:
    """Join, cancel and fail at random moments. Returns those that should end well, and what happened how often."""
    draw = random.Random(f"schedule {seed}")
    schedule = Schedule(FaultyModel(engines.serving_model()))
    numbers = draw.sample(range(KINDS), draw.randint(2, 3))
    canceled = set(numbers[:1]) if draw.random() < 0.4 else set()  # noqa: PLR2004 - a share
    events = Counter(joins=len(numbers), cancels=len(canceled))
    for number in numbers:
        schedule.join(exact_request(number, exact=exact))
        if (neighbour := _neighbour(draw, schedule, number)) is not None:
            events[f"neighbours: {neighbour}"] += 1
        for _ in range(draw.randint(0, 2)):
            schedule.by_hand.engine.tick()
        for other in canceled if draw.random() < 0.5 else ():  # noqa: PLR2004
            schedule.by_hand.engine.cancel(f"r{other}")
    for number in canceled:
        schedule.by_hand.engine.cancel(f"r{number}")
    schedule.finish()
    return schedule, [number for number in numbers if number not in canceled], events


def _neighbour(draw: random.Random, schedule: Schedule, number: int) -> str | None:
    """Now and then let someone else join who brings trouble or is of the ordinary tier; says who."""
    kind = draw.choice(["failing sampler", "not finite", "ordinary tier", *[None] * 6])
    changes: dict[str, Any] = {
        "failing sampler": {"sampler_options": {"failing_step": draw.randint(0, 1)}},
        "not finite": {"embedding": np.full(512, np.inf, np.float32)},
        "ordinary tier": {"exact": False},
    }.get(kind or "", {})
    if changes:
        schedule.join(dataclasses.replace(exact_request(number), id=f"{kind} {number}", **changes))
    return kind


def measure(run: Run) -> None:
    """Both parts."""
    run.parameter("fixed rows", full=EXACT_ROWS, quick=EXACT_ROWS)
    _bits(run)
    _cost(run)


def _bits(run: Run) -> None:
    count = run.parameter("schedules", full=1000, quick=4)
    control = _control(run.parameter("control: schedules", full=30, quick=1))
    compared, different = 0, []
    happened: Counter[str] = Counter()
    for seed in range(count):
        schedule, well, events = run_schedule(seed)
        happened += events
        for number in well:
            compared += 1
            if schedule.digest(f"r{number}") != alone(number):
                different.append([seed, number])
        if (seed + 1) % 100 == 0:
            print(f"  {seed + 1} schedules, {len(different)} differences", file=sys.stderr, flush=True)
    run.attach("different (schedule, request)", different)
    run.value("control: requests of the default tier whose bits differ", control, "requests")
    run.attach("what happened, how often", dict(happened))
    run.value("schedules", count, "schedules")
    run.value("requests compared", compared, "requests")
    run.value("requests whose bits differ", len(different), "requests")
    run.require("requests whose bits differ", at_most=0, claim=f"of {count} random schedules: requests with other bits")


def _control(schedules: int) -> int:
    """Count the same differences in the default tier, which promises none: the comparison has to see some."""
    different = 0
    for seed in range(schedules):
        schedule, well, _ = run_schedule(seed, exact=False)
        different += sum(schedule.digest(f"r{number}") != alone(number, exact=False) for number in well)
    return different


def _cost(run: Run) -> None:
    repetitions = run.parameter("repetitions", full=5, quick=1)
    step_counts = run.parameter("step counts", full=(2, 4, 6, 8), quick=(2, 2))
    requests = mixed(step_counts, 32, windows=True)[: 6 if run.quick else None]
    for _, name in run.interleaved(("exact", "default"), repetitions):
        mine = [dataclasses.replace(r, exact=name == "exact") for r in requests]
        by_hand = ByHand(Runner(engines.miniature_model(), exact_rows=EXACT_ROWS), engines.scheduler(EXACT_ROWS))
        with Stopwatch() as watch:
            by_hand.run(mine)
        run.record(f"{name} row-steps per CPU second", row_steps(mine) / watch.cpu_s, "row-steps/CPU s")
        run.record(f"{name} row-steps/s", row_steps(mine) / watch.wall_s, "row-steps/s")
        run.record(f"{name} steps", len(by_hand.reports), "steps")
    run.ratio("exact / default", "exact row-steps per CPU second", "default row-steps per CPU second")
    run.require(
        "exact / default", at_least=0.97, claim=f"saturated, cap {EXACT_ROWS} rows: throughput of the exact tier"
    )
    run.note(ONE_THREAD)
    metrics = ["exact row-steps per CPU second", "default row-steps per CPU second"]
    title = f"saturated mixed traffic, {EXACT_ROWS} rows"
    run.draw(lambda figure: plots.spread(figure, run, metrics, title, labels=["fixed bucket", "default"]))


if __name__ == "__main__":
    sys.exit(main("G6", MEASURED, measure))
