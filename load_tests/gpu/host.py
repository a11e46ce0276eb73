"""What a step costs the host, how many launches it makes, and which samplers make it wait for the device."""

from __future__ import annotations

import time
import warnings
from collections import Counter
from typing import Any

import torch
from bench import Bench, advance, prepared, request
from measure import Section, middle, synchronize

from instantid_serve.engine.runner import Runner, State
from instantid_serve.samplers import CLASS_NAMES

_REPEATS = 12
_SYNC_WARNING = "called a synchronizing CUDA operation"


def cost(bench: Bench, section: Section) -> None:
    """At 2 rows and at the most: host time until a step is queued, device time, and launches."""
    modes = [("eager", bench.runner()), ("graphed", bench.kept.get("graphed") or bench.runner(graphs=True))]
    modes.append(("no networks", Runner(_Hollow(bench.model), max_rows=bench.most_rows)))
    for mode, runner in modes:
        for rows in (2, bench.most_rows):
            states = prepared(runner, bench.small, rows, steps=100)
            advance(runner, states, 3)
            queued, device = _timed(bench, runner, states)
            section.add(
                mode=mode,
                side=bench.small,
                rows=rows,
                host_s=middle(queued),
                device_s=middle(device) if device else None,
                **_launches(bench, runner, states),
                host_samples_s=queued,
                device_samples_s=device,
            )
            print(f"{mode:12} {rows:3} rows: host {1e3 * middle(queued):.2f} ms", flush=True)


def waiting_samplers(bench: Bench, section: Section) -> None:
    """Operations of one step that make the host wait for the device, by sampler; nothing to see on a CPU."""
    if not bench.cuda:
        section.skipped("all of it", "there is no device to wait for")
        return
    runner = Runner(_Hollow(bench.model), max_rows=2)
    for sampler in sorted(CLASS_NAMES):
        state = runner.prepare(request("one", bench.small, steps=8, sampler=sampler))
        advance(runner, [state], 4)
        torch.cuda.set_sync_debug_mode("warn")
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                runner.step([state])
        finally:
            torch.cuda.set_sync_debug_mode("default")
        section.add(sampler=sampler, waits=sum(_SYNC_WARNING in str(warning.message) for warning in caught))


class _Hollow:
    """The model with networks that do nothing: what remains of a step is gathering, samplers and bookkeeping."""

    def __init__(self, model: Any) -> None:  # noqa: ANN401 - any model
        self._model = model

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever the model has
        return getattr(self._model, name)

    def identitynet(self, *_: object) -> list[torch.Tensor]:
        return []

    def unet(self, latents: torch.Tensor, *_: object, **__: object) -> torch.Tensor:
        return latents.clone()


def _timed(bench: Bench, runner: Runner, states: list[State]) -> tuple[list[float], list[float]]:
    """Seconds until a step is queued on an idle device, and seconds the device then took."""
    queued, device = [], []
    for _ in range(_REPEATS):
        synchronize(bench.device)
        ends = [torch.cuda.Event(enable_timing=True) for _ in range(2)] if bench.cuda else []
        if ends:
            ends[0].record()
        began_s = time.perf_counter()
        runner.step(states)
        queued.append(time.perf_counter() - began_s)
        if ends:
            ends[1].record()
            synchronize(bench.device)
            device.append(ends[0].elapsed_time(ends[1]) / 1e3)
    return queued, device


def _launches(bench: Bench, runner: Runner, states: list[State]) -> dict[str, Any]:
    activities = [torch.profiler.ProfilerActivity.CPU]
    if bench.cuda:
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=activities) as profile:
        advance(runner, states)
    kinds: Counter[str] = Counter()
    for event in profile.events():
        if event.device_type == torch.autograd.DeviceType.CUDA:
            kinds["on the device"] += 1
        elif event.name.startswith(("cudaLaunch", "cuLaunch", "cudaGraphLaunch", "cudaMemcpy", "cudaMemset")):
            kinds[event.name] += 1
        elif event.name.startswith("aten::"):
            kinds["aten operations"] += 1
    return {"launches": dict(kinds)}
