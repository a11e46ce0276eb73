"""Whether one tenant's broken webhook receivers cost another tenant's jobs any time.

The real dispatcher, courier and PostgreSQL around stages that only sleep. A quiet tenant's jobs arrive at their times,
alone, beside a second tenant's jobs, and beside these when every change of them is told to receivers that are down,
hang, answer 500, redirect, or are gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import itertools
import sys
from collections.abc import AsyncIterator, Sequence
from typing import Any

import sqlalchemy as sa

from instantid_serve.messages import GenerationSpec
from instantid_serve.service.database import Database, open_database
from instantid_serve.service.dispatcher import Dispatcher
from instantid_serve.service.ids import new_id
from instantid_serve.service.job import JobStatus, NewJob
from instantid_serve.service.job_queue import JobQueue
from instantid_serve.service.jobs import Jobs
from instantid_serve.service.tables import jobs as table
from instantid_serve.service.tables import webhook_deliveries, webhook_endpoints
from instantid_serve.service.tenants import Tenants
from instantid_serve.service.webhook_schedule import DELAYS_S
from instantid_serve.service.webhooks import Webhooks
from instantid_serve.settings import DispatcherSettings, TenancySettings
from load_tests.bench import broken_receivers, plots, postgres
from load_tests.bench.harness import Run, main, percentile
from load_tests.bench.pretended import PretendedStages
from load_tests.bench.traffic import arrivals_s

MEASURED = "A quiet tenant's jobs while another tenant's webhook receivers are down, hang, answer 500, redirect or end."
ALONE, BESIDE, BROKEN = "alone", "beside another tenant", "beside broken receivers"
QUIET = "quiet"
STEP_S, STEPS = 0.04, 10
SPREAD = (0.8, 1.2)  # a fifth more or less
LATE_S = 2.0  # from an attempt's end until its row is settled, and from when one is due until it is sent
PATIENCE_S = 60.0


@dataclasses.dataclass(frozen=True, slots=True)
class Traffic:
    """One repetition: a quiet tenant's jobs and another's, per second each, for so long."""

    rate_per_s: float
    duration_s: float
    seed: int


class Service:
    """The service's own parts over one database."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.database: Database = open_database(url)
        self.jobs = Jobs(self.database)
        self.tenants = Tenants(self.database, TenancySettings(max_queued_jobs=1_000_000))
        self.webhooks = Webhooks(self.database, lambda _url: None)

    def hand_in(self, tenant: str) -> None:
        """Accept one job."""
        job_id = new_id("gen")
        spec = GenerationSpec("a portrait", seed=7, width=64, height=64, steps=STEPS)
        self.jobs.accept(self.tenants.ensure(tenant), [NewJob(job_id, spec, (f"{tenant}/{job_id}/photo",))])

    def rows(self, columns: sa.Table, *where: sa.ColumnElement[bool]) -> Sequence[sa.Row[Any]]:
        """Rows of a table."""
        with self.database.read() as connection:
            return connection.execute(sa.select(columns).where(*where)).all()

    def forget(self) -> None:
        """Empty what one repetition could leave to the next."""
        with self.database.write() as connection:
            for gone in (webhook_deliveries, webhook_endpoints, table):
                connection.execute(sa.delete(gone))


def measure(run: Run) -> None:
    """Measure the three in turn."""
    repetitions = run.parameter("repetitions", full=5, quick=1)
    rate_per_s = run.parameter("jobs of each tenant per second", full=6.0, quick=4.0)
    duration_s = run.parameter("duration_s", full=16.0, quick=3.0)
    run.parameters |= {"step_s": STEP_S, "steps": STEPS, "receivers": broken_receivers.KINDS}
    with postgres.database_url(migrated=True) as url, broken_receivers.receivers() as ports:
        service = Service(url)
        for repetition, arm in run.interleaved((ALONE, BESIDE, BROKEN), repetitions):
            with broken_receivers.courier(url, tuple(ports.values())):
                asyncio.run(play(service, arm, ports, Traffic(rate_per_s, duration_s, repetition)))
            record(run, service, arm)
            service.forget()
        service.database.close()
    conclude(run)


async def play(service: Service, arm: str, ports: dict[str, int], traffic: Traffic) -> None:
    """Let all jobs of one repetition arrive, and wait until they are done."""
    other = "other"
    for tenant in (QUIET, other):
        service.tenants.ensure(tenant)
    if arm == BROKEN:
        for port in ports.values():
            service.webhooks.create(other, f"http://127.0.0.1:{port}/hook")
    tenants = [QUIET] if arm == ALONE else [QUIET, other]
    async with dispatching(service), asyncio.TaskGroup() as group:
        for number, tenant in enumerate(tenants):
            group.create_task(arrive(service, tenant, traffic, traffic.seed * 2 + number))
    left = [row for row in service.rows(table) if row.status != JobStatus.SUCCEEDED]
    if left:
        raise RuntimeError(f"{len(left)} jobs did not succeed")


async def arrive(service: Service, tenant: str, traffic: Traffic, seed: int) -> None:
    """Hand in a tenant's jobs at their times, whatever becomes of them, and wait until all are done."""
    loop = asyncio.get_running_loop()
    began_s = loop.time()
    for at_s in arrivals_s(seed, traffic.rate_per_s, traffic.duration_s):
        await asyncio.sleep(max(0.0, began_s + at_s - loop.time()))
        await asyncio.to_thread(service.hand_in, tenant)
    unfinished = (table.c.tenant == tenant, table.c.finished_at.is_(None))
    async with asyncio.timeout(PATIENCE_S):
        while await asyncio.to_thread(service.rows, table, *unfinished):  # noqa: ASYNC110 - asked of a database
            await asyncio.sleep(0.2)


@contextlib.asynccontextmanager
async def dispatching(service: Service) -> AsyncIterator[None]:
    """A dispatcher at work, with room for all that arrives."""
    settings = DispatcherSettings(max_pictures_in_flight=64, poll_s=0.05)
    dispatcher = Dispatcher(JobQueue(service.database), PretendedStages(STEP_S), settings, "bench")
    running = asyncio.create_task(dispatcher.run())
    try:
        yield
    finally:
        await dispatcher.stop()
        await running


def record(run: Run, service: Service, arm: str) -> None:
    """The quiet tenant's latencies, and what the couriers did to the rest."""
    done = service.rows(table, table.c.tenant == QUIET)
    latencies = [row.finished_at - row.created_at for row in done]
    run.record(f"{arm}: latency p50", percentile(latencies, 50), "s")
    run.record(f"{arm}: latency p95", percentile(latencies, 95), "s")
    if arm == BROKEN:
        deliveries = service.rows(webhook_deliveries)
        run.record("attempts to deliver", sum(len(row.attempts) for row in deliveries), "attempts")
        run.record("deliveries taken", sum(row.status == "delivered" for row in deliveries), "deliveries")
        run.record("attempts off the schedule", sum(map(off_schedule, deliveries)), "attempts")
        waited_s = [after - before for row in deliveries for before, after in itertools.pairwise(begun(row))]
        run.raw.setdefault("seconds between attempts", []).append([round(s, 2) for s in waited_s[:200]])


def begun(row: sa.Row[Any]) -> list[float]:
    """When a delivery's attempts began, seconds since the epoch."""
    return [attempt["at"] for attempt in row.attempts]


def off_schedule(row: sa.Row[Any]) -> int:
    """How many of a delivery's attempts came, or are due, at another time than the schedule's."""
    ends = [attempt["at"] + attempt["took_s"] for attempt in row.attempts]
    nexts = [attempt["at"] for attempt in row.attempts[1:]]
    if row.status == "pending" and row.attempts:
        nexts.append(row.due_at)
    wrong = 0
    for tries, (ended_s, next_s) in enumerate(zip(ends, nexts, strict=False), start=1):
        wait_s = next_s - ended_s
        wrong += not DELAYS_S[tries] * SPREAD[0] - 0.01 <= wait_s <= DELAYS_S[tries] * SPREAD[1] + LATE_S
    return wrong


def conclude(run: Run) -> None:
    """Compare the three, repetition by repetition."""
    run.ratio("p95 beside broken receivers / alone", f"{BROKEN}: latency p95", f"{ALONE}: latency p95")
    run.ratio("p95 beside broken receivers / beside another tenant", f"{BROKEN}: latency p95", f"{BESIDE}: latency p95")
    claim = "p95 of a quiet tenant's jobs beside another's broken webhook receivers, of"
    run.require("p95 beside broken receivers / alone", at_most=1.1, claim=f"{claim} its p95 alone")
    metric = "p95 beside broken receivers / beside another tenant"
    run.require(metric, at_most=1.1, claim=f"{claim} its p95 beside the same jobs without webhooks")
    claim = "attempts to reach broken receivers that came at another time than the schedule's"
    run.require("attempts off the schedule", at_most=0, every=True, claim=claim)
    run.note("The stages only sleep; dispatcher, courier (a process of its own) and PostgreSQL are the service's own.")
    run.note("The schedule's later attempts, days apart, are held by tests/unit/service/test_delivery_queue.py.")
    names = [f"{arm}: latency p95" for arm in (ALONE, BESIDE, BROKEN)]
    run.draw(lambda figure: plots.spread(figure, run, names, "Quiet tenant's jobs, latency p95"))


if __name__ == "__main__":
    sys.exit(main("Webhook-outage", MEASURED, measure))
