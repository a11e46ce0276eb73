"""Takes generations in: photos brought in, everything decided, jobs stored, all or none."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable, Mapping, Sequence

from instantid_serve.errors import DatabaseError, InvalidRequestError
from instantid_serve.log_context import note
from instantid_serve.service.idempotency import IdempotencyKey
from instantid_serve.service.ids import new_id
from instantid_serve.service.job import NewJob
from instantid_serve.service.jobs import Accepted, Jobs
from instantid_serve.service.queue_room import QueueRoom
from instantid_serve.service.results import job_folder
from instantid_serve.service.tenants import Tenant
from instantid_serve.serving.api.job_fields import PRIORITIES, JobFields
from instantid_serve.serving.api.photo_sources import PhotoSource
from instantid_serve.serving.api.photos import PhotoIntake
from instantid_serve.serving.api.schemas import GenerationFields, resolve
from instantid_serve.settings import Settings

_MAX_BODIES = 16  # held in memory at once by one replica; further callers wait before theirs is read


@dataclasses.dataclass(frozen=True, slots=True)
class Asked:
    """One generation that is asked for: its checked fields, and where its photo is to be had."""

    fields: GenerationFields = dataclasses.field(repr=False)
    source: PhotoSource = dataclasses.field(repr=False)


@dataclasses.dataclass(frozen=True, slots=True)
class Terms:
    """How a request's generations are accepted. ``batch``: the metadata of the batch that they are."""

    key: IdempotencyKey | None = None
    deadline_s: float | None = None
    batch: Mapping[str, str] | None = None


class Intake:
    """Accepts generations for their tenants."""

    def __init__(
        self,
        settings: Settings,
        jobs: Jobs,
        queue: QueueRoom,
        photos: PhotoIntake,
        check_webhook_url: Callable[[str], None],
    ) -> None:
        self._settings = settings
        self._jobs = jobs
        self._queue = queue
        self._photos = photos
        self._check_webhook_url = check_webhook_url
        self.room = asyncio.Semaphore(_MAX_BODIES)  # to be held from before a body is read until it is accepted

    async def replay(self, tenant: Tenant, key: IdempotencyKey | None) -> Accepted | None:
        """What an earlier request with the key came to, before anything is done for this one; None without a key."""
        return None if key is None else await asyncio.to_thread(self._jobs.replay, tenant.id, key)

    async def check_room(self, tenant: Tenant, more: int = 1) -> None:
        """Refuse what the queue has no place for, before its photos cost anything. Raises as QueueRoom.check."""
        self._queue.remembered(tenant)
        await asyncio.to_thread(self._queue.check, tenant, more)

    async def accept(self, tenant: Tenant, asked: Asked, terms: Terms) -> Accepted:
        """Return the job, which is never lost once this returns.

        Raises what :meth:`PhotoIntake.photos` does, InvalidRequestError for what cannot be done, what
        :meth:`Jobs.accept` does, and DatabaseError.
        """
        await self.check_room(tenant)
        job_id = new_id("gen")
        note(job_id=job_id)
        try:
            new = await self.prepare(tenant, asked, job_id, terms)
            accepted = await self.store(tenant, [new], terms)
        except DatabaseError:
            raise  # perhaps the job is safely stored and only the answer was lost: then it needs its photo
        except Exception:
            await self.discard(tenant, [job_id])
            raise
        return accepted

    async def prepare(
        self, tenant: Tenant, asked: Asked, job_id: str, terms: Terms, batch_id: str | None = None
    ) -> NewJob:
        """The job to be, its photo stored. Raises as :meth:`accept`, and then leaves what was stored."""
        fields = asked.fields
        if fields.retention_s is not None and fields.retention_s > tenant.retention_s:
            detail = f"may only shorten what is kept for {tenant.retention_s:g} seconds"
            raise InvalidRequestError(detail, {"errors": [{"pointer": "/retention_s", "detail": detail}]})
        if fields.webhook_url is not None:
            self._check_webhook_url(fields.webhook_url)
        # The photo first: a job whose photo is missing could only fail, a photo without a job is merely removed.
        photos = await self._photos.photos(tenant.id, asked.source, job_folder(tenant.id, job_id))
        spec = resolve(fields, photos.size, self._settings.limits, self._settings.model.preset)
        return NewJob(
            job_id,
            spec,
            photos.keys,
            priority=PRIORITIES[fields.priority],
            deadline_s=terms.deadline_s,
            max_attempts=1 if fields.retry == "never" else None,
            retention_s=fields.retention_s,
            metadata=fields.metadata,
            webhook=_webhook(fields),
            batch_id=batch_id,
            identity_id=photos.identity_id,
        )

    async def store(self, tenant: Tenant, new: Sequence[NewJob], terms: Terms) -> Accepted:
        """Accept what was prepared, all or none. What an earlier request with the same key made stands instead."""
        accepted = await asyncio.to_thread(self._jobs.accept, tenant, new, terms.key, batch=terms.batch)
        if accepted.replayed:
            await self.discard(tenant, [job.id for job in new])
        return accepted

    async def discard(self, tenant: Tenant, job_ids: Sequence[str]) -> None:
        """Remove the photos of jobs that did not come to be."""
        for job_id in job_ids:
            await self._photos.discard(job_folder(tenant.id, job_id))


def _webhook(fields: JobFields) -> dict[str, object] | None:
    return None if fields.webhook_url is None else {"url": fields.webhook_url, "events": fields.webhook_events}
