"""G3: settings that differ between requests must not split a batch."""

from __future__ import annotations

import itertools
import random
import sys
import time
from statistics import fmean

from instantid_serve.engine.runner import Runner
from instantid_serve.messages import Request
from load_tests.bench import engines, plots
from load_tests.bench.baselines_keyed import GuidanceKeyedRunner, HeadOfLineScheduler
from load_tests.bench.engines import ByHand, WatchedScheduler
from load_tests.bench.harness import ONE_THREAD, Run, Stopwatch, main
from load_tests.bench.traffic import GUIDANCE_SCALES, SAMPLERS, make_request

MEASURED = (
    "Saturated traffic (all queued at once) whose requests differ in guidance scale (one value is off), sampler, "
    "steps, strengths and IdentityNet window, beside uniform traffic of as many pictures and row-steps, and beside "
    "the same mixed requests under a guidance-keyed first-come-first-served policy in our engine (B2); one thread."
)
MORE_SAMPLERS = (*SAMPLERS, "EulerAncestralDiscreteScheduler")
WINDOWS = ((0.0, 1.0), (0.0, 0.8), (0.2, 1.0), (0.1, 0.9), (0.0, 1.0))
STRENGTHS = (0.4, 0.6, 0.8, 1.0)
ARMS = ("ours mixed", "ours mixed, IdentityNet always on", "ours uniform", "B2 mixed")


def mixed(step_counts: tuple[int, ...], side_px: int, *, windows: bool) -> list[Request]:
    """Every combination of guidance, sampler and steps once, in a random order that is always the same."""
    draw = random.Random("mixed traffic")
    combinations = list(itertools.product(GUIDANCE_SCALES, MORE_SAMPLERS, step_counts))
    draw.shuffle(combinations)
    requests = []
    for number, (guidance_scale, sampler, steps) in enumerate(combinations):
        start, end = draw.choice(WINDOWS)
        requests.append(
            make_request(
                number,
                side_px=side_px,
                guidance_scale=guidance_scale,
                sampler=sampler,
                steps=steps,
                identity_strength=draw.choice(STRENGTHS),
                identitynet_strength=draw.choice(STRENGTHS),
                identitynet_start=start if windows else 0.0,
                identitynet_end=end if windows else 1.0,
            )
        )
    return requests


def uniform(like: list[Request], side_px: int) -> list[Request]:
    """As many requests with as many row-steps in all, every one with guidance and the same number of steps."""
    steps, rest = divmod(row_steps(like), 2 * len(like))
    if rest:
        raise ValueError("these requests have no uniform counterpart")
    return [make_request(1000 + number, side_px=side_px, steps=steps) for number in range(len(like))]


def row_steps(requests: list[Request]) -> int:
    """Rows times steps, over all requests."""
    return sum(r.rows * r.steps for r in requests)


def build(arm: str) -> ByHand:
    """Return the engine of an arm."""
    model, rows = engines.miniature_model(), engines.MAX_BATCH_ROWS
    if arm.startswith("B2"):
        return ByHand(GuidanceKeyedRunner(model), WatchedScheduler(HeadOfLineScheduler(max_batch_rows=rows)))
    return ByHand(Runner(model), WatchedScheduler(engines.scheduler(rows)))


def measure(run: Run) -> None:
    """All arms, interleaved."""
    side_px = run.parameter("picture side (px)", full=32, quick=32)
    step_counts = run.parameter("step counts", full=(4, 8, 12, 16), quick=(2, 2))
    repetitions = run.parameter("repetitions", full=5, quick=1)
    run.parameter("cap (rows)", full=engines.MAX_BATCH_ROWS, quick=engines.MAX_BATCH_ROWS)
    traffic = {
        "ours mixed": mixed(step_counts, side_px, windows=True),
        "ours mixed, IdentityNet always on": mixed(step_counts, side_px, windows=False),
        "B2 mixed": mixed(step_counts, side_px, windows=True),
    }
    if run.quick:
        traffic = {arm: requests[:10] for arm, requests in traffic.items()}
    traffic["ours uniform"] = [] if run.quick else uniform(traffic["ours mixed"], side_px)
    if run.quick:
        traffic["ours uniform"] = [make_request(1000 + n, side_px=side_px, steps=2) for n in range(9)]
    run.parameters["pictures per arm"] = len(traffic["ours mixed"])
    run.parameters["row-steps per arm"] = row_steps(traffic["ours mixed"])
    build("ours uniform").run(traffic["ours uniform"][:8])  # warm-up
    for _, arm in run.interleaved(ARMS, repetitions):
        _measure_arm(run, arm, traffic[arm])
    _compare(run, traffic["ours mixed"])


def _measure_arm(run: Run, arm: str, requests: list[Request]) -> None:
    engine, began_cpu_s = build(arm), time.process_time()
    with Stopwatch() as watch:
        engine.run(requests)
    run.record(f"{arm} pictures per CPU second", len(requests) / watch.cpu_s, "pictures/CPU s")
    run.record(f"{arm} pictures/s", len(requests) / watch.wall_s, "pictures/s")
    run.record(f"{arm} steps", len(engine.reports), "steps")
    cap = engines.MAX_BATCH_ROWS
    full = list(itertools.takewhile(lambda step: step[0] >= cap, engine.scheduler.steps))
    if len(full) == len(engine.reports):  # then no step came after the last one of them
        saturated_s = watch.cpu_s
    else:
        saturated_s = engine.scheduler.steps[len(full)][2] - began_cpu_s
    rows_run = [ran for _, ran, _ in full]
    run.record(f"{arm} row-steps per CPU second", sum(rows_run) / saturated_s, "row-steps/CPU s")
    run.record(f"{arm} occupancy under backlog", fmean(rows_run) / cap if full else 0.0, "of the cap")


def _compare(run: Run, requests: list[Request]) -> None:
    cap = engines.MAX_BATCH_ROWS
    unit = "row-steps per CPU second"
    run.ratio("mixed / uniform", f"ours mixed {unit}", f"ours uniform {unit}")
    run.ratio("mixed, always on / uniform", f"ours mixed, IdentityNet always on {unit}", f"ours uniform {unit}")
    run.ratio("ours / B2", "ours mixed pictures per CPU second", "B2 mixed pictures per CPU second")
    run.ratio("ours / B2 by the clock", "ours mixed pictures/s", "B2 mixed pictures/s")
    run.require(
        "mixed, always on / uniform", at_least=0.95, claim="mixed against uniform traffic, the same work in row-steps"
    )
    run.require("mixed / uniform", at_least=0.95, claim="the same with IdentityNet windows in the mixed traffic")
    run.require("ours / B2", at_least=2.5, claim="mixed traffic: pictures per second, times B2")
    run.require(
        "ours mixed occupancy under backlog",
        at_least=0.95,
        claim="rows of a step, of the cap, while enough wait to fill it",
    )
    inside = sum(
        r.rows
        for r in requests
        for i in range(r.steps)
        if i / r.steps >= r.identitynet_start and (i + 1) / r.steps <= r.identitynet_end
    )
    run.note(
        f"Windows spare the mixed traffic {1 - inside / row_steps(requests):.0%} of IdentityNet's row-steps, so "
        "fairness in work is judged by the arm without windows: there UNet and IdentityNet run exactly as many "
        "row-steps as for the uniform traffic, and as many pictures are prepared and decoded."
    )
    run.note(ONE_THREAD)
    run.note(
        f"Under backlog: the requests that are prepared and not done bring at least {cap} rows. Row-steps per second "
        "are counted while that lasts, with all that is prepared and decoded meanwhile: how a queue runs dry says "
        "nothing of saturated traffic. Pictures per second are those of the whole run."
    )
    arms = [f"{arm} pictures per CPU second" for arm in ARMS]
    labels = [arm.replace(", IdentityNet always on", "\nwithout windows") for arm in ARMS]
    run.draw(lambda figure: plots.spread(figure, run, arms, f"saturated, cap {cap} rows, one thread", labels=labels))


if __name__ == "__main__":
    sys.exit(main("G3", MEASURED, measure))
