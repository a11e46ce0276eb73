"""Runs schemathesis, positive and negative data, on every operation of a real API."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import httpx2
from corpus.world import populate
from doubles.api_process import KEYS, ApiProcess, api_process, settings_in

HOOKS = "corpus.fuzz_hooks"
# A stream ends when its generation has; of those that are fuzzed here, none ever does.
STREAM = "/v1/generations/{job_id}/events"
# What the document cannot say, so that what it allows may be refused: which cursors, addresses and keys of
# idempotency are known, and that a parameter is refused for what another one is.
NOT_HELD = "positive_data_acceptance"
TIMEOUT_S = 3600


@dataclasses.dataclass(frozen=True)
class Fuzzed:
    """What came of it. ``cases``: requests that were made up and sent; ``operations``: how many were tried;
    ``answers``: how many there were, by method, route and status, as the service counted them.
    """

    passed: bool
    cases: int
    operations: int
    api_runs: bool
    api_log: str
    output: str
    answers: Mapping[tuple[str, str, int], int]


def fuzz(folder: Path, *, examples: int, seed: int) -> Fuzzed:
    """Start an API in the folder, and give every operation so many examples in each phase."""
    settings = settings_in(folder)
    with api_process(folder, settings, {}) as api:
        names = populate(api, settings) | _tenants(api)
        names["own_job"] = names["finished_job"]  # it has a picture
        told = subprocess.run(
            _command(api, examples, seed),
            cwd=folder,  # schemathesis keeps notes where it runs
            env={**os.environ, "SCHEMATHESIS_HOOKS": HOOKS, "FUZZ_NAMES": json.dumps(names), "PYTHONPATH": _path()},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
        return Fuzzed(
            passed=told.returncode == 0,
            cases=_number(r"(\d+) generated", told.stdout),
            operations=_number(r"Tested: (\d+)", told.stdout),
            api_runs=api.runs(),
            api_log=api.log.read_text(),
            output=told.stdout,
            answers=_answers(httpx2.get(f"{api.url}/metrics", trust_env=False).text),
        )


def _tenants(api: ApiProcess) -> dict[str, str]:
    """A tenant to look at, and one that may be changed."""
    headers = {"Authorization": f"Bearer {KEYS['acme']}"}
    made = httpx2.post(f"{api.url}/v1/admin/tenants", json={"id": "spare"}, headers=headers, trust_env=False)
    made.raise_for_status()
    return {"own_tenant": "acme", "spare_tenant": "spare"}


def _command(api: ApiProcess, examples: int, seed: int) -> list[str]:
    program = str(Path(sys.executable).with_name("schemathesis"))
    options = {
        "--header": f"Authorization: Bearer {KEYS['acme']}",
        "--exclude-path": STREAM,
        "--exclude-checks": NOT_HELD,
        "--max-examples": str(examples),
        "--seed": str(seed),
        "--phases": "examples,coverage,fuzzing,stateful",
        "--mode": "all",
        "--suppress-health-check": "all",
        "--warnings": "off",
    }
    flags = ["--continue-on-failure", "--no-color"]
    return [program, "run", f"{api.url}/openapi.json", *flags, *(part for pair in options.items() for part in pair)]


def _answers(metrics: str) -> dict[tuple[str, str, int], int]:
    line = re.compile(r'request_duration_seconds_count\{method="(.+?)",route="(.+?)",status="(\d+)"\} (\d+)')
    return {(method, route, int(status)): int(count) for method, route, status, count in line.findall(metrics)}


def _path() -> str:
    root = Path(__file__).parents[2]
    return os.pathsep.join([str(root), str(root / "tests")])


def _number(pattern: str, text: str) -> int:
    found = re.search(pattern, text)
    return int(found[1]) if found else 0
