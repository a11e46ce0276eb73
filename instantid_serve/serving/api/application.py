"""Puts the HTTP application together from its context."""

from __future__ import annotations

import contextlib
import importlib.metadata
from collections.abc import AsyncIterator
from typing import Any

from fastapi import FastAPI
from prometheus_client import CollectorRegistry
from starlette.types import Lifespan

from instantid_serve.serving.api import (
    administration,
    batches,
    events,
    generations,
    identities,
    operations,
    problems,
    tenancy,
    uploads,
    webhooks,
)
from instantid_serve.serving.api.access import AccessLog
from instantid_serve.serving.api.context import ApiContext
from instantid_serve.serving.api.description import DescribedApi
from instantid_serve.serving.api.edge import Edge
from instantid_serve.serving.api.schemas import GenerationFields, fields_model
from instantid_serve.settings import LimitSettings


def build_api(context: ApiContext) -> FastAPI:
    """The ASGI application of one replica."""

    @contextlib.asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        yield
        await context.rates.close()

    app = _routed(context.fields, lifespan)
    app.state.context = context
    app.state.registry = registry = CollectorRegistry()
    registry.register(operations.JobsCollector(context.queue, context.delivery_queue))
    seconds = operations.request_seconds(registry)
    app.add_middleware(
        Edge,
        max_body_bytes=context.settings.api.max_body_bytes,
        observe=lambda method, route, status, took_s: seconds.labels(method, route, str(status)).observe(took_s),
    )
    app.add_middleware(AccessLog)
    problems.install(app)
    return app


def api_document(limits: LimitSettings) -> dict[str, Any]:
    """What `GET /openapi.json` answers on a server with these limits; needs no database and no store."""
    return _routed(fields_model(limits)).openapi()


def _routed(fields: type[GenerationFields], lifespan: Lifespan[FastAPI] | None = None) -> FastAPI:
    app = DescribedApi(
        fields,
        title="instantid-serve",
        version=importlib.metadata.version("instantid-serve"),
        docs_url=None,  # the pages load scripts from elsewhere, which the security headers forbid
        redoc_url=None,
        lifespan=lifespan,
    )
    app.include_router(generations.router)
    app.include_router(events.router)
    app.include_router(batches.router)
    app.include_router(operations.router)
    app.include_router(tenancy.router)
    app.include_router(administration.router)
    app.include_router(webhooks.router)
    app.include_router(uploads.router)
    app.include_router(identities.router)
    return app
