"""Webhooks made short: endpoints of tenants, what waits for them, real receivers, and a courier under way."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from typing import Any

import sqlalchemy as sa
from doubles.loopback import Loopback, http

from instantid_serve.service import outbox
from instantid_serve.service.courier import Courier, CourierLimits
from instantid_serve.service.database import Clock, Database
from instantid_serve.service.delivery import Attempt, Errand
from instantid_serve.service.delivery_queue import DeliveryQueue
from instantid_serve.service.delivery_turns import Places
from instantid_serve.service.guarded_http import GuardedHttp
from instantid_serve.service.guarded_urls import UrlRules
from instantid_serve.service.tables import webhook_deliveries
from instantid_serve.service.tenants import Tenants
from instantid_serve.service.webhooks import Endpoint, Webhooks
from instantid_serve.settings import TenancySettings

LEASE_S = 50.0
PLENTY = Places(free=100, free_unproven=100, free_suspect=100, per_host=100, per_tenant=100)
TAKEN, REFUSED, GONE = (Attempt(at=1.0, took_s=0.1, status=status) for status in (200, 500, 410))


@dataclasses.dataclass
class WebhookDesk:
    """A tenant's side and a courier's, over one database and clock."""

    database: Database
    clock: Clock

    def __post_init__(self) -> None:
        self.webhooks = Webhooks(self.database, lambda _url: None, self.clock)
        self.queue = DeliveryQueue(self.database, self.clock)

    def endpoint(self, url: str = "https://example.com/hook", tenant: str = "alice", **more: Any) -> Endpoint:
        Tenants(self.database, TenancySettings(), self.clock).ensure(tenant)
        return self.webhooks.create(tenant, url, **more).endpoint

    def put(self, endpoint: Endpoint, tenant: str = "alice", count: int = 1) -> list[str]:
        """Let something wait for the endpoint; the deliveries' ids."""
        said = {"type": "generation.succeeded", "timestamp": "2026-11-25T08:00:00.000Z", "data": {"id": "gen_1"}}
        rows = [outbox.delivery(tenant, said, endpoint.url, endpoint_id=endpoint.id) for _ in range(count)]
        with self.database.write() as connection:
            outbox.put(connection, self.clock(), rows)
        return [row["id"] for row in rows]

    def claim(self, places: Places = PLENTY) -> list[Errand]:
        return self.queue.claim(places, LEASE_S)

    def claim_one(self) -> Errand:
        [errand] = self.claim()
        return errand

    def prove(self, endpoint: Endpoint) -> None:
        """Let it take something."""
        self.put(endpoint)
        self.queue.settle(self.claim_one(), TAKEN)

    def rows(self) -> dict[str, sa.Row[Any]]:
        """The deliveries by id."""
        with self.database.read() as connection:
            return {row.id: row for row in connection.execute(sa.select(webhook_deliveries))}

    def row(self) -> sa.Row[Any]:
        [row] = self.rows().values()
        return row


@dataclasses.dataclass(frozen=True)
class Received:
    """What a receiver got."""

    path: str
    headers: dict[str, str]
    body: bytes


def received(server: Loopback) -> list[Received]:
    found = []
    for request in server.requests:
        head, _, body = request.partition(b"\r\n\r\n")
        first, *lines = head.decode().split("\r\n")
        headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
        found.append(Received(first.split()[1], headers, body))
    return found


def by_path(said: dict[str, Sequence[bytes | float]]) -> Callable[[str, asyncio.StreamWriter], Awaitable[None]]:
    """Says these bytes, and pauses for these seconds, by path; 204 to any other."""

    async def answer(path: str, writer: asyncio.StreamWriter) -> None:
        for part in said.get(path, [http(204, body=b"", content_length=None)]):
            if isinstance(part, bytes):
                writer.write(part)
            else:
                await asyncio.sleep(part)

    return answer


async def _to_loopback(_host: str, _port: int) -> Sequence[str]:
    return ["127.0.0.1"]


@contextlib.asynccontextmanager
async def delivering(desk: WebhookDesk, *ports: int, **limits: Any) -> AsyncGenerator[list[str]]:
    """A courier that delivers to this machine, whatever a host's name is; the outcomes so far."""
    rules = UrlRules(allowed_networks=("127.0.0.0/8",), ports=ports, first_byte_timeout_s=30.0)
    told = {"in_flight": 64, "per_host": 8, "per_tenant": 64, "timeout_s": 0.5, "poll_s": 0.02} | limits
    outcomes: list[str] = []
    guarded = GuardedHttp(rules, resolve=_to_loopback)
    courier = Courier(desk.queue, guarded, CourierLimits(**told), settled=outcomes.append)
    running = asyncio.create_task(courier.run())
    try:
        yield outcomes
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def until(condition: Callable[[], object], timeout_s: float = 10.0) -> float:
    """Wait for it; how many seconds that took."""
    begun_s = time.perf_counter()
    while not condition():
        assert time.perf_counter() - begun_s < timeout_s
        await asyncio.sleep(0.01)
    return time.perf_counter() - begun_s
