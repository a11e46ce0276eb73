"""Puts the HTTP application together from its context."""

from __future__ import annotations

import importlib.metadata
from typing import Any

from fastapi import FastAPI
from prometheus_client import CollectorRegistry

from instantid_serve.serving.api import generations, operations, problems
from instantid_serve.serving.api.access import AccessLog
from instantid_serve.serving.api.bodies import FORM_TYPE, JSON_TYPE, PHOTO_FIELD
from instantid_serve.serving.api.context import ApiContext
from instantid_serve.serving.api.edge import Edge
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
    app = FastAPI(
        title="instantid-serve",
        version=importlib.metadata.version("instantid-serve"),
        docs_url=None,  # the pages load scripts from elsewhere, which the security headers forbid
        redoc_url=None,
    )
    app.state.context = context
    app.state.registry = registry = CollectorRegistry()
    registry.register(operations.JobsCollector(context.jobs))
    seconds = operations.request_seconds(registry)
    app.add_middleware(
        Edge,
        max_body_bytes=context.settings.api.max_body_bytes,
        observe=lambda method, route, status, took_s: seconds.labels(method, route, str(status)).observe(took_s),
    )
    app.add_middleware(AccessLog)
    problems.install(app)
    app.include_router(generations.router)
    app.include_router(operations.router)
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
    create["parameters"] = [
        {
            "name": "Prefer",
            "in": "header",
            "schema": {"type": "string"},
            "description": "`wait=N`: answer when the job is done, after N seconds at the latest (RFC 7240).",
        }
    ]
    described["components"]["schemas"]["Problem"] = _PROBLEM
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


def _with_photo(fields: type[GenerationFields], photo: dict[str, Any]) -> dict[str, Any]:
    schema = fields.model_json_schema()
    schema["properties"] = {PHOTO_FIELD: {**photo, "description": "JPEG, PNG or WebP."}, **schema["properties"]}
    schema["required"] = [PHOTO_FIELD, *schema["required"]]
    return schema
