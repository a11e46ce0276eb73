"""The benchmarks that start a Ray cluster of their own still run: their quick mode, which claims nothing."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", ["g7_end_to_end", "g8_replicas"])
def test_quick_mode_writes_a_result_that_claims_nothing(name, tmp_path):
    command = [sys.executable, "-m", f"load_tests.bench.{name}", "--quick", "--out", str(tmp_path)]

    result = subprocess.run(
        command,
        check=False,
        cwd=ROOT,
        env=os.environ | {"XDG_DATA_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=240,
    )

    assert result.returncode == 0, result.stderr[-3000:]
    (path,) = tmp_path.glob("*.json")
    document = json.loads(path.read_text())
    assert document["samples"]
    assert {threshold["met"] for threshold in document["thresholds"]} == {None}
