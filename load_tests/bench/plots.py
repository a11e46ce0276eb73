"""The kinds of plots the benchmarks share. Every one shows all raw samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from load_tests.bench.harness import Run

COLORS = {"ours": "#1b6ca8", "B0": "#8a8a8a", "B1": "#c8553d", "B2": "#d9a441"}
OTHER = "#4a4a4a"


def color_of(name: str) -> str:
    """Return the colour of a policy, by the first word of its name."""
    return COLORS.get(name.split(maxsplit=1)[0], OTHER)


def spread(
    figure: Figure, run: Run, metrics: Sequence[str], title: str, *, labels: Sequence[str] | None = None
) -> None:
    """One panel of boxes with the raw samples as dots; all metrics are of one unit."""
    axes = figure.subplots()
    boxes = axes.boxplot([run.samples[m] for m in metrics], widths=0.4, showfliers=False, patch_artist=True)
    for at, (box, metric) in enumerate(zip(boxes["boxes"], metrics, strict=True), start=1):
        box.set(facecolor=color_of(metric), alpha=0.35)
        values = run.samples[metric]
        axes.plot([at] * len(values), values, "o", ms=3, color=color_of(metric))
        axes.annotate(f"{run.median(metric):.3g}", (at + 0.24, run.median(metric)), va="center")
    unit = run.units[metrics[0]]
    axes.set_xticks(range(1, len(metrics) + 1), labels or [m.removesuffix(f" {unit}") for m in metrics])
    axes.set_ylim(bottom=0)
    axes.set_ylabel(unit)
    axes.set_title(title, loc="left")


def distribution(figure: Figure, panels: Mapping[str, Mapping[str, Sequence[float]]], x_label: str, title: str) -> None:
    """Side by side, the share of requests (y) that needed at most x, on a logarithmic axis; the line at p99."""
    figure.suptitle(title, x=0.01, ha="left")
    for axes, (panel, curves) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        for name, values in curves.items():
            ordered = sorted(values)
            shares = [(i + 1) / len(ordered) for i in range(len(ordered))]
            axes.step(ordered, shares, where="post", label=name, color=color_of(name))
        axes.axhline(0.99, lw=0.6, ls=":", color=OTHER)
        axes.set_xscale("log")
        axes.set_xlabel(x_label)
        axes.set_title(panel)
        axes.legend(frameon=False, loc="lower right")
