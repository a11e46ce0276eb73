"""Takes a generation in: the photo through the gate, everything decided, photo and job stored."""

from __future__ import annotations

import asyncio

from instantid_serve.errors import DatabaseError
from instantid_serve.service.ids import new_id
from instantid_serve.service.job import Job, NewJob
from instantid_serve.service.jobs import Jobs
from instantid_serve.service.results import job_folder
from instantid_serve.service.tenants import Tenant
from instantid_serve.serving.api.photo_sources import PhotoSource
from instantid_serve.serving.api.photos import PhotoIntake
from instantid_serve.serving.api.schemas import GenerationFields, resolve
from instantid_serve.settings import Settings

_MAX_BODIES = 16  # held in memory at once by one replica; further callers wait before theirs is read


class Intake:
    """Accepts generations for their tenants."""

    def __init__(self, settings: Settings, jobs: Jobs, photos: PhotoIntake) -> None:
        self._settings = settings
        self._jobs = jobs
        self._photos = photos
        self.room = asyncio.Semaphore(_MAX_BODIES)  # to be held from before a body is read until it is accepted

    async def accept(self, tenant: Tenant, fields: GenerationFields, source: PhotoSource) -> Job:
        """Return the job, which is never lost once this returns.

        Raises what :meth:`PhotoIntake.photos` does, InvalidRequestError for what cannot be done, DatabaseError.
        """
        job_id = new_id("gen")
        folder = job_folder(tenant.id, job_id)
        try:
            # The photo first: a job whose photo is missing could only fail, a photo without a job is merely removed.
            stored = await self._photos.photos(tenant.id, source, folder)
            spec = resolve(fields, stored.size, self._settings.limits, self._settings.model.preset)
            new = NewJob(job_id, spec, stored.keys, identity_id=stored.identity_id)
            return (await asyncio.to_thread(self._jobs.accept, tenant, [new])).jobs[0]
        except DatabaseError:
            raise  # perhaps the job is safely stored and only the answer was lost: then it needs its photo
        except Exception:
            await self._photos.discard(folder)
            raise
