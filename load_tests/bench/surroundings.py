"""Where a benchmark ran: hardware, versions and the commit, for its JSON."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

PACKAGES = ("torch", "diffusers", "ray", "transformers", "numpy")
ROOT = Path(__file__).parents[2]


def hardware() -> dict[str, Any]:
    """CPU model, logical cores, torch threads and, where there is one, the GPU."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {"cpu": _cpu_model(), "cores": os.cpu_count(), "torch_threads": torch.get_num_threads(), "gpu": gpu}


def versions() -> dict[str, str | None]:
    """Python and the packages that do the work."""
    return {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}}


def commit() -> str:
    """Return the commit, with ``+changes`` when the program on disk differs from it (results do not count)."""
    changed = _git("status", "--porcelain", "--untracked-files=no", "--", "instantid_serve", "load_tests/bench")
    return _git("rev-parse", "HEAD") + ("+changes" if changed else "")


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False, timeout=30)  # noqa: S603, S607
    return done.stdout.strip()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
