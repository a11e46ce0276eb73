"""A real server on this machine that answers byte by byte as it is told to, and counts who came."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import re
import ssl
from collections.abc import AsyncGenerator, Awaitable, Callable

Answerer = Callable[[str, asyncio.StreamWriter], Awaitable[None]]
"""Called with the request's path and where to write its answer."""


@dataclasses.dataclass
class Loopback:
    """A running server; ``requests`` are heads with their bodies, ``left`` the connections that have ended."""

    port: int = 0
    connections: int = 0
    left: int = 0
    requests: list[bytes] = dataclasses.field(default_factory=list)

    def url(self, path: str = "/", host: str = "127.0.0.1", scheme: str = "http") -> str:
        return f"{scheme}://{host}:{self.port}{path}"


def http(status: int = 200, body: bytes = b"photo", **headers: object) -> bytes:
    """A whole answer; a header's underscores become hyphens, and None leaves it out."""
    told = {"content_length": len(body), **headers}
    lines = [f"{name.replace('_', '-')}: {value}\r\n" for name, value in told.items() if value is not None]
    return f"HTTP/1.1 {status} Said\r\n{''.join(lines)}\r\n".encode("utf-8", "surrogateescape") + body


def always(*said: bytes | float) -> Answerer:
    """Says these bytes, and pauses for these seconds, whatever the path."""

    async def answer(_path: str, writer: asyncio.StreamWriter) -> None:
        for part in said:
            if isinstance(part, bytes):
                writer.write(part)
                await writer.drain()
            else:
                await asyncio.sleep(part)

    return answer


def forever(head: bytes, chunk: bytes, pause_s: float = 0.0) -> Answerer:
    """Says the head, then the chunk again and again, until nobody listens."""

    async def answer(_path: str, writer: asyncio.StreamWriter) -> None:
        writer.write(head)
        while True:
            writer.write(chunk)
            await writer.drain()
            await asyncio.sleep(pause_s)

    return answer


@contextlib.asynccontextmanager
async def loopback(
    answer: Answerer, tls: ssl.SSLContext | None = None, *, host: str = "127.0.0.1", port: int = 0
) -> AsyncGenerator[Loopback]:
    served, tasks = Loopback(), set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.current_task())
        served.connections += 1
        gone = (OSError, asyncio.IncompleteReadError, asyncio.CancelledError)
        with contextlib.suppress(*gone), contextlib.closing(writer.transport):
            head = await reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"content-length: (\d+)", head.lower())
            served.requests.append(head + await reader.readexactly(int(length[1]) if length else 0))
            await answer(head.split()[1].decode(), writer)
        served.left += 1

    server = await asyncio.start_server(serve, host, port, ssl=tls)
    served.port = server.sockets[0].getsockname()[1]
    async with server:
        yield served
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0)  # in which the transports are closed
