"""The GPU's benchmark runs from end to end, in small and on the CPU, with no more than the packages it names."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# Installed here, and not on a bare machine with a GPU: importing any of them fails in the run below.
ABSENT = ["accelerate", "alembic", "boto3", "fastapi", "insightface", "onnxruntime", "pydantic_settings", "ray"]
ABSENT += ["prometheus_client", "sqlalchemy", "typer"]
START = """
import runpy, sys
sys.modules.update(dict.fromkeys({absent!r}))
sys.argv[1:] = ["--smoke", "--out", {out!r}]
sys.path.insert(0, {folder!r})
runpy.run_path({folder!r} + "/run.py", run_name="__main__")
"""
SECTIONS = {
    "build",
    "steps_eager",
    "steps_graphed",
    "pictures",
    "host",
    "bits_permuted",
    "bits_schedules",
    "parity",
    "decoding",
    "waiting_samplers",
    "steps_channels_last",
    "steps_compiled",
    "pictures_compiled",
    "knee",
}


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    out = tmp_path_factory.mktemp("gpu") / "results.json"
    start = START.format(absent=ABSENT, out=str(out), folder=str(ROOT / "load_tests" / "gpu"))

    done = subprocess.run(
        [sys.executable, "-c", start], cwd=ROOT, capture_output=True, text=True, check=False, timeout=280
    )

    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(out.read_text())


def test_every_section_is_done(results):
    statuses = {name: values["status"] for name, values in results["sections"].items()}

    assert statuses == dict.fromkeys(SECTIONS, "done")


def test_every_section_measured_something_or_says_why_not(results):
    for name, values in results["sections"].items():
        assert values["data"] or values["skipped"], name


def test_the_surroundings_are_told(results):
    assert set(results) >= {"goal", "date", "hardware", "versions", "commit", "budget_s", "wall_s"}


def test_nothing_is_imported_that_a_bare_machine_lacks(results):
    assert not set(results["imported"]) & set(ABSENT)


def test_the_engine_draws_what_plain_diffusers_draws(results):
    (parity,) = results["sections"]["parity"]["data"]

    assert parity["finite"]
    assert parity["engine_in_company_from_plain"] < 1e-4


def test_no_schedule_changes_a_bit_of_the_fixed_bucket_tier(results):
    for row in results["sections"]["bits_schedules"]["data"]:
        assert row["different"] == 0
        assert row["distinct"] > 1


def test_a_budget_that_is_spent_is_told(tmp_path):
    out = tmp_path / "results.json"

    subprocess.run(
        [sys.executable, "load_tests/gpu/run.py", "--smoke", "--budget-s", "0", "--out", str(out)],
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        check=False,
        capture_output=True,
        timeout=120,
    )

    sections = json.loads(out.read_text())["sections"]
    assert {values["status"] for values in sections.values()} == {"skipped"}
    assert "s are left" in sections["pictures"]["skipped"][0]["why"]
