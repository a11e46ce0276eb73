"""Sends the whole corpus to one running API, between hostile servers, and tells what came of it."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import re
import ssl
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from corpus.entry import ACME, GENERATIONS, Entry, Request, generation, small_photo, with_file
from corpus.urls import HOSTILE, NAMES, PROTECTED, SERVED
from corpus.world import populate
from doubles.api_process import ApiProcess, api_process, settings_in
from doubles.certificates import write_self_signed
from doubles.loopback import always, http, loopback

FETCH_TIMEOUT_S = 1.0
TIMEOUT_S = 30.0
LIMIT_S = 2.0
WARM_UPS = 10


@dataclasses.dataclass(frozen=True)
class Answer:
    """What came back, and after how many seconds."""

    status: int
    took_s: float
    body: bytes = dataclasses.field(repr=False)

    @property
    def code(self) -> str | None:
        """The problem's code; None where it is none."""
        with contextlib.suppress(ValueError):
            told = json.loads(self.body)
            return told.get("code") if isinstance(told, dict) else None
        return None


@dataclasses.dataclass(frozen=True)
class Report:
    """All answers by entry, and how the process is that gave them."""

    answers: Mapping[Entry, Answer]
    warm_bytes: int
    end_bytes: int
    runs: bool
    log: str
    reached: int  # connections to what is protected


def run_corpus(folder: Path, entries: Sequence[Entry]) -> Report:
    """Start an API in the folder and send it every entry once."""
    return asyncio.run(_run(folder, entries))


async def _run(folder: Path, entries: Sequence[Entry]) -> Report:
    async with _hostile(folder) as (ports, protected):
        outbound = {
            "allowed_networks": [f"{HOSTILE}/32"],
            "ports": [80, 443, 8265, *map(int, ports.values())],
            "fetch_timeout_s": FETCH_TIMEOUT_S,
        }
        settings = settings_in(folder, outbound=outbound)
        with api_process(folder, settings, NAMES) as api:
            names = {**ports, "api_port": str(api.port), **await asyncio.to_thread(populate, api, settings)}
            await _warm_up(api, names)
            warm_bytes = api.rss_bytes()
            answers = {entry: await _answer(api, entry, names) for entry in entries}
            return Report(
                answers,
                warm_bytes,
                api.rss_bytes(),
                api.runs(),
                api.log.read_text(),
                protected.connections,
            )


@contextlib.asynccontextmanager
async def _hostile(folder: Path) -> AsyncIterator[tuple[dict[str, str], Any]]:
    """The servers that tenants' addresses lead to, and one on the same port that they must not lead to."""

    async def answer(path: str, writer: asyncio.StreamWriter) -> None:
        await SERVED[path][1](path, writer)

    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(write_self_signed(folder / "server.pem", "another.example"))
    async with (
        loopback(answer, host=HOSTILE) as hostile,
        loopback(always(http()), host=PROTECTED, port=hostile.port) as protected,
        loopback(answer, tls, host=HOSTILE) as secure,
    ):
        yield {"hostile_port": str(hostile.port), "tls_port": str(secure.port)}, protected


async def _warm_up(api: ApiProcess, names: Mapping[str, str]) -> None:
    """What a service does all day, so that what it keeps from then on is there: threads, caches, the decoder."""
    requests = [
        generation(),
        with_file(small_photo()),
        generation(image=..., image_url="http://hostile.example:<<hostile_port>>/photo"),
        Request("GET", GENERATIONS, (ACME,)),
        Request("GET", "/openapi.json", ()),
    ]
    for _ in range(WARM_UPS):
        for request in requests:
            answer = await send(api.port, request, names)
            assert answer.status < 300, answer


async def _answer(api: ApiProcess, entry: Entry, names: Mapping[str, str]) -> Answer:
    """The entry's answer; the faster of two where one was slow, because others share the machine."""
    answer = await send(api.port, entry.request, names)
    if answer.took_s > LIMIT_S and not entry.waits:
        again = await send(api.port, entry.request, names)
        return min(answer, again, key=lambda one: one.took_s)
    return answer


async def send(port: int, request: Request, names: Mapping[str, str]) -> Answer:
    """Send a request and read its answer: an answer to half a request, too."""
    data = request.encoded(names)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    began_s = time.perf_counter()
    sending = asyncio.create_task(_write(writer, data))
    try:
        status, body = await asyncio.wait_for(_read(reader, request.method), TIMEOUT_S)
        return Answer(status, time.perf_counter() - began_s, body)
    finally:
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
        writer.transport.abort()


async def _write(writer: asyncio.StreamWriter, data: bytes) -> None:
    with contextlib.suppress(OSError):
        writer.write(data)
        await writer.drain()


async def _read(reader: asyncio.StreamReader, method: str) -> tuple[int, bytes]:
    head = await reader.readuntil(b"\r\n\r\n")
    status = int(head.split()[1])
    if status == 100:
        return await _read(reader, method)
    length = re.search(rb"content-length: (\d+)", head.lower())
    return status, await reader.readexactly(int(length[1])) if length else b""
