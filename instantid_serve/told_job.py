"""A job as the API tells it, for those who asked for it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal, Self

from instantid_serve.errors import CanceledError, DeadlineError, GenerationFailedError, InstantIDError
from instantid_serve.problems import rebuild_error


@dataclasses.dataclass(frozen=True, slots=True)
class JobImage:
    """One picture of a job: its seed, and seconds and batch rows of how it was made."""

    index: int
    url: str
    seed: int
    stats: Mapping[str, float]


@dataclasses.dataclass(frozen=True, slots=True)
class Job:
    """A job as the service last told it. ``step`` of ``steps`` are denoising steps summed over its pictures."""

    id: str
    status: Literal["queued", "running", "succeeded", "failed", "canceled", "expired"]
    done: bool
    step: int
    steps: int
    images: tuple[JobImage, ...]
    error: Mapping[str, Any] | None
    timings: Mapping[str, float]

    @property
    def failure(self) -> InstantIDError | None:
        """Why a job that is done has no pictures, as the error it stands for; None when it has, or is not done."""
        if not self.done or self.status == "succeeded":
            return None
        if self.error:
            return rebuild_error(self.error)
        if self.status == "canceled":
            return CanceledError("the job was canceled", {"job": self.id})
        if self.status == "expired":
            return DeadlineError("the job's deadline passed before it was done", {"job": self.id})
        return GenerationFailedError("the job failed", {"job": self.id})

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> Self:
        """The job that the API's JSON tells of. Unknown members are ignored: the API may grow."""
        progress = body.get("progress") or {}
        images = tuple(
            JobImage(image["index"], image["url"], image["seed"], dict(image.get("stats") or {}))
            for image in body.get("images") or ()
        )
        return cls(
            id=body["id"],
            status=body["status"],
            done=body["done"],
            step=progress.get("step", 0),
            steps=progress.get("steps", 0),
            images=images,
            error=body.get("error"),
            timings=dict(body.get("timings") or {}),
        )
