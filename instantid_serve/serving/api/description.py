"""What the API says of itself: OpenAPI 3.1."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI
from fastapi.routing import APIRoute, iter_route_contexts
from starlette.routing import BaseRoute

from instantid_serve.serving.api import batches, generations, problems
from instantid_serve.serving.api.batch_intake import BatchFields
from instantid_serve.serving.api.bodies import FORM_TYPE, JSON_TYPE
from instantid_serve.serving.api.callers import required_scope
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


class DescribedApi(FastAPI):
    """Describes itself when it is asked to, which takes a tenth of a second, and remembers it."""

    def __init__(self, fields: type[GenerationFields], **options: Any) -> None:  # noqa: ANN401 - FastAPI's own
        super().__init__(**options)
        self._fields = fields

    def openapi(self) -> dict[str, Any]:
        """The document that ``/openapi.json`` answers."""
        if self.openapi_schema is None:
            described = super().openapi()
            _add_unseen(described, self._fields)
            _add_scopes(described, self.routes)
        return super().openapi()


def _add_unseen(described: dict[str, Any], fields: type[GenerationFields]) -> None:
    """What FastAPI cannot see: bodies are read by hand, and every error is a problem."""
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


def _add_scopes(described: dict[str, Any], routes: Sequence[BaseRoute]) -> None:
    for route in iter_route_contexts(routes):
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
