"""An engine over the model folder the settings name, with the step times of this kind of device."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import platform
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from instantid_serve import sizing
from instantid_serve.engine.calibration import calibrate, rehearse
from instantid_serve.engine.loop import Engine
from instantid_serve.engine.request import StepReport
from instantid_serve.engine.runner import Runner
from instantid_serve.engine.scheduler import Scheduler
from instantid_serve.engine.step_times import StepTimes
from instantid_serve.models.acceleration import Acceleration
from instantid_serve.models.instantid import InstantIDModel
from instantid_serve.settings import Settings

log = logging.getLogger(__name__)

_MEMORY_SHARE = 0.8  # of what the largest batch leaves free: fragments, larger pictures and other libraries need some


# Python lets a thread that computes in Python keep the interpreter for 5 ms, a tenth of a step: time that the device
# thread waits when a request is prepared beside it. At 1 ms a newcomer's wait fell by half and no step took longer.
_SWITCH_S = 0.001


def open_engine(settings: Settings, on_step: Callable[[StepReport], None]) -> Engine:
    """Load a model folder that was checked, and build the engine, which is not started yet."""
    torch.set_num_threads(settings.model.threads)
    sys.setswitchinterval(_SWITCH_S)
    limits = settings.engine
    model = InstantIDModel.load(
        settings.model.folder,
        device=settings.model.device,
        dtype=settings.model.dtype,
        cache_bytes=limits.cache_bytes,
        face_age_s=settings.faces.remembered_s,
        acceleration=Acceleration(
            channels_last=limits.channels_last,
            compiler="inductor" if limits.compile else None,
            fp8_linears=limits.fp8_linears,
        ),
    )
    runner = Runner(
        model,
        max_rows=limits.max_batch_rows,
        exact_rows=limits.exact_rows,
        graphs=limits.cuda_graphs and _is_cuda(model),
    )
    times, max_rows = _step_times(settings, model, runner)
    return Engine(
        runner,
        Scheduler(max_batch_rows=max_rows, ageing_s=limits.ageing_s, step_times=times),
        max_resident_requests=limits.max_resident_requests,
        state_bytes=limits.state_bytes or _state_bytes(model.device, runner),
        decode_together=limits.decode_together,
        on_step=on_step,
    )


def _step_times(settings: Settings, model: InstantIDModel, runner: Runner) -> tuple[StepTimes, int]:
    """The step times of the default picture size, and the rows that fit: remembered, or measured now."""
    limits = settings.engine
    if not limits.calibrate:
        return StepTimes(), limits.max_batch_rows
    width, height = sizing.default_size((1, 1), settings.limits.native_side)
    path = limits.calibration_folder / f"{_kind(settings, model)}.json"
    if remembered := _read(path):
        if _is_cuda(model):
            rehearse(runner, width, height, remembered[1])
        return remembered
    times = StepTimes()
    max_rows = calibrate(runner, times, width, height, limits.max_batch_rows)
    _write(path, times, max_rows)
    return times, max_rows


def _kind(settings: Settings, model: InstantIDModel) -> str:
    """A name for everything that a step's time depends on: the weights, the device, and how they are used."""
    manifest = settings.model.folder / "manifest.json"
    limits = settings.engine
    facts = [
        hashlib.sha256(manifest.read_bytes()).hexdigest() if manifest.is_file() else str(settings.model.folder),
        torch.cuda.get_device_name(model.device) if _is_cuda(model) else f"{platform.processor()} {os.cpu_count()}",
        [torch.__version__, settings.model.dtype, settings.model.threads, settings.limits.native_side],
        [limits.max_batch_rows, limits.channels_last, limits.compile, limits.cuda_graphs, limits.fp8_linears],
    ]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]


def _read(path: Path) -> tuple[StepTimes, int] | None:
    try:
        values = json.loads(path.read_text())
        return StepTimes.from_json(values["steps"]), int(values["max_rows"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:  # measured again, and written anew
        log.warning("the step times in %s cannot be used: %s", path, type(error).__name__)
        return None


def _write(path: Path, times: StepTimes, max_rows: int) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        staging = path.with_suffix(f".{os.getpid()}")
        staging.write_text(json.dumps({"max_rows": max_rows, "steps": times.to_json()}) + "\n")
        staging.replace(path)
    except OSError as error:  # a read-only folder costs the next start a few seconds, no more
        log.warning("the step times cannot be kept in %s: %s", path, error)


def _is_cuda(model: InstantIDModel) -> bool:
    return model.device.type == "cuda"


def _state_bytes(device: torch.device, runner: Runner) -> float:
    """What requests may hold: most of what the largest batch leaves of a GPU's memory, a quarter of a host's."""
    if device.type == "cuda":
        free_bytes = torch.cuda.mem_get_info(device)[0]
        return max(_MEMORY_SHARE * free_bytes - runner.reserve_bytes, 0.2 * free_bytes)
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 4
