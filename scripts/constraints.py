"""Keep constraints.txt exact: every package an install of this project brings, at the version it was tested with.

    .venv/bin/python scripts/constraints.py check    exit 1 and say what differs
    .venv/bin/python scripts/constraints.py write    write what is installed now

Only the closure of the project's own requirements counts, so tools you add to your environment do not matter.
"""

from __future__ import annotations

import sys
import tomllib
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[1]
FILE = ROOT / "constraints.txt"
HEADER = "# Exact versions of everything an install brings. Written by scripts/constraints.py; see CONTRIBUTING.md.\n"
# Installed without its requirements (docs/decisions/0002).
ALONE = "insightface"
# torch names the exact versions of its CUDA parts itself.
PINNED_BY_TORCH = ("nvidia-", "cuda-", "triton")


def main(verb: str) -> int:
    pinned, wanted = _pinned(), _closure()
    if verb == "check":
        return _report(pinned, wanted)
    # What is wanted but not installed here (the other ONNX Runtime) keeps the pin it has.
    versions = {name: version or pinned[name][1] for name, (_, version) in wanted.items()}
    FILE.write_text(HEADER + "".join(f"{wanted[name][0]}=={versions[name]}\n" for name in sorted(wanted)))
    return 0


def _report(pinned: dict[str, tuple[str, str]], wanted: dict[str, tuple[str, str | None]]) -> int:
    faults = [f"{name} is not pinned" for name in wanted if name not in pinned]
    for name, (_, version) in wanted.items():
        if version and name in pinned and pinned[name][1] != version:
            faults.append(f"{name} is pinned to {pinned[name][1]}, but {version} is installed")
    for fault in sorted(faults):
        print(f"constraints.txt: {fault}")
    # Not a fault: another Python may require it.
    for name in sorted(pinned.keys() - wanted.keys()):
        print(f"constraints.txt: {name} is pinned, but nothing requires it here")
    return 1 if faults else 0


def _pinned() -> dict[str, tuple[str, str]]:
    """Canonical name -> (name as written, version)."""
    lines = [line for line in FILE.read_text().splitlines() if line and not line.startswith("#")]
    pairs = [line.split("==") for line in lines]
    return {canonicalize_name(name): (name, version) for name, version in pairs}


def _closure() -> dict[str, tuple[str, str | None]]:
    """Canonical name -> (name, installed version without its local part, or None) of all that the roots require."""
    found: dict[str, tuple[str, str | None]] = {}
    seen: set[tuple[str, frozenset[str]]] = set()
    waiting = [Requirement(ALONE), *_wanted_by_project()]
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        key = name, frozenset(requirement.extras)
        if key in seen or name.startswith(PINNED_BY_TORCH):
            continue
        seen.add(key)
        try:
            package = distribution(name)
        except PackageNotFoundError:
            found.setdefault(name, (requirement.name, None))
            continue
        found[name] = (package.metadata["Name"], Version(package.version).public)
        if name != ALONE:
            waiting += _applying(package.requires or [], requirement.extras)
    return found


def _wanted_by_project() -> list[Requirement]:
    """Of every extra, from the file: what is installed may be older."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"].values()
    return [Requirement(text) for texts in (project["dependencies"], *extras) for text in texts]


def _applying(requirements: list[str], extras: set[str]) -> list[Requirement]:
    parsed = [Requirement(text) for text in requirements]
    return [r for r in parsed if not r.marker or any(r.marker.evaluate({"extra": e}) for e in extras or {""})]


if __name__ == "__main__":
    if sys.argv[1:] not in (["check"], ["write"]):
        sys.exit(__doc__)
    sys.exit(main(sys.argv[1]))
