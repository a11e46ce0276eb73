"""Schemathesis over the whole API for longer than CI has: ``python load_tests/fuzz.py --examples 100``.

It starts the HTTP application in a process of its own, over SQLite and a folder, and ends with 1 if a check fails.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[1] / "tests")]

from corpus.fuzz import fuzz  # noqa: E402 - found on the path above


def main() -> int:
    """Fuzz, tell what came of it, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--examples", type=int, default=100, help="of each operation, in each phase")
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        fuzzed = fuzz(Path(folder), examples=asked.examples, seed=asked.seed)
    print(fuzzed.output)
    print(f"{fuzzed.cases} cases on {fuzzed.operations} operations; the API {'runs' if fuzzed.api_runs else 'ENDED'}")
    print(fuzzed.api_log[-4000:])
    return 0 if fuzzed.passed and fuzzed.api_runs and "Traceback" not in fuzzed.api_log else 1


if __name__ == "__main__":
    sys.exit(main())
