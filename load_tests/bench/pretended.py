"""Stages that take time and no processor: a pretended GPU, for measuring the queue and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import numpy as np

from instantid_serve.messages import GenerationSpec, PictureStats, Progress, Request, StoredImage
from instantid_serve.service.generation import Finished, Subject


class PretendedStages:
    """Every step of every picture takes ``step_s``, however many are made at once; the rest takes no time."""

    def __init__(self, step_s: float) -> None:
        self._step_s = step_s
        self._subject = Subject(np.ones(512, np.float32), np.zeros((5, 2), np.float32))

    async def analyze(self, photos: tuple[str, ...], spec: GenerationSpec) -> Subject:  # noqa: ARG002 - the protocol's
        """The same face for all."""
        return self._subject

    async def generate(self, request: Request) -> AsyncIterator[Progress | Finished]:
        """Wait as long as denoising would take."""
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        for step in range(1, request.steps + 1):
            await asyncio.sleep(began_s + step * self._step_s - loop.time())  # from the start: no delay adds up
            yield Progress(step, request.steps, 2)
        yield Finished(None, PictureStats(0.0, 0.0, request.steps * self._step_s, 0.0, request.steps, 2.0, 2))

    async def publish(self, finished: Finished, key: str, spec: GenerationSpec, seed: int) -> StoredImage:
        """A picture that nobody looks at."""
        return StoredImage(
            key, "image/png", 1, "0" * 64, spec.width, spec.height, seed, {"steps": finished.stats.steps}
        )
