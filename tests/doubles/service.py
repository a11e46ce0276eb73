"""Doubles for the service room: a clock moved by hand, specs, and claims made short."""

from __future__ import annotations

import dataclasses
from typing import Any

import sqlalchemy as sa

from instantid_serve.messages import GenerationSpec, StoredImage
from instantid_serve.service.fairness import Room
from instantid_serve.service.ids import new_id
from instantid_serve.service.job import Claim, Job, NewJob
from instantid_serve.service.job_queue import JobQueue
from instantid_serve.service.jobs import Jobs
from instantid_serve.service.tenants import Tenants
from instantid_serve.settings import TenancySettings

LEASE_S = 30.0
_FIELDS = {field.name for field in dataclasses.fields(NewJob)}


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


def new_job(tenant: str = "alice", **changes: Any) -> NewJob:
    """A job to be accepted; ``changes`` are fields of NewJob or of its spec."""
    own = {name: changes.pop(name) for name in _FIELDS & changes.keys()}
    job_id = own.pop("id", None) or new_id("gen")
    return NewJob(job_id, own.pop("spec", None) or spec(**changes), (f"{tenant}/{job_id}/photo",), **own)


def add(jobs: Jobs, tenant: str = "alice", **changes: Any) -> Job:
    """Accept one job of a tenant that is there if need be."""
    known = Tenants(jobs._database, TenancySettings(), jobs._clock).ensure(tenant)
    return jobs.accept(known, [new_job(tenant, **changes)]).jobs[0]


def claim_one(queue: JobQueue, worker: str = "w1") -> Claim:
    """The one job that waits."""
    [claim] = queue.claim(worker, Room(100), LEASE_S)
    return claim


def image(seed: int = 7) -> StoredImage:
    return StoredImage("alice/gen_x/1/0.png", "image/png", 10, "0" * 64, 64, 64, seed, {"denoise_s": 0.5})
