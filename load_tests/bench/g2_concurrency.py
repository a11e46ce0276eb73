"""G2 on a CPU: what concurrency brings where a step is mostly overhead, as it is on a GPU at 512 px."""

from __future__ import annotations

import sys

from load_tests.bench import engines, plots
from load_tests.bench.baselines import PlainDiffusers
from load_tests.bench.harness import ONE_THREAD, Run, Stopwatch, main
from load_tests.bench.traffic import make_request

MEASURED = (
    "8 concurrent requests with guidance (prompts, faces and seeds differ), prepared, denoised and decoded on one "
    "thread: our engine, which shares steps, beside the plain diffusers pipeline, one request per call (B0)."
)


def measure(run: Run) -> None:
    """Both make the same pictures, over and over."""
    side_px = run.parameter("picture side (px)", full=32, quick=32)
    steps = run.parameter("steps", full=30, quick=2)
    count = run.parameter("concurrent requests", full=8, quick=2)
    repetitions = run.parameter("repetitions", full=9, quick=2)
    requests = [make_request(number, side_px=side_px, steps=steps) for number in range(count)]
    plain = PlainDiffusers(engines.miniature_folder())
    engines.ours().run(requests)  # warm-up of both
    plain.call(requests[:1])
    for _, name in run.interleaved(("ours", "B0"), repetitions):
        engine = engines.ours()
        with Stopwatch() as watch:
            if name == "ours":
                engine.run(requests)
            else:
                for request in requests:
                    plain.call([request])
        run.record(f"{name} pictures per CPU second", count / watch.cpu_s, "pictures/CPU s")
        run.record(f"{name} pictures/s", count / watch.wall_s, "pictures/s")
    run.ratio("ours / B0", "ours pictures per CPU second", "B0 pictures per CPU second")
    run.ratio("ours / B0 by the clock", "ours pictures/s", "B0 pictures/s")
    run.require("ours / B0", at_least=3.0, claim="8 concurrent requests: pictures per second, times B0")
    run.note(ONE_THREAD)
    run.note("Prepare and decode are not shared between requests; only steps are.")
    title = f"{count} requests with guidance, {steps} steps, {side_px} px, one thread"
    run.draw(
        lambda figure: plots.spread(figure, run, ["ours pictures per CPU second", "B0 pictures per CPU second"], title)
    )


if __name__ == "__main__":
    sys.exit(main("G2", MEASURED, measure))
