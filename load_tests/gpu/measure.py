"""A budget of seconds, sections that fail alone, and results that are on disk before anything can go wrong."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
import gc
import json
import os
import platform
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

import torch

_GRACE_S = 25.0  # beyond the budget, for what cannot be interrupted, such as a compiler
_CUT_OFF = 3  # the exit status then
T = TypeVar("T")
_VERSIONS = ("torch", "diffusers", "transformers", "triton", "torchao")


class Report:
    """What was measured. Written anew whenever something is added, so that whatever ends the process loses little."""

    def __init__(self, path: Path, goal: str, device: torch.device, budget_s: float, **facts: Any) -> None:  # noqa: ANN401
        self._path, self._began_s, self._budget_s = path, time.monotonic(), budget_s
        self._lock = threading.RLock()
        self.values: dict[str, Any] = {
            "goal": goal,
            "date": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
            "hardware": _hardware(device),
            "versions": _versions(),
            "commit": _commit(),
            "budget_s": budget_s,
            **facts,
            "sections": {},
        }
        self._watchdog = threading.Timer(budget_s + _GRACE_S, self._cut_off)
        self._watchdog.daemon = True
        self._watchdog.start()

    def left_s(self) -> float:
        """Seconds of the budget that are left."""
        return self._budget_s - (time.monotonic() - self._began_s)

    def save(self) -> None:
        """Write everything that is there now."""
        with self._lock:
            self.values["wall_s"] = round(time.monotonic() - self._began_s, 1)
            self._path.parent.mkdir(parents=True, exist_ok=True)
            staging = self._path.with_suffix(".part")
            staging.write_text(json.dumps(self.values, indent=1, default=str) + "\n")
            staging.replace(self._path)

    def close(self) -> None:
        """The last word."""
        self._watchdog.cancel()
        self.save()

    def run(self, name: str, needed_s: float, measure: Callable[[Section], T]) -> T | None:
        """Measure one section; what it raises is kept, and the next one goes on. None when it did not end well."""
        section = Section(self, name)
        self.values["sections"][name] = section.values
        began_s, result = time.monotonic(), None
        try:
            section.needs(needed_s, "the section")
            print(f"-- {name} ({self.left_s():.0f} s left)", flush=True)
            result = measure(section)
            section.values["status"] = "done"
        except NoTimeError as error:
            section.values["status"] = "skipped"
            section.skipped("the rest" if section.values["data"] else "all of it", str(error))
        except Exception as error:  # noqa: BLE001 - one failing section must not lose the others
            section.values |= {"status": "failed", "error": f"{type(error).__name__}: {error}"[:2000]}
            section.values["traceback"] = traceback.format_exc().splitlines()[-12:]
            print(f"{name} failed: {section.values['error'][:300]}", flush=True)
        section.values["seconds"] = round(time.monotonic() - began_s, 1)
        self.save()
        free_memory()
        return result

    def _cut_off(self) -> None:
        with self._lock:
            for values in self.values["sections"].values():
                if values["status"] == "running":
                    values["status"] = "cut off"
            self.save()
        print("cut off: the budget was spent inside something that cannot be interrupted", flush=True)
        os._exit(_CUT_OFF)


@dataclasses.dataclass(slots=True)
class Section:
    """One part of the run: rows of plain values, and what was left out of it, with the reason."""

    report: Report
    name: str
    values: dict[str, Any] = dataclasses.field(
        default_factory=lambda: {"status": "running", "seconds": 0.0, "skipped": [], "data": []}
    )

    def add(self, **row: Any) -> dict[str, Any]:  # noqa: ANN401 - whatever JSON can hold
        """Keep one measurement and write it down."""
        self.values["data"].append(row)
        self.report.save()
        return row

    def skipped(self, what: str, why: str) -> None:
        """Say what is not measured."""
        self.values["skipped"].append({"what": what, "why": why})

    def needs(self, seconds: float, what: str) -> None:
        """Raise NoTimeError when what comes next would not fit any more."""
        if seconds > self.report.left_s():
            raise NoTimeError(f"{what} needs about {seconds:.0f} s, and {self.report.left_s():.0f} s are left")

    def fits(self, seconds: float, what: str) -> bool:
        """Whether something still fits; when not, it is noted as skipped."""
        try:
            self.needs(seconds, what)
        except NoTimeError as error:
            self.skipped(what, str(error))
            return False
        return True


class NoTimeError(Exception):
    """What comes next does not fit into the budget."""


def synchronize(device: torch.device) -> None:
    """Wait for everything the device was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def free_memory() -> None:
    """Give back what a section leaves, so that the next one measures itself."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def repeated(run: Callable[[], None], *, least: int, most: int, most_s: float, calls: int = 1) -> list[float]:
    """Seconds per call of ``run``, which must wait for the device itself once in ``calls``; at least ``least``."""
    samples: list[float] = []
    began_s = time.perf_counter()
    while len(samples) < least or (len(samples) < most and time.perf_counter() - began_s < most_s):
        at_s = time.perf_counter()
        run()
        samples.append((time.perf_counter() - at_s) / calls)
    return samples


def middle(samples: list[float]) -> float:
    """The median, rounded for reading; raw samples are kept beside it."""
    return round(median(samples), 7)


def _hardware(device: torch.device) -> dict[str, Any]:
    facts: dict[str, Any] = {"cpu": platform.processor() or platform.machine(), "cores": os.cpu_count()}
    if device.type != "cuda":
        return facts
    properties = torch.cuda.get_device_properties(device)
    return facts | {
        "gpu": properties.name,
        "gpu_bytes": properties.total_memory,
        "compute_capability": f"{properties.major}.{properties.minor}",
        "driver": _told("nvidia-smi", "--query-gpu=driver_version,clocks.max.sm,power.limit", "--format=csv,noheader"),
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
    }


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in _VERSIONS:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def _commit() -> str | None:
    return _told("git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD")


def _told(*command: str) -> str | None:
    try:
        told = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20)  # noqa: S603 - our own
    except (OSError, subprocess.SubprocessError):
        return None
    return told.stdout.strip()


def imported() -> list[str]:
    """The top-level packages beyond the standard library that this process has imported."""
    names = {name.partition(".")[0] for name, module in sys.modules.items() if module is not None}
    return sorted(name for name in names if not name.startswith("_") and name not in sys.stdlib_module_names)
