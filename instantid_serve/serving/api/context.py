"""What the routes work with, built once per replica."""

from __future__ import annotations

import dataclasses
from typing import Annotated
from urllib.parse import urlsplit

from fastapi import Depends, Request

from instantid_serve.decoding import GuardedDecoder
from instantid_serve.service.api_keys import ApiKeys
from instantid_serve.service.batches import Batches
from instantid_serve.service.courier import webhook_http
from instantid_serve.service.database import Database
from instantid_serve.service.deliveries import Deliveries
from instantid_serve.service.delivery_queue import DeliveryQueue
from instantid_serve.service.guarded_http import GuardedHttp
from instantid_serve.service.guarded_urls import UrlRules
from instantid_serve.service.identities import Identities
from instantid_serve.service.job_queue import JobQueue
from instantid_serve.service.jobs import Jobs
from instantid_serve.service.keyring import Keyring
from instantid_serve.service.outlook import Outlooks
from instantid_serve.service.queue_room import QueueRoom
from instantid_serve.service.rate_limits import RateLimits
from instantid_serve.service.results import ResultStore
from instantid_serve.service.standing import Standing
from instantid_serve.service.tenants import Tenants
from instantid_serve.service.uploads import Uploads
from instantid_serve.service.webhooks import Webhooks
from instantid_serve.serving.api.event_stream import JobEvents, Streams
from instantid_serve.serving.api.intake import Intake
from instantid_serve.serving.api.job_views import JobViews
from instantid_serve.serving.api.photos import PhotoIntake
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
    webhooks: Webhooks
    deliveries: Deliveries
    delivery_queue: DeliveryQueue
    intake: Intake
    photos: PhotoIntake
    uploads: Uploads
    identities: Identities
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
    check_webhook_url = webhook_http(settings.outbound).check
    uploads, identities = Uploads(database), Identities(database)
    photos = PhotoIntake(
        store,
        decoder,
        GuardedHttp(_url_rules(settings)),
        uploads,
        identities,
        max_bytes=settings.api.max_photo_bytes,
        fetch_timeout_s=settings.outbound.fetch_timeout_s,
    )
    return ApiContext(
        settings=settings,
        jobs=jobs,
        queue=JobQueue(database),
        tenants=tenants,
        keys=keys,
        keyring=Keyring(settings.api.keys, keys, tenants, remembered_s=tenancy.key_cache_s),
        rates=RateLimits(tenancy.rate_limit_storage.get_secret_value(), timeout_s=tenancy.rate_limit_timeout_s),
        standing=Standing(database),
        webhooks=Webhooks(database, check_webhook_url),
        deliveries=Deliveries(database),
        delivery_queue=DeliveryQueue(database),
        intake=Intake(settings, jobs, QueueRoom(database, settings.api.max_queued_jobs), photos, check_webhook_url),
        photos=photos,
        uploads=uploads,
        identities=identities,
        store=store,
        readiness=readiness,
        fields=fields_model(settings.limits),
        views=views,
        watch=watch,
        streams=Streams(settings.api.max_event_streams, settings.api.max_event_streams_in_all),
        events=JobEvents(jobs, views, outlooks, watch),
        batches=Batches(database),
    )


def _url_rules(settings: Settings) -> UrlRules:
    """What URLs of photos may be. The result store's own host never is one: that door is `upload_id`."""
    urls = (getattr(settings.results, name, None) for name in ("endpoint_url", "public_endpoint_url"))
    own = tuple(host for url in urls if url and (host := urlsplit(url).hostname))
    outbound = settings.outbound
    return UrlRules(outbound.allowed_networks, own, outbound.ports)


def _context(request: Request) -> ApiContext:
    context: ApiContext = request.app.state.context
    return context


Context = Annotated[ApiContext, Depends(_context)]
