"""Takes generations in: photos through the gate, everything decided, photos and jobs stored, all or none."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from instantid_serve import images
from instantid_serve.decoding import GuardedDecoder
from instantid_serve.errors import InstantIDError, InvalidRequestError
from instantid_serve.service.idempotency import IdempotencyKey
from instantid_serve.service.ids import new_id
from instantid_serve.service.job import NewJob
from instantid_serve.service.jobs import Accepted, Jobs
from instantid_serve.service.results import ResultStore, photo_key
from instantid_serve.service.tenants import Tenant
from instantid_serve.serving.api.job_fields import PRIORITIES
from instantid_serve.serving.api.schemas import GenerationFields, resolve
from instantid_serve.settings import Settings

log = logging.getLogger(__name__)


_MAX_BODIES = 16  # held in memory at once by one replica; further callers wait before theirs is read
_THREADS = 2  # one photo is decoded while another is stored


@dataclasses.dataclass(frozen=True, slots=True)
class Asked:
    """One generation that is asked for: its checked fields, and the photo that came with it."""

    fields: GenerationFields = dataclasses.field(repr=False)
    photo: bytes = dataclasses.field(repr=False)


@dataclasses.dataclass(frozen=True, slots=True)
class Terms:
    """What holds for all generations of a request. ``batch``: the metadata of the batch that they are."""

    key: IdempotencyKey | None = None
    deadline_s: float | None = None
    batch: Mapping[str, str] | None = None


class Intake:
    """Has threads of its own: photos that are slow to decode must not hold up those who ask for their jobs."""

    def __init__(self, settings: Settings, jobs: Jobs, store: ResultStore, decoder: GuardedDecoder) -> None:
        self._settings = settings
        self._jobs = jobs
        self._store = store
        self._decoder = decoder
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="intake")
        self.room = asyncio.Semaphore(_MAX_BODIES)  # to be held from before a body is read until it is accepted

    async def replay(self, tenant: Tenant, key: IdempotencyKey | None) -> Accepted | None:
        """What an earlier request with the key was answered, before anything is done for this one."""
        return None if key is None else await asyncio.to_thread(self._jobs.replay, tenant.id, key)

    async def accept(self, tenant: Tenant, asked: Sequence[Asked], terms: Terms) -> Accepted:
        """Return the jobs, which are never lost once this returns.

        Raises ImageError and InvalidRequestError for what cannot be done, StoreError, DatabaseError.
        """
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._accept, tenant, asked, terms)

    def _accept(self, tenant: Tenant, asked: Sequence[Asked], terms: Terms) -> Accepted:
        batch_id = None if terms.batch is None else new_id("bat")
        stored: list[str] = []
        accepted = None
        try:
            # Photos first: a job whose photo is missing could only fail, a photo without a job is merely removed.
            jobs = [self._prepare(tenant, one, terms, batch_id, stored) for one in asked]
            accepted = self._jobs.accept(tenant, jobs, terms.key, batch=terms.batch)
        finally:
            if accepted is None or accepted.replayed:
                self._remove(stored)
        return accepted

    def _prepare(
        self, tenant: Tenant, asked: Asked, terms: Terms, batch_id: str | None, stored: list[str]
    ) -> NewJob:
        fields = asked.fields
        if fields.retention_s is not None and fields.retention_s > tenant.retention_s:
            raise InvalidRequestError("retention_s may only shorten", {"retention_s": tenant.retention_s})
        images.inspect(asked.photo, max_bytes=self._settings.api.max_photo_bytes)
        upright = self._decoder.normalise(asked.photo)
        header = images.inspect(upright, max_bytes=len(upright))
        spec = resolve(fields, (header.width, header.height), self._settings.limits, self._settings.model.preset)
        job_id = new_id("gen")
        key = photo_key(tenant.id, job_id)
        stored.append(key)
        self._store.put(key, upright, images.MEDIA_TYPES["png"])
        webhook = {"url": fields.webhook_url, "events": fields.webhook_events} if fields.webhook_url else None
        return NewJob(
            job_id,
            spec,
            (key,),
            priority=PRIORITIES[fields.priority],
            deadline_s=terms.deadline_s,
            max_attempts=1 if fields.retry == "never" else None,
            retention_s=fields.retention_s,
            metadata=fields.metadata,
            webhook=webhook,
            batch_id=batch_id,
        )

    def read(self, key: str) -> bytes:
        """The bytes of a stored picture. Raises NotFoundError, StoreError."""
        return self._store.get(key)

    def ping(self) -> None:
        """Raises StoreError unless the result store can be used."""
        self._store.ping()

    def _remove(self, keys: Sequence[str]) -> None:
        for key in keys:
            try:
                self._store.delete(key)
            except InstantIDError:  # the first error is the one to answer with
                log.warning("a photo without a job stays in the result store: %s", key, exc_info=True)
