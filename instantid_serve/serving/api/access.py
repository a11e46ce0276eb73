"""One log line per HTTP request, and the context that all lines of a request share.

The line says the route's template, never the path, the query or a header: these are the caller's and may hold keys.
"""

from __future__ import annotations

import logging
import re
import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from instantid_serve.log_context import logged, note
from instantid_serve.serving.api.problems import request_id

log = logging.getLogger(__name__)

_PROBES = {"/healthz", "/readyz", "/metrics"}  # asked every few seconds: shown at DEBUG
_JOB_ID = re.compile(r"gen_[0-9a-z]{26}")  # anything else in that place is the caller's own text


class AccessLog:
    """ASGI middleware; the outermost, so that it sees what every other one answers."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request; anything but HTTP (the lifespan) passes untouched."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began_s, status = time.perf_counter(), 0

        async def watched(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        with logged(request_id=request_id(scope)):
            try:
                await self._app(scope, receive, watched)
            finally:
                _write(scope, status, time.perf_counter() - began_s)


def _write(scope: Scope, status: int, seconds: float) -> None:
    """``status`` is 0 when the caller left before there was an answer."""
    route = getattr(scope.get("route"), "path", "unmatched")
    job_id = scope.get("path_params", {}).get("job_id", "")
    if _JOB_ID.fullmatch(job_id):
        note(job_id=job_id)
    facts = {"method": scope["method"], "route": route, "status": status, "seconds": round(seconds, 4)}
    log.log(logging.DEBUG if route in _PROBES else logging.INFO, "request answered", extra=facts)
