"""The API behind a real server on loopback: a client's ASGI transport reads answers whole, and streams have no end."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import uvicorn
from fastapi import FastAPI


@contextlib.asynccontextmanager
async def served(app: FastAPI) -> AsyncIterator[tuple[str, int]]:
    """Serve the application on this event loop; gives host and port."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning", lifespan="off"))
    serving = asyncio.create_task(server.serve())
    while not server.started:  # noqa: ASYNC110 - uvicorn tells in no other way
        await asyncio.sleep(0.01)
    yield server.servers[0].sockets[0].getsockname()
    server.should_exit = server.force_exit = True
    await serving


@dataclasses.dataclass(frozen=True)
class Told:
    """One event of a stream."""

    event: str
    id: str | None
    data: dict[str, Any]


async def events_in(response: httpx2.Response) -> AsyncIterator[Told]:
    """The events of a stream as they come; comments and the wish how soon to come again are left out."""
    found: dict[str, str] = {}
    async for line in response.aiter_lines():
        if line and not line.startswith(":"):
            name, _, value = line.partition(": ")
            found[name] = value
        elif not line and "event" in found:
            yield Told(found["event"], found.get("id"), json.loads(found["data"]))
            found = {}


@contextlib.asynccontextmanager
async def stream(client: httpx2.AsyncClient, job_id: str, last_id: str | None = None) -> AsyncIterator[httpx2.Response]:
    """The open stream of a job's events."""
    headers = {} if last_id is None else {"Last-Event-ID": last_id}
    async with client.stream("GET", f"/v1/generations/{job_id}/events", headers=headers) as response:
        yield response
