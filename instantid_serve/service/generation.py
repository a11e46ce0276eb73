"""From a job to the engine's requests, and what the dispatcher needs of the stages that carry them out."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import AsyncIterator, Mapping
from typing import Any, Protocol

from instantid_serve import samplers
from instantid_serve.messages import Checkpoint, GenerationSpec, PictureStats, Progress, Request, StoredImage

if typing.TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from instantid_serve.service.job import Job


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Subject:
    """The person to picture. Biometric data: it lives in memory for the life of the job, and is never logged.

    ``embedding``: (512,) float32, raw. ``landmarks``: (5, 2) float32, pixels of the picture (not of the photo).
    """

    embedding: NDArray[np.float32] = dataclasses.field(repr=False)
    landmarks: NDArray[np.float32] = dataclasses.field(repr=False)


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Finished:
    """The last message of a generation: a reference to the pixels, opaque to the dispatcher, and how they were made.

    ``made_with``: the generator's model, weights, device and library versions, as JSON values.
    """

    pixels: Any = dataclasses.field(repr=False)
    stats: PictureStats
    precision: str = ""
    made_with: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Interrupted:
    """The last message of a generator that is being stopped: the request goes on from here in another.

    ``checkpoint`` is None when it took no step there; then it goes on from where it came.
    """

    checkpoint: Checkpoint | None = dataclasses.field(repr=False)


class Stages(Protocol):
    """The parts that do the work, wherever they run.

    Each raises CallerError (the job fails with it), StoppedError, UnavailableError (a part died or cannot be reached:
    the job is tried again), or another ServiceError (the job fails).
    """

    async def analyze(self, photos: tuple[str, ...], spec: GenerationSpec) -> Subject:
        """Find the spec's face in the stored photos: the first one places it, all of them say who it is."""

    def generate(self, request: Request) -> AsyncIterator[Progress | Finished]:
        """Denoise one picture: any number of Progress, then one Finished. Closing it early stops the work."""

    async def publish(self, finished: Finished, key: str, spec: GenerationSpec, seed: int) -> StoredImage:
        """Encode a picture and store it under the key. Done twice, it stores once."""


def requests_for(job: Job, subject: Subject, deadline_s: float | None = None) -> list[Request]:
    """The engine's requests for a job: one per picture, picture i with seed + i and the id ``<job id>.<i>``.

    ``deadline_s``: on the clock of whoever holds the requests (``time.monotonic``).
    """
    spec = job.spec
    sampler, options = samplers.resolve(spec.sampler)
    return [
        Request(
            id=f"{job.id}.{index}",
            prompt=spec.prompt,
            negative_prompt=spec.negative_prompt,
            seed=spec.seed + index,
            width=spec.width,
            height=spec.height,
            embedding=subject.embedding,
            landmarks=subject.landmarks,
            steps=spec.steps,
            guidance_scale=spec.guidance_scale,
            sampler=sampler,
            sampler_options=options,
            identity_strength=spec.identity_strength,
            identitynet_strength=spec.identitynet_strength,
            identitynet_start=spec.identitynet_start,
            identitynet_end=spec.identitynet_end,
            exact=spec.exact,
            scope=job.tenant,
            deadline_s=deadline_s,
        )
        for index in range(spec.count)
    ]


def provenance(job: Job, sampler: str, made_with: Mapping[str, Any]) -> dict[str, Any]:
    """What made the pictures, for the record: with the job's parameters, all that is needed to make them again."""
    _, options = samplers.resolve(job.spec.sampler)
    return {**made_with, "sampler": {"name": job.spec.sampler, "class": sampler, "options": dict(options)}}
