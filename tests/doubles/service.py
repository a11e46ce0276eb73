"""Doubles for the service room: a clock moved by hand, specs, and claims made short."""

from __future__ import annotations

import dataclasses
from typing import Any

import sqlalchemy as sa

from instantid_serve.messages import GenerationSpec, StoredImage
from instantid_serve.service.jobs import Job, Jobs, new_job_id

LEASE_S = 30.0


@dataclasses.dataclass
class HandClock:
    """Stands in for the database's time. Seconds since the epoch."""

    now: float = 1_000_000.0

    def __call__(self) -> sa.ColumnElement[float]:
        return sa.literal(self.now, sa.Double)

    def pass_lease(self) -> None:
        self.now += LEASE_S + 1


def spec(**changes: Any) -> GenerationSpec:
    return GenerationSpec(**{"prompt": "a portrait", "seed": 7, "width": 64, "height": 64, "steps": 10} | changes)


def add(jobs: Jobs, tenant: str = "alice", **changes: Any) -> Job:
    job_id = new_job_id()
    return jobs.insert(tenant, spec(**changes), f"{tenant}/{job_id}/photo", job_id)


def image(seed: int = 7) -> StoredImage:
    return StoredImage("alice/gen_x/1/0.png", "image/png", 10, "0" * 64, 64, 64, seed, {"denoise_s": 0.5})
