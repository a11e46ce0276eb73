"""Receivers of webhooks that are broken in every way, and a courier that has to live with them: a process for each."""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import socket
from collections.abc import Iterator
from multiprocessing.connection import Connection

from instantid_serve.service.courier import Courier, CourierLimits, webhook_http
from instantid_serve.service.database import open_database
from instantid_serve.service.delivery_queue import DeliveryQueue
from instantid_serve.settings import HousekeepingSettings, OutboundSettings

ANSWERS = {
    "slow": None,  # longer than the courier waits
    "500": b"HTTP/1.1 500 Broken\r\nContent-Length: 0\r\n\r\n",
    "redirect": b"HTTP/1.1 302 Found\r\nLocation: https://example.com/\r\nContent-Length: 0\r\n\r\n",
    "gone": b"HTTP/1.1 410 Gone\r\nContent-Length: 0\r\n\r\n",
}
DOWN = "down"  # nobody listens
KINDS = (DOWN, *ANSWERS)
HANGS_S = 30.0
_START_S = 60.0
_SPAWN = multiprocessing.get_context("spawn")  # neither loop nor connection of the parent may be inherited


@contextlib.contextmanager
def receivers() -> Iterator[dict[str, int]]:
    """The port of each kind of receiver, for the length of a ``with`` block."""
    ours, theirs = _SPAWN.Pipe()
    process = _SPAWN.Process(target=_receive, args=(theirs,), daemon=True)
    process.start()
    # Bound and never listened to: whoever connects is refused, and nobody else gets the port.
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        try:
            yield {DOWN: closed.getsockname()[1], **_told(ours)}
        finally:
            _end(process)


@contextlib.contextmanager
def courier(database_url: str, ports: tuple[int, ...]) -> Iterator[None]:
    """A courier at work with the service's own limits, for the length of a ``with`` block; then it is killed."""
    ours, theirs = _SPAWN.Pipe()
    process = _SPAWN.Process(target=_deliver, args=(theirs, database_url, ports), daemon=True)
    process.start()
    try:
        _told(ours)
        yield
    finally:
        _end(process)


def _told(pipe: Connection) -> dict[str, int]:
    if not pipe.poll(_START_S):
        raise TimeoutError("a process did not start")
    told: dict[str, int] = pipe.recv()
    return told


def _end(process: multiprocessing.process.BaseProcess) -> None:
    process.kill()
    process.join()


def _receive(pipe: Connection) -> None:
    asyncio.run(_serve(pipe))


async def _serve(pipe: Connection) -> None:
    ports = {}
    for kind, answer in ANSWERS.items():
        server = await asyncio.start_server(_receiver(answer), "127.0.0.1", 0)
        ports[kind] = server.sockets[0].getsockname()[1]
    pipe.send(ports)
    await asyncio.Event().wait()


def _receiver(answer: bytes | None):  # noqa: ANN202 - what asyncio.start_server takes
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError), contextlib.closing(writer):
            await reader.readuntil(b"\r\n\r\n")
            if answer is None:
                await asyncio.sleep(HANGS_S)
            else:
                writer.write(answer)
                await writer.drain()

    return serve


def _deliver(pipe: Connection, database_url: str, ports: tuple[int, ...]) -> None:
    asyncio.run(_run(pipe, database_url, ports))


async def _run(pipe: Connection, database_url: str, ports: tuple[int, ...]) -> None:
    outbound = OutboundSettings(allowed_networks=("127.0.0.0/8",), ports=ports, webhooks_need_https=False)
    limits = CourierLimits.of(HousekeepingSettings(), outbound)
    one = Courier(DeliveryQueue(open_database(database_url)), webhook_http(outbound), limits)
    pipe.send({})
    await one.run()
