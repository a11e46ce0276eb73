"""G5: the tail of the latencies when more arrives than B0 could serve, and whether anybody starves."""

from __future__ import annotations

import sys

from load_tests.bench import engines, plots, starvation
from load_tests.bench.baselines import PlainDiffusers
from load_tests.bench.harness import Run, main, percentile
from load_tests.bench.open_loop import (
    Arrival,
    Served,
    requests_like_the_mix,
    sequential_rate_per_s,
    serve_batched,
    serve_ours,
    trace,
)

MEASURED = (
    "Latency (arrival to decoded picture) of mixed requests that arrive at 1.05 times B0's measured capacity: our "
    "engine with its threads, beside static batching (B1), on the same traces; and in virtual time, whether our "
    "scheduler lets anybody wait much longer than a fair share of the device would."
)
POLICIES = ("ours", "B1")


def measure(run: Run) -> None:
    """Both parts."""
    _tail(run)
    _starvation(run)


def _tail(run: Run) -> None:
    plain = PlainDiffusers(engines.miniature_folder())
    side_px = run.parameter("picture side (px)", full=32, quick=32)
    divided_by = run.parameter("step counts divided by", full=4, quick=16)
    duration_s = run.parameter("trace (s)", full=20.0, quick=0.5)
    repetitions = run.parameter("repetitions", full=5, quick=1)
    load = run.parameter("load of B0", full=1.05, quick=1.05)
    run.parameter("B1: max_batch_size (requests)", full=8, quick=8)
    serve_ours(
        trace(seed=99, rate_per_s=8.0, duration_s=0.2 if run.quick else 2.0, side_px=32, divided_by=8)
    )  # warm-up
    sample = requests_like_the_mix(30 if not run.quick else 2, seed=0, side_px=side_px, divided_by=divided_by)
    shortest = -(-8 // divided_by)
    rate_per_s = sequential_rate_per_s(plain, sample)
    run.value("B0 capacity", rate_per_s, "pictures/s")
    latencies: dict[str, list[Served]] = {name: [] for name in POLICIES}
    for repetition, name in run.interleaved(POLICIES, repetitions):
        arrivals = trace(
            seed=repetition, rate_per_s=load * rate_per_s, duration_s=duration_s, side_px=side_px, divided_by=divided_by
        )
        served = _serve(run, plain, name, arrivals)
        latencies[name] += served
        _record(run, name, served, shortest)
    for name, served in latencies.items():
        run.attach(f"{name} latency (s), steps", [[round(s.latency_s, 4), s.steps] for s in served])
    _claim(run)
    panels = {
        "all": {name: [s.latency_s for s in latencies[name]] for name in POLICIES},
        "the shortest": {name: [s.latency_s for s in latencies[name] if s.steps == shortest] for name in POLICIES},
    }
    if not run.quick:
        run.draw(
            lambda figure: plots.distribution(figure, panels, "latency (s)", f"load {load} of B0, share of requests")
        )


def _serve(run: Run, plain: PlainDiffusers, name: str, arrivals: list[Arrival]) -> list[Served]:
    if name == "ours":
        return serve_ours(arrivals)
    return serve_batched(plain, arrivals, max_batch_requests=run.parameters["B1: max_batch_size (requests)"])


def _record(run: Run, name: str, served: list[Served], shortest: int) -> None:
    all_s = [s.latency_s for s in served] or [1.0]
    short_s = [s.latency_s for s in served if s.steps == shortest] or [1.0]
    run.record(f"{name} p50", percentile(all_s, 50), "s")
    run.record(f"{name} p99", percentile(all_s, 99), "s")
    run.record(f"{name} p99 of the shortest", percentile(short_s, 99), "s")


def _claim(run: Run) -> None:
    run.ratio("p99, ours / B1", "ours p99", "B1 p99")
    run.ratio("p99 of the shortest, ours / B1", "ours p99 of the shortest", "B1 p99 of the shortest")
    run.require("p99, ours / B1", at_most=0.2, claim="p99 latency at 1.05 of B0's capacity, of B1's")
    run.require(
        "p99 of the shortest, ours / B1",
        at_most=0.1,
        claim="p99 latency of the shortest requests (8 steps among up to 50, scaled down), of B1's",
    )


def _starvation(run: Run) -> None:
    cap = engines.MAX_BATCH_ROWS
    duration_s = run.parameter("starvation: virtual seconds", full=120.0, quick=20.0)
    loads = run.parameter("starvation: loads of the short stream", full=(0.8, 0.9, 1.05), quick=(0.9,))
    for repetition in range(run.parameter("starvation: streams per load", full=3, quick=1)):
        for load in loads:
            jobs = starvation.adversarial(repetition, duration_s=duration_s, short_load=load, cap=cap)
            starvation.serve(jobs, engines.scheduler(cap), cap)
            run.record("longest wait, of the fair-share bound", max(job.over_bound for job in jobs), "x")
            run.record("longest wait, moment by moment", max(job.over_share for job in jobs), "x")
    run.require(
        "longest wait, of the fair-share bound",
        at_most=2.0,
        every=True,
        claim="nobody waits longer than twice the fair-share bound, in an adversarial stream with two resolutions",
    )
    run.note(
        "Starvation is judged in virtual time with the scheduler alone, against the bound that starvation.py defines. "
        "Moment by moment is stricter than the goal: in overload our ageing turns into first come, first served, so a "
        "short request waits for those that came long before it, which an equal share of every moment would not ask."
    )


if __name__ == "__main__":
    sys.exit(main("G5", MEASURED, measure))
