"""What a job is: its states, its row as a value, and what claims and heartbeats say of it."""

from __future__ import annotations

import dataclasses
import enum
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


class Priority(enum.IntEnum):
    """Which of a tenant's own jobs go first. It takes nothing from other tenants."""

    LOW = 0
    NORMAL = 1
    HIGH = 2


@dataclasses.dataclass(frozen=True, slots=True)
class NewJob:
    """A job to be accepted. Times are seconds; ``photos`` are keys of the result store, the first one places the face.

    ``deadline_s``: from now. ``max_attempts`` and ``retention_s``: None for the server's or the tenant's own.
    ``webhook``: ``{"url", "events"}`` of this job alone.
    """

    id: str
    spec: GenerationSpec = dataclasses.field(repr=False)
    photos: tuple[str, ...]
    priority: Priority = Priority.NORMAL
    deadline_s: float | None = None
    max_attempts: int | None = None
    retention_s: float | None = None
    metadata: Mapping[str, str] = dataclasses.field(default_factory=dict, repr=False)
    webhook: Mapping[str, Any] | None = dataclasses.field(default=None, repr=False)
    batch_id: str | None = None
    identity_id: str | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Job:
    """A job's row. Times are seconds since the epoch on the database's clock; ``timings`` are seconds per stage.

    ``step`` of ``steps`` denoising steps are done, summed over the pictures. ``error`` is an error's ``to_json``.
    """

    id: str
    tenant: str
    status: JobStatus
    spec: GenerationSpec = dataclasses.field(repr=False)
    photos: tuple[str, ...]
    priority: Priority
    virtual_finish: float
    attempts: int
    max_attempts: int | None
    fence: int
    created_at: float
    updated_at: float
    started_at: float | None
    finished_at: float | None
    deadline_at: float | None
    expires_at: float | None
    step: int
    steps: int
    images: tuple[StoredImage, ...]
    error: Mapping[str, Any] | None
    cancel_requested: bool
    timings: Mapping[str, float]
    provenance: Mapping[str, Any] | None
    metadata: Mapping[str, str] = dataclasses.field(repr=False)
    batch_id: str | None
    identity_id: str | None

    @classmethod
    def from_row(cls, row: Any) -> Job:  # noqa: ANN401 - a row of the jobs table
        """The job that a row tells of."""
        values = {field.name: getattr(row, field.name) for field in dataclasses.fields(cls)}
        values |= {
            "status": JobStatus(row.status),
            "spec": GenerationSpec.from_json(row.spec),
            "photos": tuple(row.photos or [row.photo_key]),
            "priority": Priority(row.priority),
            "images": tuple(StoredImage(**image) for image in row.images),
            "metadata": row.metadata or {},
        }
        return cls(**values)


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
class Speed:
    """How fast a worker's pictures go on: steps per second of all together, seconds per step of one."""

    pictures: int
    max_pictures: int
    steps_per_s: float
    step_s: float


@dataclasses.dataclass(frozen=True, slots=True)
class Pulse:
    """What a heartbeat learns, as pairs (job id, fence): claims whose cancel is requested, and claims that are lost."""

    canceled: frozenset[tuple[str, int]]
    lost: frozenset[tuple[str, int]]
