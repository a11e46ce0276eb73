"""An engine over the model folder the settings name."""

from __future__ import annotations

from collections.abc import Callable

import torch

from instantid_serve.engine.loop import Engine
from instantid_serve.engine.request import StepReport
from instantid_serve.engine.runner import Runner
from instantid_serve.engine.scheduler import Scheduler
from instantid_serve.models.instantid import InstantIDModel
from instantid_serve.settings import Settings


def open_engine(settings: Settings, on_step: Callable[[StepReport], None]) -> Engine:
    """Load a model folder that was checked, and build the engine, which is not started yet."""
    torch.set_num_threads(settings.model.threads)
    model = InstantIDModel.load(settings.model.folder, device=settings.model.device, dtype=settings.model.dtype)
    return Engine(
        Runner(model),
        Scheduler(max_batch_rows=settings.engine.max_batch_rows, ageing_s=settings.engine.ageing_s),
        max_resident_requests=settings.engine.max_resident_requests,
        on_step=on_step,
    )
