"""G8: eight replicas of a timed model against one, each kept saturated by a closed loop through the stages' handles."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import itertools
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import ray
from ray import serve
from ray.serve.handle import DeploymentHandle

from instantid_serve.messages import PictureStats, Progress
from instantid_serve.serving.stages import ServeStages
from load_tests.bench import plots, timed_generator
from load_tests.bench.harness import Run, main, percentile
from load_tests.bench.traffic import make_request

REPLICAS = 8
ROWS = 8  # four requests with guidance share a step
IN_FLIGHT = 8  # per replica: four run, four wait, so that no step is ever short of rows
SIDE_PX = 512


class NoMetrics:
    """Stage metrics of a process that is not a replica."""

    def ran(self, stage: str, code: str, seconds: float) -> None:
        """Keep nothing."""

    def moved(self) -> None:
        """Keep nothing."""


@dataclasses.dataclass
class Loop:
    """A closed loop over one deployment: as soon as a picture is there, the next request goes in."""

    stages: ServeStages
    in_flight: int
    steps: int
    stepped_s: list[float] = dataclasses.field(default_factory=list)
    pictures: list[tuple[float, PictureStats]] = dataclasses.field(default_factory=list)  # seconds as the caller saw it

    async def run(self, seconds: float) -> None:
        """Keep the deployment busy for so long, then leave."""
        numbers = itertools.count()
        tasks = [asyncio.create_task(self._one_after_another(numbers)) for _ in range(self.in_flight)]
        await asyncio.sleep(seconds)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _one_after_another(self, numbers: Iterator[int]) -> None:
        for number in numbers:
            began_s, done = time.monotonic(), 0
            # Of different lengths, or requests that began together would end together for ever.
            request = make_request(number, side_px=SIDE_PX, steps=self.steps + number % 5, guidance_scale=5.0)
            async for message in self.stages.generate(request):
                now_s = time.monotonic()
                step = message.step if isinstance(message, Progress) else request.steps
                self.stepped_s += [now_s] * (step - done)
                done = step
                if not isinstance(message, Progress):
                    self.pictures.append((now_s - began_s, message.stats))

    def steps_per_s(self, settle_s: float) -> float:
        """Steps of requests per second, between two moments at which some had just ended."""
        first_s = self.stepped_s[0] + settle_s
        inside = [at for at in self.stepped_s if at >= first_s]
        return (len(inside) - inside.count(inside[0])) / (inside[-1] - inside[0])

    def overheads_s(self) -> list[float]:
        """Seconds of each picture that its engine does not account for: routing, transport, streams."""
        return [s - sum((t.waiting_s, t.prepare_s, t.denoise_s, t.decode_s)) for s, t in self.pictures]


def measure(run: Run) -> None:
    """Measure one and eight replicas in turn."""
    repetitions = run.parameter("repetitions", full=5, quick=1)
    window_s = run.parameter("window_s", full=8.0, quick=3.0)
    settle_s = run.parameter("settle_s", full=2.0, quick=0.5)
    steps = run.parameter("steps", full=8, quick=4)
    many = run.parameter("replicas", full=REPLICAS, quick=2)
    run.parameters |= {"step_s": timed_generator.STEP_S, "row_s": timed_generator.ROW_S, "rows": ROWS}
    names = {f"{count} replicas" if count > 1 else "1 replica": count for count in (1, many)}
    single, several = names
    shares: dict[str, list[float]] = {name: [] for name in names}
    with deployments(names) as handles:
        for _, name in run.interleaved(list(names), repetitions):
            loop = Loop(stages(handles[name]), IN_FLIGHT * names[name], steps)
            asyncio.run(loop.run(window_s + settle_s))
            run.record(f"{name} steps/s", loop.steps_per_s(settle_s), "steps/s")
            overheads = loop.overheads_s()
            run.record(f"{name} overhead p50", percentile(overheads, 50), "s")
            run.record(f"{name} overhead p99", percentile(overheads, 99), "s")
            shares[name] += [o / s for o, (s, _) in zip(overheads, loop.pictures, strict=True)]
    for name, values in shares.items():
        run.value(f"{name} share of a picture's latency outside the engine, p50", percentile(values, 50), "1")
    run.ratio("scaling", f"{several} steps/s", f"{single} steps/s")
    run.require("scaling", at_least=7.6, claim="8 replicas have at least 7.6x the throughput of one")
    run.note("The model only sleeps; router, handles, streams, engine and pixels are the service's own.")
    per_s = f"{single} steps/s", f"{several} steps/s"
    run.draw(lambda figure: plots.spread(figure, run, per_s, "Steps of requests per second, saturated"))


def stages(generator: DeploymentHandle) -> ServeStages:
    """The stages as the dispatcher has them, though only one of them is called."""
    return ServeStages(generator, generator, generator, NoMetrics())  # type: ignore[arg-type]


@contextlib.contextmanager
def deployments(names: dict[str, int]) -> Iterator[dict[str, DeploymentHandle]]:
    """Serve each number of replicas as an application of its own, on a Ray of this machine."""
    os.environ |= {
        "RAY_AUTH_MODE": "disabled",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_worker_niceness": "0",
        "PYTHONPATH": os.pathsep.join(filter(None, [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH")])),
    }
    with tempfile.TemporaryDirectory(prefix="iid-", dir="/tmp") as folder:
        ray.init(
            address="local",
            num_cpus=4,
            include_dashboard=False,
            object_store_memory=256 * 1024 * 1024,
            log_to_driver=False,
            _temp_dir=folder,
        )
        try:
            serve.start(proxy_location="Disabled")
            yield {name: _deployed(count) for name, count in names.items()}
        finally:
            serve.shutdown()
            ray.shutdown()


def _deployed(count: int) -> DeploymentHandle:
    deployment = serve.deployment(
        timed_generator.Generator,
        name="Generator",
        num_replicas=count,
        max_ongoing_requests=24,
        ray_actor_options={"num_cpus": 0.1},
        graceful_shutdown_wait_loop_s=0.2,
    )
    args = {"engine": {"max_batch_rows": ROWS, "max_resident_requests": 16}, "limits": {"native_side": SIDE_PX}}
    return serve.run(deployment.bind(args), name=f"replicas-{count}", route_prefix=None)


if __name__ == "__main__":
    sys.exit(main("G8-replicas", "Eight replicas of a timed model against one, through Ray Serve's handles.", measure))
