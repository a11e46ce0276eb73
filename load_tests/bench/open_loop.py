"""Open-loop load: requests arrive when their trace says, whatever the server does, and every policy gets one trace."""

from __future__ import annotations

import dataclasses
import random
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

from instantid_serve.engine.loop import Engine
from instantid_serve.engine.request import StepReport
from instantid_serve.engine.runner import Runner
from instantid_serve.messages import Picture, Request
from load_tests.bench import engines
from load_tests.bench.baselines import Made, PlainDiffusers, StaticBatcher
from load_tests.bench.harness import Stopwatch
from load_tests.bench.traffic import GUIDANCE_SCALES, SAMPLERS, arrivals_s, make_request

STEP_SHARES = ((8, 0.1), (20, 0.2), (30, 0.5), (50, 0.2))  # of the traffic; counts are divided to fit the time
NEGATIVE_PROMPT = "lowres, watermark"  # of all: most callers send the same, while prompts and faces are their own
RESULT_TIMEOUT_S = 300.0
SWITCH_S = 0.001  # as serving/replicas/engine.py sets it


@dataclasses.dataclass(frozen=True, slots=True)
class Arrival:
    """One request of a trace, ``at_s`` seconds from its start."""

    at_s: float
    request: Request


@dataclasses.dataclass(frozen=True, slots=True)
class Served:
    """How a request fared: when it arrived (time.monotonic), and seconds from then on."""

    steps: int
    arrived_s: float
    first_step_s: float
    latency_s: float


Submit = Callable[[Request], Future[Any]]
Fate = Callable[[Any, float, float], tuple[float, float]]


def requests_like_the_mix(count: int, *, seed: int, side_px: int, divided_by: int) -> list[Request]:
    """Draw requests from the mix; step counts are ``divided_by`` that, rounded up."""
    draw = random.Random(f"mix {seed}")
    steps, shares = zip(*STEP_SHARES, strict=True)
    return [
        make_request(
            seed * 100_000 + number,
            side_px=side_px,
            steps=-(-draw.choices(steps, shares)[0] // divided_by),
            guidance_scale=draw.choice(GUIDANCE_SCALES),
            sampler=draw.choice(SAMPLERS),
            negative_prompt=NEGATIVE_PROMPT,
        )
        for number in range(count)
    ]


def trace(*, seed: int, rate_per_s: float, duration_s: float, side_px: int, divided_by: int) -> list[Arrival]:
    """Draw a trace: Poisson arrivals of the mix."""
    times_s = list(arrivals_s(seed, rate_per_s, duration_s))
    requests = requests_like_the_mix(len(times_s), seed=seed, side_px=side_px, divided_by=divided_by)
    return [Arrival(at_s, request) for at_s, request in zip(times_s, requests, strict=True)]


def play(arrivals: Sequence[Arrival], submit: Submit) -> list[tuple[Arrival, float, float, Any]]:
    """Submit each request at its time; returns arrival, when it was submitted, when it was done, and its result."""
    began_s = time.monotonic()
    done_s: dict[str, float] = {}
    waiting = []
    for arrival in arrivals:
        time.sleep(max(0.0, began_s + arrival.at_s - time.monotonic()))
        submitted_s = time.monotonic()
        future = submit(arrival.request)
        future.add_done_callback(lambda _, id_=arrival.request.id: done_s.setdefault(id_, time.monotonic()))
        waiting.append((arrival, submitted_s, future))
    results = [(a, at_s, future.result(RESULT_TIMEOUT_S)) for a, at_s, future in waiting]
    return [(a, at_s, done_s[a.request.id], result) for a, at_s, result in results]


@contextmanager
def engine_with_threads(on_step: Callable[[StepReport], None] | None = None) -> Iterator[Engine]:
    """Our engine on the miniature as a replica runs it: one device thread, one to prepare and one to decode."""
    sys.setswitchinterval(SWITCH_S)
    engine = Engine(
        Runner(engines.serving_model()),
        engines.scheduler(),
        max_resident_requests=engines.MAX_RESIDENT_REQUESTS,
        on_step=on_step,
    )
    engine.start()
    try:
        yield engine
    finally:
        engine.close()


def serve_ours(arrivals: Sequence[Arrival], on_step: Callable[[StepReport], None] | None = None) -> list[Served]:
    """Play a trace to our engine."""
    with engine_with_threads(on_step) as engine:
        played = play(arrivals, engine.submit)
    return [_served_by_us(a, at_s, done_s, picture) for a, at_s, done_s, picture in played]


def serve_batched(plain: PlainDiffusers, arrivals: Sequence[Arrival], *, max_batch_requests: int) -> list[Served]:
    """Play a trace to the static batcher (B1), or to one request per call (B0) with ``max_batch_requests=1``."""
    batcher = StaticBatcher(plain, max_batch_requests=max_batch_requests, max_rows=engines.MAX_BATCH_ROWS)
    with batcher:
        played = play(arrivals, batcher.submit)
    return [_served_by_batcher(a, at_s, done_s, made) for a, at_s, done_s, made in played]


def _served_by_us(arrival: Arrival, submitted_s: float, done_s: float, picture: Picture) -> Served:
    stats = picture.stats
    return Served(arrival.request.steps, submitted_s, stats.waiting_s + stats.prepare_s, done_s - submitted_s)


def _served_by_batcher(arrival: Arrival, submitted_s: float, done_s: float, made: Made) -> Served:
    return Served(arrival.request.steps, submitted_s, made.first_step_s - submitted_s, done_s - submitted_s)


def sequential_rate_per_s(plain: PlainDiffusers, requests: Sequence[Request]) -> float:
    """Return how many pictures of the mix per second B0 makes, one call after the other, with a core for itself.

    By CPU time: were it measured while something else runs, all policies would get a load that is no load.
    """
    plain.call(requests[:1])  # warm-up
    with Stopwatch() as watch:
        for request in requests:
            plain.call([request])
    return len(requests) / watch.cpu_s
