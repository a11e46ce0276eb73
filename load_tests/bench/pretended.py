"""Stages that only take their time: for what is measured around them."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncGenerator

import numpy as np

from instantid_serve.messages import GenerationSpec, PictureStats, Progress, Request, StoredImage
from instantid_serve.service.generation import Finished, Subject

_ROWS = 2


@dataclasses.dataclass(frozen=True, slots=True)
class PretendedStages:
    """Every denoising step, every analysis and every upload takes ``step_s`` seconds, however many run at once."""

    step_s: float

    async def analyze(self, photos: tuple[str, ...], spec: GenerationSpec) -> Subject:  # noqa: ARG002
        """Find nobody, and say who it is."""
        await asyncio.sleep(self.step_s)
        return Subject(np.ones(512, np.float32), np.zeros((5, 2), np.float32))

    async def generate(self, request: Request) -> AsyncGenerator[Progress | Finished]:
        """Count the steps."""
        for step in range(1, request.steps + 1):
            await asyncio.sleep(self.step_s)
            yield Progress(step, request.steps, _ROWS)
        denoise_s = request.steps * self.step_s
        yield Finished(request.id, PictureStats(0.0, 0.0, denoise_s, 0.0, request.steps, 2.0, _ROWS))

    async def publish(self, finished: Finished, key: str, spec: GenerationSpec, seed: int) -> StoredImage:  # noqa: ARG002
        """Store nothing."""
        await asyncio.sleep(self.step_s)
        return StoredImage(key, f"image/{spec.output_format}", 1, "0" * 64, spec.width, spec.height, seed)
