"""One way to run a benchmark: side by side, interleaved, with every raw sample kept.

A benchmark is a function of a `Run`, in a module of this folder that is started with ``python -m``::

    def measure(run: Run) -> None:
        repetitions = run.parameter("repetitions", full=5, quick=1)  # the value for this mode, noted in the JSON
        for _, name in run.interleaved(("ours", "B0"), repetitions):  # ours B0, B0 ours, ours B0, ...
            with Stopwatch() as watch:
                pictures = make_pictures(name)
            run.record(f"{name} pictures/s", pictures / watch.wall_s, "pictures/s")
            run.record(f"{name} CPU seconds", watch.cpu_s, "s")
        run.ratio("ours / B0", "ours pictures/s", "B0 pictures/s")  # pair by pair, one per repetition
        run.require("ours / B0", at_least=3.0, claim="8 at once make at least 3x the pictures per second of B0")
        run.note("Why a number is what it is.")
        run.draw(lambda figure: plots.spread(figure, run, ["ours pictures/s", "B0 pictures/s"]))

    if __name__ == "__main__":
        sys.exit(main("G2", "What was measured, in one sentence.", measure))

`require` compares the metric's median; with ``every=True`` all its samples have to hold. `value` records a number that
has no repetitions. `attach` keeps JSON-able raw data beside the samples. In quick mode nothing is claimed: `require`
records the threshold with ``"met": null``.

Options: ``--quick`` (tiny sizes, seconds), ``--out FOLDER`` (default ``load_tests/results``), ``--date YYYY-MM-DD``.
A run writes ``<date>-<goal>.json`` and, when `draw` was called, ``<date>-<goal>.png`` beside it.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime as dt
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median, quantiles
from typing import Any, Self, TypeVar

import matplotlib as mpl
import torch
from matplotlib.figure import Figure

from load_tests.bench import surroundings

RESULTS = Path(__file__).parents[1] / "results"
DPI = 80
ONE_THREAD = (
    "Everything measured runs on one thread, so rates are by that thread's CPU time: what else runs on the machine "
    "then hardly counts. Rates by the clock are in the samples."
)

Draw = Callable[[Figure], None]
T = TypeVar("T")


class Stopwatch:
    """Wall and CPU seconds of a ``with`` block; CPU time is that of all threads of this process."""

    wall_s = cpu_s = 0.0

    def __enter__(self) -> Self:
        self._wall_s, self._cpu_s = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        self.wall_s, self.cpu_s = time.perf_counter() - self._wall_s, time.process_time() - self._cpu_s


@dataclasses.dataclass(frozen=True, slots=True)
class Threshold:
    """One claim of a goal, and whether it was met; ``met`` is None where nothing is claimed (quick mode)."""

    claim: str
    metric: str
    relation: str
    bound: float
    met: bool | None


class Run:
    """What one run of a benchmark collects."""

    def __init__(self, *, quick: bool) -> None:
        self.quick = quick
        self.parameters: dict[str, Any] = {}
        self.samples: dict[str, list[float]] = {}
        self.units: dict[str, str] = {}
        self.thresholds: list[Threshold] = []
        self.notes: list[str] = []
        self.raw: dict[str, Any] = {}
        self._draw: tuple[Draw, float, float] | None = None

    def parameter(self, name: str, *, full: T, quick: T) -> T:
        """Return the value for this run's mode, and keep it for the JSON."""
        value = quick if self.quick else full
        self.parameters[name] = value
        return value

    def interleaved(self, names: Sequence[str], repetitions: int) -> Iterator[tuple[int, str]]:
        """Yield repetition and name, in alternating order, so that drift of the machine falls on all alike."""
        for repetition in range(repetitions):
            order = names if repetition % 2 == 0 else list(reversed(names))
            for name in order:
                print(f"  repetition {repetition + 1}/{repetitions}: {name}", file=sys.stderr, flush=True)
                yield repetition, name

    def record(self, metric: str, value: float, unit: str) -> None:
        """Add one raw sample of a metric."""
        self.samples.setdefault(metric, []).append(float(value))
        self.units[metric] = unit

    def value(self, metric: str, value: float, unit: str) -> None:
        """Record a number that has no repetitions (a count, a percentile over all)."""
        self.samples[metric], self.units[metric] = [float(value)], unit

    def ratio(self, metric: str, over: str, under: str) -> None:
        """Record ``over / under`` pair by pair: samples of one repetition were taken side by side."""
        for a, b in zip(self.samples[over], self.samples[under], strict=True):
            self.record(metric, a / b, "x")

    def median(self, metric: str) -> float:
        """Return the median of a metric's samples."""
        return median(self.samples[metric])

    def require(
        self,
        metric: str,
        *,
        claim: str,
        at_least: float | None = None,
        at_most: float | None = None,
        every: bool = False,
    ) -> None:
        """Compare a metric with the goal's bound: exactly one of ``at_least`` and ``at_most``."""
        bound = at_least if at_least is not None else at_most
        if bound is None or (at_least is not None and at_most is not None):
            raise ValueError("give one of at_least and at_most")
        values = self.samples[metric] if every else [self.median(metric)]
        held = all(v >= bound if at_least is not None else v <= bound for v in values)
        relation = ">=" if at_least is not None else "<="
        self.thresholds.append(Threshold(claim, metric, relation, bound, None if self.quick else held))

    def note(self, text: str) -> None:
        """Add a sentence a reader of the numbers has to know."""
        self.notes.append(text)

    def attach(self, name: str, data: Any) -> None:  # noqa: ANN401 - whatever JSON can hold
        """Keep raw data beside the samples."""
        self.raw[name] = data

    def draw(self, draw: Draw, *, width_in: float = 7.0, height_in: float = 3.5) -> None:
        """Let ``draw`` fill the run's one figure when the run is over."""
        self._draw = draw, width_in, height_in

    def save_plot(self, path: Path) -> bool:
        """Write the plot as PNG; False when the run drew none."""
        if self._draw is None:
            return False
        draw, width_in, height_in = self._draw
        with mpl.rc_context({"font.size": 8.0, "axes.spines.top": False, "axes.spines.right": False}):
            figure = Figure(figsize=(width_in, height_in), layout="constrained")
            draw(figure)
            figure.savefig(path, dpi=DPI, metadata={"Software": None})
        return True


def spread(values: Sequence[float]) -> dict[str, float]:
    """Return count, minimum, quartiles and maximum."""
    q1, q2, q3 = quantiles(values, n=4, method="inclusive") if len(values) > 1 else [values[0]] * 3
    return {"n": len(values), "min": min(values), "q1": q1, "median": q2, "q3": q3, "max": max(values)}


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the smallest value that at least ``percent`` % of the values do not exceed."""
    ordered = sorted(values)
    rank = -(-len(ordered) * percent // 100)  # rounded up
    return ordered[max(0, min(len(ordered) - 1, int(rank) - 1))]


def main(goal: str, measured: str, measure: Callable[[Run], None], argv: Sequence[str] | None = None) -> int:
    """Run one benchmark and write its JSON and plot. Returns 0 also when a threshold was not met: the table says so."""
    arguments = _arguments(measured, argv)
    torch.set_num_threads(1)  # one thread for everybody: what is compared is the work, not who gets more cores
    run = Run(quick=arguments.quick)
    began = dt.datetime.now(dt.UTC)
    print(f"{goal}: {measured}", file=sys.stderr)
    with Stopwatch() as watch:
        measure(run)
    document = _document(goal, measured, run, began, watch.wall_s)
    arguments.out.mkdir(parents=True, exist_ok=True)
    stem = arguments.out / f"{arguments.date or began.date().isoformat()}-{goal.lower()}"
    if run.save_plot(stem.with_suffix(".png")):
        document["plot"] = stem.with_suffix(".png").name
    stem.with_suffix(".json").write_text(json.dumps(document, indent=1) + "\n")
    _tell(document)
    return 0


def _arguments(measured: str, argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=measured)
    parser.add_argument("--quick", action="store_true", help="tiny sizes and no claims: does it still run?")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for the JSON and the plot")
    parser.add_argument("--date", help="YYYY-MM-DD in the files' names (default: today, UTC)")
    return parser.parse_args(argv)


def _document(goal: str, measured: str, run: Run, began: dt.datetime, wall_s: float) -> dict[str, Any]:
    module = sys.modules["__main__"].__spec__
    return {
        "goal": goal,
        "measured": measured,
        "command": f"python -m {module.name}" + (" --quick" if run.quick else "") if module else None,
        "date": began.isoformat(timespec="seconds"),
        "wall_s": round(wall_s, 1),
        "quick": run.quick,
        "hardware": surroundings.hardware(),
        "versions": surroundings.versions(),
        "commit": surroundings.commit(),
        "parameters": run.parameters,
        "thresholds": [dataclasses.asdict(t) for t in run.thresholds],
        "summary": {m: {"unit": run.units[m], **_rounded(spread(v))} for m, v in run.samples.items()},
        "notes": run.notes,
        "samples": {m: [_significant(v) for v in values] for m, values in run.samples.items()},
        "raw": run.raw,
    }


def _rounded(summary: dict[str, float]) -> dict[str, float]:
    return {name: _significant(value) for name, value in summary.items()}


def _significant(value: float) -> float:
    """Six digits: more would only be noise."""
    return value if isinstance(value, int) else float(f"{value:.6g}")


def _tell(document: dict[str, Any]) -> None:
    for metric, s in document["summary"].items():
        print(f"  {metric}: {s['median']:.4g} {s['unit']} [{s['min']:.4g} .. {s['max']:.4g}], n={s['n']}")
    words = {True: "met", False: "NOT MET", None: "not claimed (quick)"}
    for threshold in document["thresholds"]:
        print(f"  {threshold['claim']}: {threshold['relation']} {threshold['bound']:g}: {words[threshold['met']]}")
