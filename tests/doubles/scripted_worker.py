"""A worker that does to jobs what a test says, through the queue that dispatchers use, and makes no pictures."""

from __future__ import annotations

import dataclasses
import hashlib
from typing import Any

from instantid_serve.messages import StoredImage
from instantid_serve.service.fairness import Room
from instantid_serve.service.job import Beat, Claim
from instantid_serve.service.job_queue import JobQueue
from instantid_serve.service.results import ResultStore, image_key

LEASE_S = 60.0


@dataclasses.dataclass
class ScriptedWorker:
    """Holds one claim at a time."""

    queue: JobQueue
    store: ResultStore
    claim: Claim | None = None

    def take(self) -> str:
        """Claim the oldest queued job, and return its id."""
        (self.claim,) = self.queue.claim("scripted", Room(1, oversized=True), LEASE_S)
        return self.claim.job.id

    def step(self, step: int) -> None:
        """Say that so many steps are done."""
        self.queue.heartbeat([Beat(*self._held, step, self.claim.job.steps)], LEASE_S)

    def hand_back(self) -> None:
        self.queue.release(*self._held)

    def fail(self, error: dict[str, Any]) -> None:
        self.queue.settle_failed(*self._held, error)

    def succeed(self, data: bytes = b"\x89PNG picture") -> None:
        job, fence = self.claim.job, self.claim.fence
        key = image_key(job.tenant, job.id, fence, 0, "png")
        self.store.put(key, data, "image/png")
        sha256 = hashlib.sha256(data).hexdigest()
        image = StoredImage(key, "image/png", len(data), sha256, 384, 512, job.spec.seed, {"denoise_s": 1.5})
        self.queue.settle_succeeded(*self._held, [image], {"generate_s": 2.0}, {"model": "none"})

    @property
    def _held(self) -> tuple[str, int]:
        return self.claim.job.id, self.claim.fence
