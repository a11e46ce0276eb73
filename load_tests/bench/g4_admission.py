"""G4: how long a request that arrives has to wait for its first denoising step."""

from __future__ import annotations

import sys
import time
from statistics import median

from instantid_serve.engine.request import StepReport
from load_tests.bench import engines, plots
from load_tests.bench.baselines import PlainDiffusers
from load_tests.bench.harness import Run, main, percentile
from load_tests.bench.open_loop import (
    Served,
    requests_like_the_mix,
    sequential_rate_per_s,
    serve_batched,
    serve_ours,
    trace,
)

MEASURED = (
    "Seconds from a request's arrival to the start of its first denoising step, Poisson arrivals: our engine with its "
    "threads where rows are free, in times of the step that ran then; and beside "
    "static batching (B1) on the same traces at load 0.8 of B0."
)


def measure(run: Run) -> None:
    """Both parts."""
    plain = PlainDiffusers(engines.miniature_folder())
    serve_ours(
        trace(seed=99, rate_per_s=8.0, duration_s=0.2 if run.quick else 2.0, side_px=32, divided_by=8)
    )  # warm-up
    _with_free_capacity(run, plain)
    _beside_static_batching(run, plain)
    run.draw(
        lambda figure: plots.distribution(
            figure,
            {
                "free capacity, 192 px (step times)": {"ours": run.raw["free capacity, first step (step times)"]},
                "load 0.8, 32 px (s)": {name: run.raw[f"{name} load 0.8, first step (s)"] for name in ("ours", "B1")},
            },
            "wait for the first step",
            "arrival to first step, share of requests",
        )
    )


def _with_free_capacity(run: Run, plain: PlainDiffusers) -> None:
    """At 192 px prepare takes about a quarter of a step, as SDXL's does on a GPU. At 32 px it is half of one."""
    side_px = run.parameter("free capacity: picture side (px)", full=192, quick=32)
    divided_by = run.parameter("free capacity: step counts divided by", full=4, quick=8)
    duration_s = run.parameter("free capacity: trace (s)", full=11.0, quick=0.6)
    repetitions = run.parameter("free capacity: repetitions", full=5, quick=1)
    load = run.parameter("free capacity: load of B0", full=0.5, quick=0.5)
    sample = requests_like_the_mix(12 if not run.quick else 2, seed=0, side_px=side_px, divided_by=divided_by)
    rate_per_s = load * sequential_rate_per_s(plain, sample)
    waits: list[float] = []
    for repetition, _ in run.interleaved(("ours",), repetitions):
        steps: list[tuple[float, float]] = []
        arrivals = trace(
            seed=repetition, rate_per_s=rate_per_s, duration_s=duration_s, side_px=side_px, divided_by=divided_by
        )
        rows: list[int] = []

        def stepped(report: StepReport, steps: list[tuple[float, float]] = steps, rows: list[int] = rows) -> None:
            steps.append((time.monotonic() - report.seconds, report.seconds))
            rows.append(report.rows)

        served = serve_ours(arrivals, stepped)
        mine = [s.first_step_s / _step_at(s, steps) for s in served]
        run.record("free capacity: step", median([seconds for _, seconds in steps] or [1.0]) * 1000, "ms")
        run.record("free capacity: most rows in a step", max(rows, default=0), "rows")
        run.record("free capacity: first step p99", percentile(mine, 99) if mine else 0.0, "step times")
        waits += mine
    run.value("free capacity: first step p99 of all", percentile(waits, 99) if waits else 0.0, "step times")
    run.attach("free capacity, first step (step times)", [round(w, 4) for w in waits] or [1.0])
    run.require(
        "free capacity: first step p99 of all",
        at_most=1.5,
        claim="arrival to first step where rows are free, p99 in step times",
    )


def _step_at(served: Served, steps: list[tuple[float, float]]) -> float:
    """Seconds of the step that ran when the request arrived; of its own first one when none did.

    A step of eight rows takes twice as long as one of two: an average would say little of either.
    """
    for began_s, seconds in steps:
        if began_s <= served.arrived_s < began_s + seconds:
            return seconds
    first_s = served.arrived_s + served.first_step_s
    return min(steps, key=lambda step: abs(step[0] - first_s))[1]


def _beside_static_batching(run: Run, plain: PlainDiffusers) -> None:
    side_px = run.parameter("load 0.8: picture side (px)", full=32, quick=32)
    divided_by = run.parameter("load 0.8: step counts divided by", full=2, quick=16)
    duration_s = run.parameter("load 0.8: trace (s)", full=16.0, quick=0.5)
    repetitions = run.parameter("load 0.8: repetitions", full=5, quick=1)
    most = run.parameter("B1: max_batch_size (requests)", full=8, quick=8)
    sample = requests_like_the_mix(16 if not run.quick else 2, seed=0, side_px=side_px, divided_by=divided_by)
    rate_per_s = sequential_rate_per_s(plain, sample)
    run.value("B0 capacity", rate_per_s, "pictures/s")
    waits: dict[str, list[float]] = {"ours": [], "B1": []}
    for repetition, name in run.interleaved(("ours", "B1"), repetitions):
        arrivals = trace(
            seed=repetition, rate_per_s=0.8 * rate_per_s, duration_s=duration_s, side_px=side_px, divided_by=divided_by
        )
        served = serve_ours(arrivals) if name == "ours" else serve_batched(plain, arrivals, max_batch_requests=most)
        mine = [s.first_step_s for s in served] or [1.0]
        run.record(f"load 0.8: {name} first step p99", percentile(mine, 99), "s")
        waits[name] += mine
    for name, all_s in waits.items():
        run.value(f"load 0.8: {name} first step p99 of all", percentile(all_s, 99), "s")
        run.attach(f"{name} load 0.8, first step (s)", [round(w, 5) for w in all_s])
    ratio = "load 0.8: B1 / ours, p99"
    run.ratio(ratio, "load 0.8: B1 first step p99", "load 0.8: ours first step p99")
    run.ratio(
        "load 0.8: B1 / ours, p99 of all", "load 0.8: B1 first step p99 of all", "load 0.8: ours first step p99 of all"
    )
    run.require(f"{ratio} of all", at_least=50.0, claim="arrival to first step at load 0.8 of B0, p99: B1 over ours")


if __name__ == "__main__":
    sys.exit(main("G4", MEASURED, measure))
