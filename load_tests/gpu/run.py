"""What a GPU makes of this project, in one call of under ten minutes and without a network.

    PYTHONPATH=. python load_tests/gpu/run.py [--budget-s 540] [--sections NAME,...] [--fp8] [--out FILE]

Full-size SDXL, IdentityNet and adapter with random weights: step times and their knee, whole pictures against plain
diffusers, bits in company, host time and launches, the decoder, and what compiling brings. Everything goes to
``load_tests/results/<date>-gpu-<name>.json`` while it is measured; what did not fit into the budget is named there.

The machine needs one NVIDIA GPU of 48 GB or more, Python 3.11 to 3.13, a checkout (or a copy of ``instantid_serve/``
and ``load_tests/gpu/``) and these packages with what they require: ``torch`` (its CUDA build, which brings triton),
``diffusers``, ``transformers``, ``cachetools``, ``numpy``, ``opencv-python-headless``, ``pillow`` and ``pydantic``.
Triton wants a C compiler for the sections that compile; ``torchao`` is for ``--fp8`` alone. Ray, accelerate,
insightface, ONNX Runtime, boto3, SQLAlchemy and pydantic-settings are not needed; one that is installed does no harm.
"""

from __future__ import annotations

import argparse
import datetime as dt
import functools
import importlib.util
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bits
import decoding
import diffusers
import full_size
import host
import pictures
import steps
import torch
import transformers
from bench import Bench
from measure import Report, Section, imported, synchronize

from instantid_serve.models.instantid import InstantIDModel

GOAL = "Step times, knee, pictures per second (G1, G2), bits in any company (G6) and host time (G7) on one GPU."
RESULTS = Path(__file__).parents[1] / "results"

# In order of importance: what the budget does not hold is at the end. From channels_last on the model is changed.
# With each, the fewest seconds that it is worth beginning with.
SECTIONS: dict[str, tuple[Callable[[Bench, Section], None], float]] = {
    "steps_eager": (steps.eager, 20.0),
    "steps_graphed": (steps.graphed, 20.0),
    "pictures": (pictures.against_plain, 40.0),
    "host": (host.cost, 15.0),
    "bits_permuted": (bits.permutations, 15.0),
    "bits_schedules": (bits.schedules, 30.0),
    "parity": (pictures.parity, 10.0),
    "decoding": (decoding.decode, 10.0),
    "waiting_samplers": (host.waiting_samplers, 5.0),
    "steps_channels_last": (steps.channels_last, 20.0),
    "steps_compiled": (steps.compiled, 100.0),
    "pictures_compiled": (pictures.compiled, 25.0),
    "steps_fp8": (steps.fp8, 40.0),
    "knee": (steps.knee, 0.0),
}


def main(arguments: list[str] | None = None) -> int:
    """Measure; the exit status is 0 when no section failed."""
    options = _options(arguments)
    _quiet()
    device = torch.device("cpu" if options.smoke else "cuda:0")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    else:
        torch.set_num_threads(1)  # the smoke test shares its machine: more threads would wait for each other
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "smoke"
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    path = options.out or RESULTS / f"{dt.datetime.now(dt.UTC):%Y-%m-%d}-gpu-{slug}.json"
    report = Report(path, GOAL, device, options.budget_s, smoke=options.smoke)
    wanted = [section for section in SECTIONS if section in options.sections]
    full = not options.smoke
    bench = report.run("build", 30.0 * full, lambda section: _build(section, device, full=full))
    for section_name in wanted:
        measure, needed_s = SECTIONS[section_name]
        report.run(section_name, needed_s * full, functools.partial(_on, bench, measure))
    report.values["imported"] = imported()
    report.close()
    return _tell(report, path)


def _on(bench: Bench | None, measure: Callable[[Bench, Section], None], section: Section) -> None:
    if bench is None:
        raise RuntimeError("the model was not built")
    measure(bench, section)


def _build(section: Section, device: torch.device, *, full: bool) -> Bench:
    began_s = time.perf_counter()
    dtype = torch.bfloat16 if full else torch.float32
    built = full_size.build(full_size.FULL if full else full_size.SMALL, device, dtype)
    model = InstantIDModel(built.parts, device=str(device), dtype=dtype)
    synchronize(device)
    section.add(seconds=time.perf_counter() - began_s, dtype=model.precision, parameters=built.parameters)
    small, middle, large = (512, 768, 1024) if full else (32, 48, 64)
    return Bench(
        device=device,
        dtype=dtype,
        parts=built.parts,
        model=model,
        pipeline=built.pipeline,
        full=full,
        small=small,
        middle=middle,
        large=large,
        rows=(1, 2, 4, 8, 16, 32) if full else (1, 2, 4),
        steps=30 if full else 2,
        schedules=200 if full else 4,
        window_s=10.0 if full else 0.6,
    )


def _options(arguments: list[str] | None) -> Any:  # noqa: ANN401 - argparse's namespace
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--budget-s", type=float, default=540.0, help="seconds for everything")
    parser.add_argument("--sections", default=None, help=f"some of {','.join(SECTIONS)}")
    parser.add_argument("--fp8", action="store_true", help="the large linear layers in eight bits, too; needs torchao")
    parser.add_argument("--smoke", action="store_true", help="a tiny model on the CPU: does everything run?")
    parser.add_argument("--out", type=Path, default=None, help="the JSON file")
    options = parser.parse_args(arguments)
    fp8 = {"steps_fp8"} if not (options.fp8 and importlib.util.find_spec("torchao")) else set()
    options.sections = set(options.sections.split(",")) if options.sections else set(SECTIONS) - fp8
    if unknown := options.sections - set(SECTIONS):
        parser.error(f"there is no section {', '.join(sorted(unknown))}")
    return options


def _quiet() -> None:
    for library in (diffusers.utils.logging, transformers.utils.logging):
        library.set_verbosity_error()
        library.disable_progress_bar()


def _tell(report: Report, path: Path) -> int:
    failed = 0
    for name, values in report.values["sections"].items():
        failed += values["status"] == "failed"
        skipped = f", {len(values['skipped'])} left out" if values["skipped"] else ""
        print(f"{name:22} {values['status']:8} {values['seconds']:6.1f} s{skipped}")
    print(f"{report.values['wall_s']:.0f} s in all; {path}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
