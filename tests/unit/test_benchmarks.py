"""Every benchmark still runs: its quick mode, which claims nothing."""

import importlib
import json

import pytest

from load_tests.bench import harness

# Those of `make bench` that need no Ray: seconds in all.
NAMES = ("g2_concurrency", "g3_mix", "g4_admission", "g5_overload", "g6_exact", "g8_cancels")


@pytest.fixture
def miniature_here(miniature_folder, monkeypatch):
    """Spare the benchmarks a second miniature of their own."""
    from load_tests.bench import engines

    monkeypatch.setattr(engines, "miniature_folder", lambda: miniature_folder)


@pytest.mark.parametrize("name", [*NAMES, "webhook_outage"])
@pytest.mark.usefixtures("miniature_here")
def test_quick_mode_writes_a_result_that_claims_nothing(name, tmp_path, request):
    if name == "webhook_outage":
        request.getfixturevalue("postgres")  # skipped, or failed, where it is not installed
    module = importlib.import_module(f"load_tests.bench.{name}")

    harness.main("G0", module.MEASURED, module.measure, ["--quick", "--out", str(tmp_path), "--date", "2026-01-01"])

    document = json.loads((tmp_path / "2026-01-01-g0.json").read_text())
    assert document["quick"]
    assert document["samples"]
    assert [t["met"] for t in document["thresholds"]] == [None] * len(document["thresholds"])


def test_repetitions_alternate_the_order():
    run = harness.Run(quick=True)

    assert [name for _, name in run.interleaved(("a", "b"), 3)] == ["a", "b", "b", "a", "a", "b"]


def test_a_ratio_is_formed_repetition_by_repetition():
    run = harness.Run(quick=False)
    for ours, theirs in ((6.0, 2.0), (8.0, 4.0), (9.0, 3.0)):
        run.record("ours", ours, "1/s")
        run.record("theirs", theirs, "1/s")

    run.ratio("ratio", "ours", "theirs")

    assert run.samples["ratio"] == [3.0, 2.0, 3.0]


@pytest.mark.parametrize(("bound", "met"), [(2.9, True), (3.1, False)])
def test_a_threshold_is_held_against_the_median(bound, met):
    run = harness.Run(quick=False)
    for value in (1.0, 3.0, 9.0):
        run.record("metric", value, "x")

    run.require("metric", at_least=bound, claim="it is large")

    assert run.thresholds[0].met is met


def test_a_threshold_can_be_held_against_every_sample():
    run = harness.Run(quick=False)
    for value in (1.0, 1.0, 9.0):
        run.record("metric", value, "x")

    run.require("metric", at_most=2.0, every=True, claim="it is always small")

    assert run.thresholds[0].met is False


@pytest.mark.parametrize(("percent", "wanted"), [(50, 2.0), (99, 4.0), (100, 4.0), (1, 1.0)])
def test_a_percentile_is_a_value_that_was_measured(percent, wanted):
    assert harness.percentile([4.0, 1.0, 3.0, 2.0], percent) == wanted
