"""What the routes work with, built once per replica."""

from __future__ import annotations

import dataclasses
from typing import Annotated

from fastapi import Depends, Request

from instantid_serve.decoding import GuardedDecoder
from instantid_serve.service.api_keys import ApiKeys
from instantid_serve.service.batches import Batches
from instantid_serve.service.database import Database
from instantid_serve.service.job_queue import JobQueue
from instantid_serve.service.jobs import Jobs
from instantid_serve.service.keyring import Keyring
from instantid_serve.service.outlook import Outlooks
from instantid_serve.service.rate_limits import RateLimits
from instantid_serve.service.results import ResultStore
from instantid_serve.service.standing import Standing
from instantid_serve.service.tenants import Tenants
from instantid_serve.serving.api.event_stream import JobEvents, Streams
from instantid_serve.serving.api.intake import Intake
from instantid_serve.serving.api.job_views import JobViews
from instantid_serve.serving.api.readiness import Readiness
from instantid_serve.serving.api.schemas import GenerationFields, fields_model
from instantid_serve.serving.api.watch import Watch
from instantid_serve.settings import Settings


@dataclasses.dataclass(frozen=True)
class ApiContext:
    """The parts one API replica is made of."""

    settings: Settings
    jobs: Jobs
    queue: JobQueue
    tenants: Tenants
    keys: ApiKeys
    keyring: Keyring
    rates: RateLimits
    standing: Standing
    intake: Intake
    store: ResultStore
    readiness: Readiness
    fields: type[GenerationFields]
    views: JobViews
    watch: Watch
    streams: Streams
    events: JobEvents
    batches: Batches


def open_context(
    settings: Settings, database: Database, store: ResultStore, decoder: GuardedDecoder, readiness: Readiness
) -> ApiContext:
    """The parts over a database whose tables are of this version."""
    tenancy = settings.tenancy
    jobs = Jobs(database)
    tenants = Tenants(database, tenancy)
    keys = ApiKeys(database)
    outlooks = Outlooks(database)
    views = JobViews(outlooks, store)
    watch = Watch(database, jobs, settings.api.poll_s)
    return ApiContext(
        settings=settings,
        jobs=jobs,
        queue=JobQueue(database),
        tenants=tenants,
        keys=keys,
        keyring=Keyring(settings.api.keys, keys, tenants, remembered_s=tenancy.key_cache_s),
        rates=RateLimits(tenancy.rate_limit_storage.get_secret_value(), timeout_s=tenancy.rate_limit_timeout_s),
        standing=Standing(database),
        intake=Intake(settings, jobs, store, decoder),
        store=store,
        readiness=readiness,
        fields=fields_model(settings.limits),
        views=views,
        watch=watch,
        streams=Streams(settings.api.max_event_streams),
        events=JobEvents(jobs, views, outlooks, watch),
        batches=Batches(database),
    )


def _context(request: Request) -> ApiContext:
    context: ApiContext = request.app.state.context
    return context


Context = Annotated[ApiContext, Depends(_context)]
