"""Shares: what weights are worth under backlog, and what a noisy tenant costs a quiet one."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import random
import sys
from collections.abc import AsyncIterator, Iterator, Sequence

import sqlalchemy as sa

from instantid_serve.messages import GenerationSpec
from instantid_serve.service import wakeups
from instantid_serve.service.database import Database, open_database, upgrade
from instantid_serve.service.dispatcher import Dispatcher
from instantid_serve.service.ids import new_id
from instantid_serve.service.job import NewJob
from instantid_serve.service.job_queue import JobQueue
from instantid_serve.service.jobs import Jobs
from instantid_serve.service.tables import jobs as table
from instantid_serve.service.tenants import Tenant, Tenants
from instantid_serve.settings import DispatcherSettings, TenancySettings
from load_tests.bench.harness import Run, main, percentile
from load_tests.bench.postgres import database_url
from load_tests.bench.pretended import PretendedStages

MEASURED = (
    "Dispatcher and PostgreSQL, real, over a pretended GPU that makes 32 pictures at a time: pictures of two tenants "
    "with weights 1 and 3 under backlog, and how long a quiet tenant's jobs wait alone and beside a noisy one that "
    "brings 90 % of the load."
)
FULL, OVER = "beside 90 % of full load", "beside 90 % of twice the load that fits"
STEPS = 12, 28  # of a picture, at least and at most


@dataclasses.dataclass(frozen=True)
class Service:
    """A database, and those who use it."""

    database: Database
    jobs: Jobs
    tenants: Tenants

    def submit(self, tenant: Tenant, steps: int) -> None:
        """Accept one job of one picture."""
        job_id = new_id("gen")
        spec = GenerationSpec(prompt="a portrait", seed=0, width=64, height=64, steps=steps)
        self.jobs.accept(tenant, [NewJob(job_id, spec, (f"{tenant.id}/{job_id}/photo",))])

    def waits_s(self, tenant: Tenant, since: float) -> list[float]:
        """How long the tenant's jobs that were created since then waited for a worker, in seconds."""
        mine = sa.and_(table.c.tenant == tenant.id, table.c.created_at >= since, table.c.started_at.is_not(None))
        query = sa.select(table.c.started_at - table.c.created_at).where(mine)
        with self.database.read() as connection:
            return [max(0.0, value) for value in connection.execute(query).scalars()]

    def started(self, tenant: Tenant) -> int:
        """Jobs of the tenant that were begun so far."""
        mine = sa.and_(table.c.tenant == tenant.id, table.c.started_at.is_not(None))
        with self.database.read() as connection:
            return int(connection.execute(sa.select(sa.func.count()).select_from(table).where(mine)).scalar_one())

    def now(self) -> float:
        """The database's time."""
        with self.database.read() as connection:
            return float(connection.execute(sa.select(self.database.now())).scalar_one())


@contextlib.contextmanager
def new_service() -> Iterator[Service]:
    """A service on a PostgreSQL server of its own."""
    with database_url() as url:
        database = open_database(url)
        upgrade(database)
        yield Service(database, Jobs(database), Tenants(database, TenancySettings(max_queued_jobs=1_000_000)))
        database.close()


@contextlib.asynccontextmanager
async def dispatching(service: Service, *, pictures: int, step_s: float) -> AsyncIterator[None]:
    """A dispatcher at work, whose stages make so many pictures at a time."""
    settings = DispatcherSettings(max_pictures_in_flight=pictures)
    dispatcher = Dispatcher(JobQueue(service.database), PretendedStages(step_s), settings, "bench")
    loop = asyncio.get_running_loop()
    listener = wakeups.listen(service.database, [wakeups.WORK], lambda *_: loop.call_soon_threadsafe(dispatcher.wake))
    running = asyncio.create_task(dispatcher.run())
    try:
        yield
    finally:
        await dispatcher.stop()
        await running
        if listener:
            await asyncio.to_thread(listener.close)


async def arrive(service: Service, tenant: Tenant, rate_per_s: float, duration_s: float, seed: int) -> None:
    """Submit jobs at random moments, whatever becomes of those before (an open loop)."""
    chance, loop, sent = random.Random(seed), asyncio.get_running_loop(), []
    at_s, ends_s = loop.time(), loop.time() + duration_s
    while (at_s := at_s + chance.expovariate(rate_per_s)) < ends_s:
        await asyncio.sleep(max(0.0, at_s - loop.time()))
        sent.append(asyncio.create_task(asyncio.to_thread(service.submit, tenant, chance.randint(*STEPS))))
    await asyncio.gather(*sent)


def measure(run: Run) -> None:
    """Both parts."""
    _weights(run)
    _noise(run)
    run.note("Waits are from the row's insertion to its claim, on the database's clock.")


def _weights(run: Run) -> None:
    backlog = run.parameter("backlog per tenant (jobs)", full=800, quick=60)
    seconds = run.parameter("backlog watched (s)", full=12.0, quick=1.0)

    async def shares(service: Service, tenants: Sequence[Tenant]) -> list[int]:
        async with dispatching(service, pictures=32, step_s=0.03):
            await asyncio.sleep(seconds)
            return [service.started(tenant) for tenant in tenants]

    for _ in range(run.parameter("repetitions of the weights", full=3, quick=1)):
        with new_service() as service:
            tenants = [service.tenants.create(name, {"weight": w}) for name, w in (("one", 1.0), ("three", 3.0))]
            chance = random.Random(0)
            for _ in range(backlog):
                for tenant in tenants:
                    service.submit(tenant, chance.randint(*STEPS))
            light, heavy = asyncio.run(shares(service, tenants))
        run.record("pictures of weight 3 / pictures of weight 1", heavy / light, "x")
    for bound in ({"at_least": 3 * 0.95}, {"at_most": 3 * 1.05}):
        run.require("pictures of weight 3 / pictures of weight 1", every=True, claim="1:3 within 5 %", **bound)


def _noise(run: Run) -> None:
    duration_s = run.parameter("each run (s)", full=30.0, quick=1.5)
    repetitions = run.parameter("repetitions", full=5, quick=1)
    picture_s = run.parameter("a picture takes (s)", full=1.6, quick=0.8)
    pictures = run.parameters["pictures at a time"] = 32
    capacity = pictures / picture_s
    loads = {"alone": (0.95, 0.0), FULL: (0.95, 0.9), OVER: (0.95, 0.9 * 2)}  # the quiet one brings the same always
    for repetition, name in run.interleaved(list(loads), repetitions):
        full, noisy = loads[name]
        rates = 0.1 * full * capacity, noisy * full * capacity
        waits = asyncio.run(_beside(pictures, picture_s / 20, rates, duration_s, repetition))
        run.record(f"p95 wait {name}", percentile(waits, 95), "s")
        run.record(f"median wait {name}", percentile(waits, 50), "s")
        run.attach(f"waits {name} {repetition} (s)", [round(wait, 4) for wait in waits])
    for name in (FULL, OVER):
        run.ratio(f"p95 wait {name} / alone", f"p95 wait {name}", "p95 wait alone")
        run.require(f"p95 wait {name} / alone", at_most=1.5, claim=f"{name}: at most half again")


async def _beside(
    pictures: int, step_s: float, rates: tuple[float, float], duration_s: float, seed: int
) -> list[float]:
    """The quiet tenant's waits; ``rates``: jobs per second of the quiet and of the noisy one."""
    with new_service() as service:
        tenants = [service.tenants.create(name, {}) for name in ("quiet", "noisy")]
        async with dispatching(service, pictures=pictures, step_s=step_s):
            since = await asyncio.to_thread(service.now) + duration_s / 5  # until the machine is full
            traffic = [
                arrive(service, tenant, rate, duration_s, seed + 1000 * place)
                for place, (tenant, rate) in enumerate(zip(tenants, rates, strict=True))
                if rate
            ]
            await asyncio.gather(*traffic)
            return await asyncio.to_thread(service.waits_s, tenants[0], since)


if __name__ == "__main__":
    sys.exit(main("fair-shares", MEASURED, measure))
