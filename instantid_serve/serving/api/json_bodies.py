"""JSON bodies of the routes that take nothing else: read as strictly as a generation's, and described in OpenAPI."""

from __future__ import annotations

import asyncio
from email.message import Message
from typing import Any, TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError

from instantid_serve.errors import BodyTooLargeError, InvalidRequestError, MediaTypeError
from instantid_serve.serving.api.bodies import JSON_TYPE, parse_json
from instantid_serve.serving.api.problems import invalid

MAX_BYTES = 256 * 1024  # no photo is in these

Model = TypeVar("Model", bound=BaseModel)


async def read_json(request: Request, model: type[Model], *, max_bytes: int = MAX_BYTES) -> Model:
    """The checked body. Raises MediaTypeError, MalformedBodyError, InvalidRequestError, BodyTooLargeError."""
    _check_type(request)
    # A thread: what is megabytes long takes a tenth of a second, in which nobody else would be answered.
    parsed = await asyncio.to_thread(parse_json, await _bounded(request, max_bytes))
    if not isinstance(parsed, dict):
        raise InvalidRequestError("the body must be a JSON object")
    try:
        return model.model_validate(parsed)
    except ValidationError as error:
        raise invalid(error.errors(include_input=False, include_url=False, include_context=False)) from None


def json_body(model: type[BaseModel]) -> dict[str, Any]:
    """What a route gives as ``openapi_extra``. Models here are flat: references would not resolve in the document."""
    return {"requestBody": {"required": True, "content": {JSON_TYPE: {"schema": model.model_json_schema()}}}}


def _check_type(request: Request) -> None:
    if request.headers.get("content-encoding", "identity") != "identity":
        raise MediaTypeError("compressed bodies are not read here")
    declared = Message()
    declared["content-type"] = request.headers.get("content-type", "")
    charset = declared.get_param("charset")
    if declared.get_content_type() != JSON_TYPE or (charset and str(charset).lower() not in ("utf-8", "utf8")):
        raise MediaTypeError(f"the body must be {JSON_TYPE} in UTF-8")


async def _bounded(request: Request, max_bytes: int) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > max_bytes:
            raise BodyTooLargeError(f"the body is larger than {max_bytes} bytes", {"max_body_bytes": max_bytes})
    return bytes(body)
