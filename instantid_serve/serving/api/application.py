"""Puts the HTTP application together from its context."""

from __future__ import annotations

import contextlib
import importlib.metadata
from collections.abc import AsyncIterator
from typing import Any

from fastapi import FastAPI
from fastapi.routing import APIRoute, iter_route_contexts
from prometheus_client import CollectorRegistry

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
from instantid_serve.serving.api.batch_intake import BatchFields
from instantid_serve.serving.api.bodies import FORM_TYPE, JSON_TYPE
from instantid_serve.serving.api.callers import required_scope
from instantid_serve.serving.api.context import ApiContext
from instantid_serve.serving.api.edge import Edge
from instantid_serve.serving.api.event_stream import event_schemas
from instantid_serve.serving.api.photo_sources import IDENTITY_FIELD, PHOTO_FIELD, UPLOAD_FIELD, URL_FIELD
from instantid_serve.serving.api.schemas import GenerationFields

_PROBLEM = {
    "type": "object",
    "required": ["type", "title", "status", "detail", "code", "retryable", "request_id"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "code": {"type": "string", "description": "Stable: what a program decides by."},
        "retryable": {"type": "boolean", "description": "Whether the same request can succeed later."},
        "request_id": {"type": "string"},
    },
    "additionalProperties": True,
}


def build_api(context: ApiContext) -> FastAPI:
    """The ASGI application of one replica."""

    @contextlib.asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        yield
        await context.rates.close()

    app = FastAPI(
        title="instantid-serve",
        version=importlib.metadata.version("instantid-serve"),
        docs_url=None,  # the pages load scripts from elsewhere, which the security headers forbid
        redoc_url=None,
        lifespan=lifespan,
    )
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
    app.include_router(generations.router)
    app.include_router(events.router)
    app.include_router(batches.router)
    app.include_router(operations.router)
    app.include_router(tenancy.router)
    app.include_router(administration.router)
    app.include_router(webhooks.router)
    app.include_router(uploads.router)
    app.include_router(identities.router)
    _describe(app, context.fields)
    return app


def _describe(app: FastAPI, fields: type[GenerationFields]) -> None:
    """Add to OpenAPI what FastAPI cannot see: bodies are read by hand, and every error is a problem."""
    described = app.openapi()
    create = described["paths"][generations.router.prefix]["post"]
    create["requestBody"] = {
        "required": True,
        "content": {
            FORM_TYPE: {"schema": _with_photo(fields, {"type": "string", "format": "binary"})},
            JSON_TYPE: {"schema": _with_photo(fields, {"type": "string", "contentEncoding": "base64"})},
        },
    }
    described["paths"][batches.PATH]["post"]["requestBody"] = _batch_body(fields)
    described["components"]["schemas"] |= {"Problem": _PROBLEM, **event_schemas()}
    described["components"]["securitySchemes"] = {"ApiKey": {"type": "http", "scheme": "bearer"}}
    problem = {problems.MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    for path, operations_ in described["paths"].items():
        for operation in operations_.values():
            operation["responses"] |= {
                "default": {"description": "Any error, as a problem description.", "content": problem}
            }
            operation["responses"].pop("422", None)
            if path.startswith("/v1/"):
                operation["security"] = [{"ApiKey": []}]
    for route in iter_route_contexts(app.routes):
        scope = required_scope(route.dependant) if isinstance(route.original_route, APIRoute) else None
        if scope is not None:
            for method in route.methods or ():
                described["paths"][route.path_format][method.lower()]["x-required-scope"] = scope


def _batch_body(fields: type[GenerationFields]) -> dict[str, Any]:
    item = _with_photo(fields, {"type": "string", "contentEncoding": "base64"})
    schema = BatchFields.model_json_schema()
    # What an item leaves out, photo and prompt too, may stand among the defaults; they alone name a priority.
    item = {"type": "object", "properties": item["properties"], "additionalProperties": False}
    own = {name: value for name, value in item["properties"].items() if name != "priority"}
    schema["properties"]["defaults"] |= item
    schema["properties"]["items"]["items"] = item | {"properties": own}
    return {"required": True, "content": {JSON_TYPE: {"schema": schema}}}


def _with_photo(fields: type[GenerationFields], photo: dict[str, Any]) -> dict[str, Any]:
    schema = fields.model_json_schema()
    sources = {
        PHOTO_FIELD: {**photo, "description": "JPEG, PNG or WebP."},
        URL_FIELD: {"type": "string", "description": "Where the photo is: a public http or https address."},
        UPLOAD_FIELD: {"type": "string", "description": "An upload of `POST /v1/uploads` that was filled."},
        IDENTITY_FIELD: {"type": "string", "description": "An identity of `POST /v1/identities`: all its photos."},
    }
    schema["properties"] = {**sources, **schema["properties"]}
    schema["oneOf"] = [{"required": [name]} for name in sources]
    return schema
