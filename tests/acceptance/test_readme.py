"""The README's commands are executed by CI from the README itself; these tests hold the two together."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts" / "readme.py"
spec = importlib.util.spec_from_file_location("readme", SCRIPT)
assert spec is not None
assert spec.loader is not None
readme = importlib.util.module_from_spec(spec)
spec.loader.exec_module(readme)

BLOCKS = readme.blocks((ROOT / "README.md").read_text())
# What CI cannot run: it has the code already, gigabytes of weights are not fetched there, and it has no GPU.
NOT_IN_CI = {"clone", "weights", "gpu"}


def run_in_ci() -> set[str]:
    return set(re.findall(r"scripts/readme\.py (\w+)", (ROOT / ".ci" / "run").read_text()))


def test_every_command_block_is_run_by_ci_or_says_why_not():
    marks = {mark for mark, _ in BLOCKS}

    assert marks == run_in_ci() | {f"no:{reason}" for reason in NOT_IN_CI}


def test_the_first_command_a_newcomer_types_makes_pictures_and_the_second_runs_the_tests():
    commands = dict(BLOCKS)

    assert commands["start"].split() == ["make", "demo"]
    assert commands["test"].split() == ["make", "test"]


def test_only_commands_are_in_the_blocks():
    for _, commands in BLOCKS:
        subprocess.run(["bash", "-n", "-c", commands], check=True)  # noqa: S607 - any bash will do


def test_an_unknown_block_is_refused():
    result = subprocess.run([sys.executable, SCRIPT, "nonsense"], capture_output=True, text=True, check=False)

    assert result.returncode == 1
    assert "no block marked ci=nonsense" in result.stderr


def test_the_blocks_of_a_page_are_found_in_order():
    page = "a\n```bash ci=one\nmake a\n```\n```python\nx\n```\n```bash no:clone\ngit clone x\n```\n"

    assert readme.blocks(page) == [("one", "make a\n"), ("no:clone", "git clone x\n")]
