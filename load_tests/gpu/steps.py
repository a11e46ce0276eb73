"""How long a step takes, by picture size and rows: eager, recorded, in another layout, compiled, in eight bits."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import torch
from bench import Bench, advance, prepared
from measure import Section, free_memory, middle, repeated

from instantid_serve.engine.runner import Runner
from instantid_serve.engine.step_times import ENOUGH, StepTimes
from instantid_serve.models.acceleration import Acceleration, accelerate

_WARM, _SAMPLES, _ENOUGH_S = 2, 7, 0.6
_GUESS_S_PER_ROW = {"eager": 0.08}  # before anything is known: several times what is expected at the largest size
_COMPILE_S = 90.0  # guessed for the first shape; later ones are guessed from those before


def eager(bench: Bench, section: Section) -> None:
    """As diffusers' modules are, launch by launch."""
    _sweep(bench, section, "eager", bench.runner(), _all_shapes(bench))


def graphed(bench: Bench, section: Section) -> None:
    """Each forward pass recorded once as a CUDA graph. Its runner is kept for the sections that serve pictures."""
    bench.kept["graphed"] = bench.runner(graphs=True)
    _sweep(bench, section, "graphed", bench.kept["graphed"], _all_shapes(bench))


def channels_last(bench: Bench, section: Section) -> None:
    """The layout that tensor cores convolve in; from here on the model stays in it."""
    bench.kept.clear()
    free_memory()
    accelerate(bench.parts, Acceleration(channels_last=True))
    _sweep(bench, section, "channels_last", bench.runner(), _few_shapes(bench))
    _sweep(bench, section, "channels_last graphed", bench.runner(graphs=True), _few_shapes(bench))


def compiled(bench: Bench, section: Section) -> None:
    """Compiled for one shape after the other, eager and recorded; from here on the model stays compiled."""
    bench.kept.clear()
    free_memory()
    torch._dynamo.config.automatic_dynamic_shapes = False  # noqa: SLF001 - each shape at its best, as graphs need it
    accelerate(bench.parts, Acceleration(channels_last=True, compiler="inductor" if bench.cuda else "eager"))
    launched, recorded = bench.runner(), bench.runner(graphs=True)
    bench.kept["compiled graphed"] = recorded
    guess_s = _COMPILE_S if bench.cuda else 0.0
    for side, rows in _few_shapes(bench):
        if not section.fits(1.3 * guess_s, f"compiling {rows} rows at {side}"):
            continue
        graphs, began_s = _compiled_graphs(), time.perf_counter()
        advance(launched, prepared(launched, side, rows, steps=5))
        guess_s = time.perf_counter() - began_s
        regions = _compiled_graphs() - graphs
        section.add(mode="compile", side=side, rows=rows, dynamic=False, regions=regions, seconds=round(guess_s, 1))
        _sweep(bench, section, "compiled", launched, [(side, rows)])
        _sweep(bench, section, "compiled graphed", recorded, [(side, rows)])


def fp8(bench: Bench, section: Section) -> None:
    """The large linear layers in eight bits, on top of whatever the model has become by now."""
    bench.kept.clear()
    free_memory()
    accelerate(bench.parts, Acceleration(fp8_linears=True))
    _sweep(bench, section, "fp8", bench.runner(), _few_shapes(bench)[:2])
    _sweep(bench, section, "fp8 graphed", bench.runner(graphs=True), _few_shapes(bench)[:2])


def knee(bench: Bench, section: Section) -> None:
    """From all that was measured: the smallest batch that brings nearly the best rows per second."""
    for mode, times in bench.times.items():
        for side in (bench.large, bench.small, bench.middle):
            known = [rows for rows in bench.rows if times.estimate_s(bench.key(side), rows) is not None]
            measured = max(known, default=0)
            speeds = {rows: round(rows / (times.estimate_s(bench.key(side), rows) or 1.0), 2) for rows in known}
            section.add(mode=mode, side=side, rows_per_s=speeds, knee=times.knee(bench.key(side), measured))


def _all_shapes(bench: Bench) -> list[tuple[int, int]]:
    return [(side, rows) for side in (bench.large, bench.small, bench.middle) for rows in bench.rows]


def _few_shapes(bench: Bench) -> list[tuple[int, int]]:
    """The shapes that compiling is worth its time for, the most important first."""
    if not bench.full:
        return [(bench.small, bench.most_rows)]
    return [(1024, 16), (512, 32), (1024, 2), (512, 2), (1024, 8), (512, 16)]


def _sweep(bench: Bench, section: Section, mode: str, runner: Runner, shapes: Sequence[tuple[int, int]]) -> None:
    """Measure each shape; one that does not fit into memory ends the larger ones of its size."""
    times = bench.times.setdefault(mode, StepTimes())
    too_large: dict[int, int] = {}
    for side, rows in shapes:
        if rows > too_large.get(side, rows):
            section.skipped(f"{mode}: {rows} rows at {side}", f"{too_large[side]} rows do not fit into memory")
            continue
        guess_s = _guess_s(bench, side, rows)
        if not section.fits(guess_s * (_WARM + ENOUGH + 4), f"{mode}: {rows} rows at {side}"):
            continue
        try:
            row = _measured(bench, runner, side, rows)
        except torch.OutOfMemoryError as error:
            too_large[side] = rows
            section.add(mode=mode, side=side, rows=rows, out_of_memory=str(error)[:200])
            free_memory()
            continue
        for sample in row["samples_s"]:
            times.record(bench.key(side), rows, sample)
        section.add(mode=mode, side=side, rows=rows, **row)
        print(f"{mode:22} {side:5} {rows:3} rows {1e3 * row['step_s']:9.2f} ms {row.get('tflop_s', '')}", flush=True)


def _measured(bench: Bench, runner: Runner, side: int, rows: int) -> dict[str, Any]:
    states = prepared(runner, side, rows, steps=100)
    if bench.cuda:
        torch.cuda.reset_peak_memory_stats(bench.device)
    began_s = time.perf_counter()
    advance(runner, states)
    first_s = time.perf_counter() - began_s
    advance(runner, states, _WARM)
    began_s = time.perf_counter()
    advance(runner, states)
    calls = 1 if time.perf_counter() - began_s > _ENOUGH_S / 2 else 3  # short ones run ahead of the device as in life
    samples = repeated(
        lambda: advance(runner, states, calls),
        least=ENOUGH,
        most=_SAMPLES if bench.full else ENOUGH,
        most_s=_ENOUGH_S,
        calls=calls,
    )
    step_s = middle(samples)
    peak = torch.cuda.max_memory_allocated(bench.device) if bench.cuda else 0
    rate = bench.rate(side, rows, step_s)
    return {"step_s": step_s, **rate, "first_step_s": first_s, "peak_bytes": peak, "samples_s": samples}


def _guess_s(bench: Bench, side: int, rows: int) -> float:
    known = [t for times in bench.times.values() if (t := times.estimate_s(bench.key(side), rows)) is not None]
    if known:
        return max(known)
    return _GUESS_S_PER_ROW["eager"] * rows * (side / 1024) ** 2 if bench.full else 0.0


def _compiled_graphs() -> int:
    from torch._dynamo.utils import counters  # noqa: PLC0415 - only where something is compiled

    return int(counters["stats"]["unique_graphs"])
