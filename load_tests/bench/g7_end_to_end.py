"""G7: what a picture costs beyond its denoising steps, end to end through Ray Serve, and with a slow result store."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from statistics import fmean
from typing import Any

import numpy as np
from numpy.typing import NDArray

from instantid_serve.engine.loop import Engine
from instantid_serve.engine.runner import Runner, State
from instantid_serve.errors import NonFiniteOutputError
from instantid_serve.messages import Request
from instantid_serve.verify import InlineExecutor
from load_tests.bench import engines, plots, served
from load_tests.bench.harness import Run, main
from load_tests.bench.slow_upload import default_png
from load_tests.bench.traffic import make_request

ROWS = 8  # four requests with guidance share a step: deployments/local.yaml's
BATCH = 4
SERVED, BARE, INLINE = "ours", "bare steps", "inline"
SLOW = f"{SERVED}, slow store"


class InlineRunner(Runner):
    """Encodes and uploads on the thread that decodes."""

    upload_s = 0.5

    def finish(self, states: Sequence[State]) -> list[NDArray[np.uint8] | NonFiniteOutputError]:
        """Decode, encode, upload."""
        pictures = super().finish(states)
        for pixels in pictures:
            if not isinstance(pixels, NonFiniteOutputError):
                default_png(pixels)
            time.sleep(self.upload_s)
        return pictures


def measure(run: Run) -> None:
    """Measure both parts on one served application."""
    repetitions = run.parameter("repetitions", full=5, quick=1)
    side_px = run.parameter("side_px", full=256, quick=64)
    steps = run.parameter("steps", full=30, quick=4)
    few_steps = run.parameter("steps with a slow store", full=8, quick=4)
    few_steps_side_px = run.parameter("side_px with a slow store", full=192, quick=64)
    upload_s = run.parameter("upload_s", full=0.5, quick=0.1)
    run.parameters |= {"rows": ROWS, "pictures at once": BATCH}
    engine = {"max_batch_rows": ROWS, "max_resident_requests": 16}
    with served.application({"engine": engine}) as application:
        application.make([form(number, side_px, 1) for number in range(BATCH)])  # the photo is known from here on
        for repetition, name in run.interleaved((SERVED, BARE), repetitions):
            with served.Company() as others:
                if name == SERVED:
                    rate, step_s = through_serve(application, side_px, steps, repetition, batches=5)
                else:
                    rate = bare(side_px, steps)
                    step_s = BATCH / rate / steps
            run.record(f"{name} pictures/s", rate, "pictures/s")
            run.record(f"{name}: a step and the gap after it", step_s * 1000, "ms")
            run.record(f"{name}: other programs", others.cores, "cores")
        application.upload_takes(upload_s)
        for repetition, name in run.interleaved((SLOW, INLINE), repetitions):
            if name == SLOW:
                rate, _ = through_serve(application, few_steps_side_px, few_steps, repetition, batches=4)
            else:
                rate = inline(few_steps_side_px, few_steps, upload_s)
            run.record(f"{name} pictures/s", rate, "pictures/s")
    conclude(run)


def conclude(run: Run) -> None:
    """Compare, and draw."""
    run.ratio("end to end / bare steps", f"{SERVED} pictures/s", f"{BARE} pictures/s")
    run.ratio("of it: step and gap", f"{BARE}: a step and the gap after it", f"{SERVED}: a step and the gap after it")
    run.ratio("slow store: ours / inline", f"{SLOW} pictures/s", f"{INLINE} pictures/s")
    run.require("end to end / bare steps", at_least=0.97, claim="end to end has 0.97x of the bare steps' throughput")
    run.require("slow store: ours / inline", at_least=2.0, claim="a slow upload costs an inline loop twice as much")
    run.note(
        "Bare steps: the same engine's denoising steps alone, on full batches, in one process; no prepare, no decode."
    )
    run.note("The slow store's part has fewer steps, as few-step samplers have; the more steps, the smaller the gain.")
    names = [f"{name} pictures/s" for name in (SERVED, BARE, SLOW, INLINE)]
    run.draw(lambda figure: plots.spread(figure, run, names, "Pictures per second, saturated"))


def through_serve(
    application: served.Application, side_px: int, steps: int, repetition: int, *, batches: int
) -> tuple[float, float]:
    """Pictures per second of the full batches in the middle, and seconds of a step with the gap after it."""
    first = 1000 * (repetition + 1)
    done = application.make([form(first + n, side_px, steps) for n in range(batches * BATCH)])
    inside = done[BATCH:-BATCH]
    return middle_rate([d.at_s for d in done]), fmean(d.stats["denoise_s"] for d in inside) / steps


def middle_rate(done_s: Sequence[float]) -> float:
    """Pictures per second between the second batch and the last but one, of the batches' mean moments of completion.

    The first has nobody's steps before it and the last runs out; means, because when one picture is published says
    little of the others.
    """
    batches = [fmean(done_s[at : at + BATCH]) for at in range(0, len(done_s), BATCH)]
    return BATCH * (len(batches) - 3) / (batches[-2] - batches[1])


def form(number: int, side_px: int, steps: int) -> dict[str, Any]:
    """Return the ``number``-th job's form."""
    request = request_of(number, side_px, steps)
    names = "prompt", "negative_prompt", "seed", "width", "height", "steps", "guidance_scale"
    return {name: getattr(request, name) for name in names}


def request_of(number: int, side_px: int, steps: int) -> Request:
    """Return the ``number``-th request."""
    return make_request(number, side_px=side_px, steps=steps, guidance_scale=5.0)


def bare(side_px: int, steps: int) -> float:
    """Pictures per second of the steps alone."""
    by_hand = engines.ours(ROWS)
    by_hand.run(request_of(n, side_px, steps) for n in range(BATCH))
    full = [report.seconds for report in by_hand.reports if report.rows == ROWS]
    return BATCH / (sum(full) / len(full) * steps)


def inline(side_px: int, steps: int, upload_s: float) -> float:
    """Pictures per second of the engine when its loop also decodes, encodes and uploads."""
    runner = InlineRunner(engines.miniature_model())
    runner.upload_s = upload_s
    done_s: list[float] = []
    engine = Engine(runner, engines.scheduler(ROWS), max_resident_requests=16, decode_on=InlineExecutor())
    futures = [engine.submit(request_of(n, side_px, steps)) for n in range(4 * BATCH)]
    for future in futures:
        future.add_done_callback(lambda _: done_s.append(time.monotonic()))
    engine.start()
    for future in futures:
        future.result()
    engine.close()
    return middle_rate(done_s)


if __name__ == "__main__":
    sys.exit(main("G7", "Pictures per second end to end through Ray Serve, against the engine's steps alone.", measure))
