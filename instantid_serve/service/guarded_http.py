"""HTTP to addresses that strangers chose: photos fetched by URL, webhooks delivered.

A host is resolved once, every address found is checked, and the connection is made to a checked address: there is no
second look-up in which a name could turn private. TLS and the Host header still say the name. This is done for every
request anew, redirects included, on a connection of its own; no proxy, cookie or password of ours is ever used.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import ssl
import time
from collections.abc import AsyncGenerator, Callable, Generator, Mapping, Sequence

import httpcore2

from instantid_serve.errors import ConfigurationError, UrlBlockedError, UrlFetchError, UrlTooLargeError
from instantid_serve.service.addresses import Resolve, may_connect, networks, system_resolver
from instantid_serve.service.guarded_urls import RefusedError, Url, UrlRules, read_url
from instantid_serve.service.pinned_network import PinnedNetwork

_OK = 200
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_MIN_CHUNK_BYTES = 64
_FREE_CHUNKS = 256
_MAX_ANSWER_BYTES = 4096
_ANSWER_READ_S = 0.5
_MAX_HEADER_CHARS = 100
_HEADERS = {"user-agent": "instantid-serve", "accept-encoding": "identity", "connection": "close"}
# One sentence for every refusal, so that it cannot tell what an address or a redirect led to.
_REFUSAL = "This URL is refused: it must be plain http or https, on a usual port, and lead to public addresses only."


@dataclasses.dataclass(frozen=True, slots=True)
class Fetched:
    """What was found at a URL. ``media_type`` is only what the server says of it, lower case, or empty."""

    content: bytes
    media_type: str


@dataclasses.dataclass(frozen=True, slots=True)
class Answer:
    """How a server took what was posted. ``headers`` holds ``retry-after``, if it was there, and nothing else."""

    status: int
    headers: Mapping[str, str]
    took_s: float


class GuardedHttp:
    """Fetches and posts, by rules. ``on_blocked`` is told one short word per refusal, of a fixed few, for a metric.

    ``tls`` is the TLS context of the operating system's authorities unless another is given.
    """

    def __init__(
        self,
        rules: UrlRules,
        *,
        resolve: Resolve = system_resolver,
        on_blocked: Callable[[str], None] = lambda _reason: None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._rules = rules
        self._resolve = resolve
        self._on_blocked = on_blocked
        self._given_tls = tls
        try:
            self._allowed = networks(*rules.allowed_networks)
        except ValueError as error:
            raise ConfigurationError(f"allowed_networks: {error}") from error

    def check(self, url: str) -> None:
        """Raises UrlBlockedError if the URL by itself breaks a rule; looks nothing up."""
        with self._named_errors():
            target = read_url(url, self._rules)
            if target.is_literal:
                self._check_addresses([target.host])

    async def resolve_check(self, url: str) -> None:
        """Raises UrlBlockedError if the URL breaks a rule or leads to an address that is not public now."""
        with self._named_errors():
            await self._checked_addresses(read_url(url, self._rules))

    async def fetch(self, url: str, *, max_bytes: int, timeout_s: float, max_redirects: int = 3) -> Fetched:
        """What is at the URL; raises UrlBlockedError, UrlFetchError, UrlTooLargeError. ``timeout_s``: in all."""
        with self._named_errors():
            async with asyncio.timeout(timeout_s):
                target = read_url(url, self._rules)
                for _ in range(max_redirects + 1):
                    async with self._exchange("GET", target) as response:
                        if response.status not in _REDIRECTS:
                            return await _read_photo(response, max_bytes)
                        target = target.join(_header(response, b"location"), self._rules)
        raise _failure("redirects")

    async def post(self, url: str, body: bytes, headers: Mapping[str, str], *, timeout_s: float) -> Answer:
        """Posts and tells the answer's status, whatever it is: redirects are not followed.

        Raises UrlBlockedError, and UrlFetchError if there was no answer within ``timeout_s`` in all.
        """
        begun_s = time.perf_counter()
        with self._named_errors():
            target = read_url(url, self._rules)
            async with asyncio.timeout(timeout_s), self._exchange("POST", target, body, headers) as response:
                took_s = time.perf_counter() - begun_s
                await _drain(response)
        retry_after = _header(response, b"retry-after")[:_MAX_HEADER_CHARS]
        return Answer(response.status, {"retry-after": retry_after} if retry_after else {}, took_s)

    @contextlib.asynccontextmanager
    async def _exchange(
        self, method: str, url: Url, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> AsyncGenerator[httpcore2.Response]:
        network = PinnedNetwork(await self._checked_addresses(url))
        place = httpcore2.URL(scheme=url.scheme, host=url.host, port=url.port, target=url.target)
        tls = self._tls if url.scheme == "https" else None  # the first one takes 70 ms
        connection = httpcore2.AsyncHTTPConnection(place.origin, ssl_context=tls, network_backend=network)
        told = {name.lower(): value for name, value in (headers or {}).items()} | _HEADERS | {"host": url.authority}
        wait_s = self._rules.first_byte_timeout_s
        timeouts = {"connect": self._rules.connect_timeout_s, "read": wait_s, "write": wait_s}
        async with (
            connection,
            connection.stream(
                method, place, headers=[*told.items()], content=body, extensions={"timeout": timeouts}
            ) as response,
        ):
            network.head_is_read()
            yield response

    async def _checked_addresses(self, url: Url) -> Sequence[str]:
        """The addresses a connection may be made to; every connection comes through here."""
        found = [url.host] if url.is_literal else await self._look_up(url)
        self._check_addresses(found)
        return found

    async def _look_up(self, url: Url) -> Sequence[str]:
        try:
            async with asyncio.timeout(self._rules.connect_timeout_s):
                found = await self._resolve(url.host, url.port)
        except (OSError, UnicodeError) as error:
            raise _failure("dns") from error
        if not found:
            raise _failure("dns")
        return list(dict.fromkeys(found))

    def _check_addresses(self, addresses: Sequence[str]) -> None:
        # All of them: else it would be the throw of the attacker's dice which one is connected to.
        if not all(may_connect(address, self._allowed) for address in addresses):
            raise RefusedError("address")

    @functools.cached_property
    def _tls(self) -> ssl.SSLContext:
        return self._given_tls or httpcore2.default_ssl_context()

    @contextlib.contextmanager
    def _named_errors(self) -> Generator[None]:
        """Turns everything that can go wrong into the three errors, most specific first."""
        try:
            yield
        except RefusedError as error:
            self._on_blocked(error.reason)
            raise UrlBlockedError(_REFUSAL) from error
        except (TimeoutError, httpcore2.TimeoutException) as error:
            raise _failure("timeout") from error
        except httpcore2.ConnectError as error:
            raise _failure("tls" if isinstance(error.__cause__, ssl.SSLError) else "connect") from error
        except (httpcore2.NetworkError, httpcore2.ProtocolError, OSError) as error:
            raise _failure("protocol") from error


async def _read_photo(response: httpcore2.Response, max_bytes: int) -> Fetched:
    if response.status != _OK:
        raise _failure("status", status=response.status)
    if _header(response, b"content-encoding").lower() not in {"", "identity"}:
        raise _failure("encoding")
    told = _header(response, b"content-length")
    if told.isdecimal() and int(told) > max_bytes:
        raise _too_large(max_bytes)
    content = bytearray()
    async with contextlib.aclosing(_chunks(response)) as chunks:
        async for chunk in chunks:
            content += chunk
            if len(content) > max_bytes:
                raise _too_large(max_bytes)
    media_type = _header(response, b"content-type").partition(";")[0].strip().lower()
    return Fetched(bytes(content), media_type[:_MAX_HEADER_CHARS])


async def _drain(response: httpcore2.Response) -> None:
    """Takes a little of the answer, for the server's peace; the status is known, so nothing here can spoil it."""
    size_bytes = 0
    wrong = (UrlFetchError, OSError, httpcore2.TimeoutException, httpcore2.NetworkError, httpcore2.ProtocolError)
    with contextlib.suppress(*wrong):
        async with asyncio.timeout(_ANSWER_READ_S), contextlib.aclosing(_chunks(response)) as chunks:
            async for chunk in chunks:
                size_bytes += len(chunk)
                if size_bytes >= _MAX_ANSWER_BYTES:
                    return


async def _chunks(response: httpcore2.Response) -> AsyncGenerator[bytes]:
    """The body as it arrives. Bodies in crumbs are refused: parsing them held up the event loop for 0.2 s at a time."""
    count = size_bytes = 0
    async with contextlib.aclosing(response.aiter_stream()) as arriving:
        async for chunk in arriving:
            count, size_bytes = count + 1, size_bytes + len(chunk)
            if count > _FREE_CHUNKS + size_bytes / _MIN_CHUNK_BYTES:
                raise _failure("protocol")
            yield chunk


def _header(response: httpcore2.Response, name: bytes) -> str:
    """A header's text, empty if there is none."""
    return next((v.decode(errors="replace") for k, v in response.headers if k.lower() == name), "").strip()


def _failure(reason: str, **facts: int) -> UrlFetchError:
    return UrlFetchError(f"The URL could not be fetched ({reason}).", {"reason": reason, **facts})


def _too_large(max_bytes: int) -> UrlTooLargeError:
    return UrlTooLargeError(f"The URL leads to more than {max_bytes} bytes.", {"max_bytes": max_bytes})
