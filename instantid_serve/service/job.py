"""What a job is: its states, its row as a value, and what claims and heartbeats say of it."""

from __future__ import annotations

import base64
import dataclasses
import enum
import secrets
import time
import uuid
from collections.abc import Mapping
from typing import Any

from instantid_serve.messages import GenerationSpec, StoredImage


class JobStatus(enum.StrEnum):
    """Where a job is in its life. The last four are terminal: they never change."""

    QUEUED = "queued"  # accepted, waiting for a worker
    RUNNING = "running"  # a worker holds its lease
    SUCCEEDED = "succeeded"  # every picture is published
    FAILED = "failed"  # its error says why
    CANCELED = "canceled"  # its tenant said so
    EXPIRED = "expired"  # its deadline passed

    @property
    def terminal(self) -> bool:
        """Whether the job has ended."""
        return self not in {JobStatus.QUEUED, JobStatus.RUNNING}


@dataclasses.dataclass(frozen=True, slots=True)
class Job:
    """A job's row. Times are seconds since the epoch on the database's clock; ``timings`` are seconds per stage.

    ``step`` of ``steps`` denoising steps are done, summed over the pictures. ``error`` is an error's ``to_json``.
    """

    id: str
    tenant: str
    status: JobStatus
    spec: GenerationSpec = dataclasses.field(repr=False)
    photo_key: str
    attempts: int
    fence: int
    created_at: float
    updated_at: float
    started_at: float | None
    finished_at: float | None
    step: int
    steps: int
    images: tuple[StoredImage, ...]
    error: Mapping[str, Any] | None
    cancel_requested: bool
    timings: Mapping[str, float]


@dataclasses.dataclass(frozen=True, slots=True)
class Claim:
    """A job that a worker holds, and the fence it must name."""

    job: Job
    fence: int


@dataclasses.dataclass(frozen=True, slots=True)
class Beat:
    """What a heartbeat says of one claimed job: it is alive, and ``step`` of ``steps`` are done."""

    id: str
    fence: int
    step: int
    steps: int


@dataclasses.dataclass(frozen=True, slots=True)
class Pulse:
    """What a heartbeat learns, as pairs (job id, fence): claims whose cancel is requested, and claims that are lost."""

    canceled: frozenset[tuple[str, int]]
    lost: frozenset[tuple[str, int]]


def new_job_id() -> str:
    """A new id: ``gen_`` and a UUIDv7 in lowercase base32hex (26 characters), so ids sort by the time they were made.

    RFC 9562, 5.7, with 12 bits of sub-millisecond time in rand_a (method 3 of 6.2).
    """
    nanoseconds = time.time_ns()
    milliseconds, rest = divmod(nanoseconds, 1_000_000)
    value = milliseconds << 80 | 0x7 << 76 | (rest << 12) // 1_000_000 << 64 | 0b10 << 62 | secrets.randbits(62)
    return "gen_" + base64.b32hexencode(uuid.UUID(int=value).bytes).decode().rstrip("=").lower()
