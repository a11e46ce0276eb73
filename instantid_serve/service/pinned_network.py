"""The sockets under :mod:`.guarded_http`: they lead to checked addresses alone, and a server's head has an end."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Iterable, Sequence
from typing import Any

import httpcore2

_MAX_ADDRESSES_TRIED = 4
_MAX_HEAD_BYTES = 128 * 1024
_HEAD_READ_BYTES = 16 * 1024


class PinnedNetwork(httpcore2.AsyncNetworkBackend):
    """Connects to given addresses and to nothing else, whatever host it is asked for. For one connection."""

    def __init__(self, addresses: Sequence[str]) -> None:
        self._addresses = addresses[:_MAX_ADDRESSES_TRIED]
        self._network = httpcore2.AnyIOBackend()
        self._head = _Head()

    def head_is_read(self) -> None:
        """From here on, as much is read as the caller asks for."""
        self._head.is_read = True

    async def connect_tcp(
        self,
        host: str,  # noqa: ARG002 - it was resolved before
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - the name is httpcore2's
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        share_s = None if timeout is None else timeout / len(self._addresses)
        *first, last = self._addresses
        for address in first:
            with contextlib.suppress(httpcore2.ConnectError, httpcore2.ConnectTimeout):
                stream = await self._network.connect_tcp(address, port, share_s, local_address, socket_options)
                return _Stream(stream, self._head)
        stream = await self._network.connect_tcp(last, port, share_s, local_address, socket_options)
        return _Stream(stream, self._head)


class _Head:
    """How much of an answer's head was read, "100 Continue" as often as a server likes to say it included.

    Without an end a stranger's server can keep the event loop busy with it: 0.1 s for every 64 KiB were measured.
    """

    def __init__(self) -> None:
        self.is_read = False
        self._size_bytes = 0

    def grew(self, size_bytes: int) -> None:
        self._size_bytes += size_bytes
        if self._size_bytes > _MAX_HEAD_BYTES and not self.is_read:
            raise httpcore2.RemoteProtocolError("the head has no end")


class _Stream(httpcore2.AsyncNetworkStream):
    def __init__(self, stream: httpcore2.AsyncNetworkStream, head: _Head) -> None:
        self._stream = stream
        self._head = head

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109
        most = max_bytes if self._head.is_read else min(max_bytes, _HEAD_READ_BYTES)
        content = await self._stream.read(most, timeout)
        self._head.grew(len(content))
        return content

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ASYNC109
        await self._stream.write(buffer, timeout)

    async def aclose(self) -> None:
        await self._stream.aclose()

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109
    ) -> httpcore2.AsyncNetworkStream:
        try:
            stream = await self._stream.start_tls(ssl_context, server_hostname, timeout)
        except asyncio.CancelledError:
            # httpcore2 closes it after errors alone: each look at a silent server would leave a socket open.
            await self._stream.aclose()
            raise
        return _Stream(stream, self._head)

    def get_extra_info(self, info: str) -> Any:  # noqa: ANN401 - as in httpcore2
        return self._stream.get_extra_info(info)
