"""Every error as RFC 9457 ``application/problem+json``, translated here and nowhere else.

FastAPI's own handlers are replaced because its default 422 echoes the caller's input, which turns NaN, Infinity, 1e400
and lone surrogates into 500 when that answer is rendered (measured with FastAPI 0.165).
"""

from __future__ import annotations

import http
import json
import logging
import re
import uuid
from collections.abc import Mapping, Sequence

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import iter_route_contexts
from pydantic_core import ErrorDetails
from starlette.exceptions import HTTPException
from starlette.types import Scope

from instantid_serve.errors import (
    BodyTooLargeError,
    CallerError,
    InstantIDError,
    InvalidRequestError,
    MalformedBodyError,
    MediaTypeError,
    NotFoundError,
    OverloadedError,
    UnauthorizedError,
    UnavailableError,
)

MEDIA_TYPE = "application/problem+json"
_RETRY_AFTER_S = 2
_MAX_POINTER_CHARS = 100
_MAX_FAULTS = 50
_SERVER_ERRORS = 500
_SAFE_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
_FROM_STATUS: dict[int, type[InstantIDError]] = {
    400: MalformedBodyError,
    401: UnauthorizedError,
    404: NotFoundError,
    413: BodyTooLargeError,
    415: MediaTypeError,
    422: InvalidRequestError,
    429: OverloadedError,
    503: UnavailableError,
}

log = logging.getLogger(__name__)


class MethodNotAllowedError(CallerError):
    """The path exists, but not for this method."""

    code = "method_not_allowed"
    status = 405


class InternalError(InstantIDError):
    """The service failed in a way it does not know; the request id finds the case in its logs."""


def request_id(scope: Scope) -> str:
    """The id this request has in the logs: the proxy's ``x-request-id`` when it is plain, else a new one."""
    known = scope.setdefault("state", {}).get("request_id")
    if known is None:
        sent = next((value for name, value in scope["headers"] if name == b"x-request-id"), b"")
        known = sent.decode() if _SAFE_REQUEST_ID.fullmatch(sent) else uuid.uuid4().hex
        scope["state"]["request_id"] = known
    return str(known)


def problem(error: InstantIDError, scope: Scope, headers: Mapping[str, str] | None = None) -> Response:
    """The answer that says ``error``."""
    body = error.facts | {
        "type": f"urn:instantid-serve:problem:{error.code}",
        "title": (type(error).__doc__ or http.HTTPStatus(error.status).phrase).splitlines()[0],
        "status": error.status,
        "detail": error.detail,
        "code": error.code,
        "retryable": error.retryable,
        "request_id": request_id(scope),
    }
    # ASCII only: a fact can then never hold text that does not encode.
    return Response(
        json.dumps(body, ensure_ascii=True, allow_nan=False),
        status_code=error.status,
        headers={**_standard_headers(error), **(headers or {})},
        media_type=MEDIA_TYPE,
    )


def _standard_headers(error: InstantIDError) -> dict[str, str]:
    if error.status == http.HTTPStatus.UNAUTHORIZED:
        return {"WWW-Authenticate": "Bearer"}
    if error.status in (http.HTTPStatus.SERVICE_UNAVAILABLE, http.HTTPStatus.TOO_MANY_REQUESTS):
        return {"Retry-After": str(error.facts.get("retry_after_s", _RETRY_AFTER_S))}
    return {}


def invalid(faults: Sequence[ErrorDetails], prefix: int = 0) -> InvalidRequestError:
    """Pydantic's findings as one error: a JSON pointer and a sentence each, never the input.

    ``prefix``: how many leading parts of a location to drop ("path", "query"). Bodies here are flat, so one part of
    what is left is the pointer; further ones would be pydantic's names for the branches of a union.
    """
    errors = [
        {"pointer": _pointer(fault["loc"][prefix : prefix + 1]), "detail": fault["msg"].removeprefix("Value error, ")}
        for fault in faults[:_MAX_FAULTS]
    ]
    sentence = "; ".join(f"{error['pointer'] or 'the body'}: {error['detail']}" for error in errors[:3])
    return InvalidRequestError(sentence, {"errors": errors})


def _pointer(location: tuple[int | str, ...]) -> str:
    parts = (str(part)[:_MAX_POINTER_CHARS].replace("~", "~0").replace("/", "~1") for part in location)
    return "".join(f"/{part}" for part in parts)


def _translate(error: HTTPException) -> InstantIDError:
    """Starlette's error as one of ours. Its detail is a constant of Starlette's, never the caller's input."""
    if error.status_code == http.HTTPStatus.METHOD_NOT_ALLOWED:
        return MethodNotAllowedError("this path does not take that method")
    if error.status_code == http.HTTPStatus.NOT_FOUND:
        return NotFoundError("there is nothing at this path")
    cls = _FROM_STATUS.get(error.status_code, InternalError if error.status_code >= _SERVER_ERRORS else CallerError)
    return cls(http.HTTPStatus(error.status_code).phrase)


def _methods_at(app: FastAPI, path: str) -> set[str]:
    """All methods a path takes; Starlette's own answer knows those of the first route that has the path."""
    routes = [route for route in iter_route_contexts(app.routes) if route.path_regex.match(path)]
    # `/webhooks/secret` also looks like a `/webhooks/{webhook_id}`: what stands first is meant.
    return {method for route in routes if route.path == routes[0].path for method in route.methods or ()}


def unexpected(error: Exception, scope: Scope) -> Response:
    """The answer to an error nobody foresaw: the cause goes to the log under the request id, not to the caller."""
    log.error("unexpected error, request_id=%s", request_id(scope), exc_info=error)
    return problem(InternalError("the service failed; please report the request_id"), scope)


def install(app: FastAPI) -> None:
    """Let every error of ``app`` leave as a problem. Unexpected ones are :class:`..edge.Edge`'s."""

    @app.exception_handler(InstantIDError)
    async def on_ours(request: Request, error: InstantIDError) -> Response:
        if error.status >= _SERVER_ERRORS and not error.retryable:
            log.error("%s, request_id=%s", error.code, request_id(request.scope), exc_info=error)
        return problem(error, request.scope)

    @app.exception_handler(HTTPException)
    async def on_http(request: Request, error: HTTPException) -> Response:
        headers = error.headers
        if error.status_code == http.HTTPStatus.METHOD_NOT_ALLOWED:
            headers = {**(headers or {}), "Allow": ", ".join(sorted(_methods_at(app, request.scope["path"])))}
        return problem(_translate(error), request.scope, headers)

    @app.exception_handler(RequestValidationError)
    async def on_validation(request: Request, error: RequestValidationError) -> Response:
        return problem(invalid(error.errors(), prefix=1), request.scope)
