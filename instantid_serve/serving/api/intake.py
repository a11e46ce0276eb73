"""Takes a generation in: the photo through the gate, everything decided, photo and job stored."""

from __future__ import annotations

import asyncio
import contextvars
import logging
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from instantid_serve import images
from instantid_serve.decoding import GuardedDecoder
from instantid_serve.errors import InstantIDError
from instantid_serve.log_context import note
from instantid_serve.service.jobs import Job, Jobs, new_job_id
from instantid_serve.service.results import ResultStore, photo_key
from instantid_serve.serving.api.schemas import GenerationFields, resolve
from instantid_serve.settings import Settings

log = logging.getLogger(__name__)


_MAX_BODIES = 16  # held in memory at once by one replica; further callers wait before theirs is read
_THREADS = 2  # one photo is decoded while another is stored


class Intake:
    """Has threads of its own: photos that are slow to decode must not hold up those who ask for their jobs."""

    def __init__(self, settings: Settings, jobs: Jobs, store: ResultStore, decoder: GuardedDecoder) -> None:
        self._settings = settings
        self._jobs = jobs
        self._store = store
        self._decoder = decoder
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="intake")
        self.room = asyncio.Semaphore(_MAX_BODIES)  # to be held from before a body is read until it is accepted

    async def accept(self, tenant: str, fields: GenerationFields, photo: bytes) -> Job:
        """Return the job, which is never lost once this returns.

        Raises ImageError and InvalidRequestError for what cannot be done, StoreError, DatabaseError.
        """
        accept = partial(contextvars.copy_context().run, self._accept, tenant, fields, photo)
        return await asyncio.get_running_loop().run_in_executor(self._threads, accept)

    def _accept(self, tenant: str, fields: GenerationFields, photo: bytes) -> Job:
        images.inspect(photo, max_bytes=self._settings.api.max_photo_bytes)
        upright = self._decoder.normalise(photo)
        header = images.inspect(upright, max_bytes=len(upright))
        spec = resolve(fields, (header.width, header.height), self._settings.limits, self._settings.model.preset)
        job_id = new_job_id()
        note(job_id=job_id)
        key = photo_key(tenant, job_id)
        # The photo first: a job whose photo is missing could only fail, a photo without a job is merely removed.
        self._store.put(key, upright, images.MEDIA_TYPES["png"])
        try:
            return self._jobs.insert(tenant, spec, key, job_id)
        except BaseException:
            self._remove(key)
            raise

    def read(self, key: str) -> bytes:
        """The bytes of a stored picture. Raises NotFoundError, StoreError."""
        return self._store.get(key)

    def ping(self) -> None:
        """Raises StoreError unless the result store can be used."""
        self._store.ping()

    def _remove(self, key: str) -> None:
        try:
            self._store.delete(key)
        except InstantIDError:  # the first error is the one to answer with
            log.warning("a photo without a job stays in the result store: %s", key, exc_info=True)
