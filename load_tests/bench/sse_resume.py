"""Event streams that are cut again and again: is an event lost or told twice, and how soon is one told?

Readers follow jobs over a real server, are cut at random moments and resume with `Last-Event-ID`, while a scripted
worker claims the jobs and hands them back. What the readers were told is compared with the table of events. Prints one
line of JSON: ``python -m load_tests.bench.sse_resume --cuts 500``.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import datetime as dt
import hashlib
import json
import random
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from statistics import median

import httpx2
import uvicorn

from instantid_serve.decoding import GuardedDecoder
from instantid_serve.messages import GenerationSpec
from instantid_serve.service.database import ready_database
from instantid_serve.service.fairness import Room
from instantid_serve.service.ids import new_id
from instantid_serve.service.job import Beat, Claim, NewJob
from instantid_serve.service.results import open_store
from instantid_serve.serving.api.application import build_api
from instantid_serve.serving.api.context import ApiContext, open_context
from instantid_serve.serving.api.readiness import Readiness
from instantid_serve.settings import Settings

KEY, TENANT = "key", "bench"
LONGEST_READ_S = 0.06
PAUSE_S = 0.01
LEASE_S = 60.0


@dataclasses.dataclass
class Reader:
    """Follows one job, and notes what it was told."""

    job_id: str
    cuts: int = 0
    ids: list[int] = dataclasses.field(default_factory=list)
    told_after_ms: list[float] = dataclasses.field(default_factory=list)
    done: bool = False

    async def follow(self, http: httpx2.AsyncClient, wanted_cuts: int, rng: random.Random) -> None:
        """Read to the end, cut so many times before."""
        while not self.done:
            patience_s = rng.uniform(0, LONGEST_READ_S) if self.cuts < wanted_cuts else None
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(patience_s):
                    await self._read(http)
            self.cuts += not self.done

    async def _read(self, http: httpx2.AsyncClient) -> None:
        headers = {"Last-Event-ID": str(self.ids[-1])} if self.ids else {}
        async with http.stream("GET", f"/v1/generations/{self.job_id}/events", headers=headers) as response:
            response.raise_for_status()
            opened_s = time.time()
            event: dict[str, str] = {}
            async for line in response.aiter_lines():
                if line:
                    name, _, value = line.partition(": ")
                    event[name] = value
                    continue
                if "id" in event:
                    self._told(event, opened_s)
                event = {}

    def _told(self, event: dict[str, str], opened_s: float) -> None:
        self.ids.append(int(event["id"]))
        self.done = event["event"] == "generation.succeeded"
        data = json.loads(event["data"])
        at_s = dt.datetime.fromisoformat(data["finished_at"] if self.done else data["at"]).timestamp()
        if at_s > opened_s:  # told as it happened, and not because it had been missed
            self.told_after_ms.append((time.time() - at_s) * 1000)


class Worker:
    """Claims jobs and hands them back until their readers were cut often enough."""

    def __init__(self, context: ApiContext, readers: list[Reader], wanted_cuts: int) -> None:
        self._queue = context.queue
        self._readers = {reader.job_id: reader for reader in readers}
        self._wanted = wanted_cuts

    def run(self) -> None:
        """End every job; blocks."""
        left = len(self._readers)
        while left:
            for claim in self._queue.claim("bench", Room(left), LEASE_S):
                time.sleep(PAUSE_S)
                left -= self._work(claim)

    def _work(self, claim: Claim) -> bool:
        self._queue.heartbeat([Beat(claim.job.id, claim.fence, 1, claim.job.steps)], LEASE_S)
        if self._readers[claim.job.id].cuts < self._wanted:
            self._queue.release(claim.job.id, claim.fence)
            return False
        self._queue.settle_succeeded(claim.job.id, claim.fence, [], {})
        return True


def accept(context: ApiContext, number: int) -> list[Reader]:
    """Jobs that wait, and their readers."""
    tenant = context.tenants.ensure(TENANT)
    ids = [new_id("gen") for _ in range(number)]
    spec = GenerationSpec("a portrait", seed=7, width=64, height=64)
    for job_id in ids:
        context.jobs.accept(tenant, [NewJob(job_id, spec, (f"{TENANT}/{job_id}/photo",))])
    return [Reader(job_id) for job_id in ids]


@contextlib.asynccontextmanager
async def served(context: ApiContext) -> AsyncIterator[str]:
    """The API on a real server of this process; gives its address."""
    server = uvicorn.Server(uvicorn.Config(build_api(context), port=0, log_level="warning", lifespan="off"))
    serving = asyncio.create_task(server.serve())
    while not server.started:  # noqa: ASYNC110 - uvicorn tells in no other way
        await asyncio.sleep(0.01)
    host, port = server.servers[0].sockets[0].getsockname()
    yield f"http://{host}:{port}"
    server.should_exit = server.force_exit = True
    await serving


async def measure(context: ApiContext, cuts: int, jobs: int) -> dict[str, object]:
    """Cut streams of ``jobs`` jobs ``cuts`` times in all, and count what went wrong."""
    readers = accept(context, jobs)
    each = -(-cuts // jobs)
    working = asyncio.create_task(asyncio.to_thread(Worker(context, readers, each).run))
    headers = {"Authorization": f"Bearer {KEY}"}
    async with served(context) as url, httpx2.AsyncClient(base_url=url, headers=headers, timeout=30) as http:
        rngs = [random.Random(seed) for seed in range(jobs)]
        await asyncio.gather(*(reader.follow(http, each, rng) for reader, rng in zip(readers, rngs, strict=True)))
    await working
    true = {reader.job_id: event_ids(context, reader.job_id) for reader in readers}
    told_after_ms = [ms for reader in readers for ms in reader.told_after_ms]
    return {
        "cuts": sum(reader.cuts for reader in readers),
        "jobs": jobs,
        "events": sum(map(len, true.values())),
        "lost": sum(len(set(true[reader.job_id]) - set(reader.ids)) for reader in readers),
        "repeated": sum(len(reader.ids) - len(set(reader.ids)) for reader in readers),
        "out_of_order": sum(reader.ids != sorted(reader.ids) for reader in readers),
        "told_live": len(told_after_ms),
        "told_after_ms_median": round(median(told_after_ms), 1) if told_after_ms else None,
        "told_after_ms_max": round(max(told_after_ms), 1) if told_after_ms else None,
    }


def event_ids(context: ApiContext, job_id: str) -> list[int]:
    """The ids of all the job's events, in order."""
    found: list[int] = []
    while some := context.jobs.events_after(TENANT, job_id, found[-1] if found else 0):
        found += [event.id for event in some]
    return found


def open_here(folder: Path, database_url: str | None, poll_s: float) -> ApiContext:
    """The API's parts over a database, by default an SQLite file in the folder."""
    settings = Settings.load(
        {
            "database": {"url": database_url or f"sqlite:///{folder / 'jobs.sqlite3'}"},
            "results": {"kind": "folder", "folder": str(folder / "results")},
            "api": {"keys": [{"tenant": TENANT, "sha256": hashlib.sha256(KEY.encode()).hexdigest()}], "poll_s": poll_s},
            "tenancy": {"requests_per_minute": 1_000_000},
        }
    )
    decoder = GuardedDecoder(max_bytes=settings.api.max_photo_bytes)
    return open_context(
        settings, ready_database(settings.database), open_store(settings.results), decoder, Readiness({})
    )


def main() -> int:
    """Measure, and print one line of JSON. Returns 1 when an event was lost, repeated or out of order."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cuts", type=int, default=500)
    parser.add_argument("--jobs", type=int, default=10, help="followed at the same time")
    parser.add_argument("--poll-s", type=float, default=0.1, help="how often changes are looked for")
    parser.add_argument("--database-url", help="a PostgreSQL database to use instead of an SQLite file")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        context = open_here(Path(folder), arguments.database_url, arguments.poll_s)
        began = time.monotonic()
        found = asyncio.run(measure(context, arguments.cuts, arguments.jobs))
        context.watch.close()
    found["database"] = "postgresql" if arguments.database_url else "sqlite"
    found["seconds"] = round(time.monotonic() - began, 1)
    print(json.dumps(found))
    return int(any(found[fault] for fault in ("lost", "repeated", "out_of_order")))


if __name__ == "__main__":
    sys.exit(main())
