"""The table of load_tests/README.md says what the newest results say."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
REPORT = ROOT / "load_tests" / "report.py"


@pytest.fixture(scope="module")
def report():
    spec = importlib.util.spec_from_file_location("report", REPORT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def result(folder, date, *, median, quick=False, met=True):
    threshold = {"claim": "faster", "metric": "ratio", "relation": ">=", "bound": 3.0, "met": met}
    summary = {"ratio": {"unit": "x", "n": 5, "min": 1, "q1": 2, "median": median, "q3": 4, "max": 5}}
    document = {"goal": "G2", "quick": quick, "thresholds": [threshold], "summary": summary}
    (folder / f"{date}-g2.json").write_text(json.dumps(document))


def test_the_table_is_what_the_results_say():
    done = subprocess.run([sys.executable, REPORT, "--check"], capture_output=True, text=True, check=False, timeout=60)

    assert done.returncode == 0, done.stderr


def test_the_newest_result_of_a_goal_counts(report, tmp_path):
    result(tmp_path, "2026-01-01", median=5.0)
    result(tmp_path, "2026-02-01", median=4.5)

    assert "4.5 x [2, 4]" in report.table(tmp_path)
    assert "5 x [2, 4]" not in report.table(tmp_path).replace("4.5 x", "")


def test_quick_mode_is_no_result(report, tmp_path):
    result(tmp_path, "2026-02-01", median=4.5, quick=True)

    assert "4.5" not in report.table(tmp_path)


def test_a_threshold_that_was_missed_stays_in_the_table(report, tmp_path):
    result(tmp_path, "2026-01-01", median=2.0, met=False)

    assert "**no**" in report.table(tmp_path)


def test_only_the_table_of_the_page_changes(report, tmp_path):
    result(tmp_path, "2026-01-01", median=5.0)
    old = f"before\n{report.BEGIN}\nstale\n{report.END}\nafter\n"

    new = report.page(old, tmp_path)

    assert new.startswith("before\n")
    assert new.endswith("\nafter\n")
    assert "stale" not in new
