"""What every request passes before the routes: the body limit, security headers, timing, the last error handler."""

from __future__ import annotations

import time
from collections.abc import Callable

from starlette.datastructures import MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from instantid_serve.errors import BodyTooLargeError
from instantid_serve.serving.api.problems import InternalError, problem, unexpected
from instantid_serve.serving.api.throttle import rate_headers

Observe = Callable[[str, str, int, float], None]  # method, route, status, seconds

# Nothing here is a page: no script may run, no site may frame it, and answers hold a tenant's data.
_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


class Edge:
    """ASGI middleware around the whole application."""

    def __init__(self, app: ASGIApp, *, max_body_bytes: int, observe: Observe) -> None:
        self._app = app
        self._max_body_bytes = max_body_bytes
        self._observe = observe

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request; anything but HTTP (the lifespan) passes untouched."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        answer = _Answer(scope, send)
        try:
            await self._serve(scope, receive, answer)
        finally:
            route = getattr(scope.get("route"), "path", "unmatched")
            self._observe(scope["method"], route, answer.status, time.perf_counter() - started)

    async def _serve(self, scope: Scope, receive: Receive, answer: _Answer) -> None:
        if _declared_length(scope) > self._max_body_bytes:
            await problem(self._too_large(), scope, {"Connection": "close"})(scope, receive, answer)
            return
        try:
            await self._app(scope, self._limited(receive), answer)
        except ClientDisconnect:
            return  # in the middle of the body: nobody is there to answer, and nothing failed
        except Exception as error:  # noqa: BLE001 - the last handler of the process: the caller gets a problem
            told = unexpected(error, scope)
            if answer.status:  # half an answer is sent; the error's own words would go to the proxy's log
                raise InternalError("the answer broke off") from None
            await told(scope, receive, answer)

    def _limited(self, receive: Receive) -> Receive:
        """A chunked body declares no length, so it is counted while it is read."""
        left = self._max_body_bytes

        async def limited() -> Message:
            nonlocal left
            message = await receive()
            left -= len(message.get("body", b""))
            if left < 0:
                raise self._too_large()
            return message

        return limited

    def _too_large(self) -> BodyTooLargeError:
        return BodyTooLargeError(
            f"the body is larger than {self._max_body_bytes} bytes", {"max_body_bytes": self._max_body_bytes}
        )


class _Answer:
    """Sends the answer on with the headers that all have, and remembers its status (0 until it starts)."""

    def __init__(self, scope: Scope, send: Send) -> None:
        self._scope = scope
        self._send = send
        self.status = 0

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            for name, value in (_HEADERS | rate_headers(self._scope)).items():
                headers.setdefault(name, value)
        await self._send(message)


def _declared_length(scope: Scope) -> int:
    """The Content-Length, or 0 where there is none or it is no number (the server refuses those itself)."""
    sent = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
    return int(sent) if sent.isdigit() and len(sent) < 20 else 0  # noqa: PLR2004 - digits of a 64-bit length
