"""Overload: pictures done when two and five times as much arrives as can be made, and how soon the rest is told."""

from __future__ import annotations

import asyncio
import dataclasses
import random
import sqlite3
import sys
import time
from collections.abc import Sequence
from typing import Any

import httpx2
import psutil

from load_tests.bench import served
from load_tests.bench.harness import Run, main, percentile

MEASURED = (
    "Through Ray Serve, jobs that arrive at random times, whatever becomes of those before (an open loop), at 2 and 5 "
    "times the rate at which a full queue is worked off: pictures done per second, seconds until a refusal, and memory."
)
QUEUE = 32  # jobs that may wait
LOADS = {"2x": 2.0, "5x": 5.0}
ACCEPTED, REFUSED = 202, 429


@dataclasses.dataclass(frozen=True, slots=True)
class Answers:
    """What the clients of one phase were told: refusals with how long they took (seconds), and everything else."""

    refusals_s: list[float]
    accepted: int
    others: list[str]


class Client:
    """Submits jobs to a served application, and looks into its database for what became of them."""

    def __init__(self, application: served.Application, side_px: int, steps: int) -> None:
        self._application = application
        self._form = {"prompt": "a portrait", "width": str(side_px), "height": str(side_px), "steps": str(steps)}
        url = application.config.application.args["database"]["url"]
        self._database = sqlite3.connect(f"file:{url.removeprefix('sqlite:///')}?mode=ro", uri=True)

    def done(self, since: float, until: float) -> int:
        """Pictures whose jobs were done in that time (seconds since the epoch)."""
        query = "SELECT count(*) FROM jobs WHERE status = 'succeeded' AND finished_at >= ? AND finished_at < ?"
        return int(self._database.execute(query, (since, until)).fetchone()[0])

    def empty(self) -> None:
        """Wait until nothing waits or runs."""
        while self._database.execute("SELECT count(*) FROM jobs WHERE status IN ('queued', 'running')").fetchone()[0]:
            time.sleep(0.1)

    async def _post(self, http: httpx2.AsyncClient) -> tuple[int, float]:
        began_s = time.perf_counter()
        answer = await http.post("/v1/generations", data=self._form, files={"image": self._application.photo})
        return answer.status_code, time.perf_counter() - began_s

    async def arrive(self, rate_per_s: float, duration_s: float, seed: int) -> Answers:
        """Submit at random moments."""
        chance, loop, sent = random.Random(seed), asyncio.get_running_loop(), []
        at_s, ends_s = loop.time(), loop.time() + duration_s
        async with self._http() as http:
            while (at_s := at_s + chance.expovariate(rate_per_s)) < ends_s:
                await asyncio.sleep(max(0.0, at_s - loop.time()))
                sent.append(asyncio.create_task(self._post(http)))
            answers = await asyncio.gather(*sent, return_exceptions=True)
        told = [answer for answer in answers if isinstance(answer, tuple)]
        others = [str(code) for code, _ in told if code not in (ACCEPTED, REFUSED)]
        others += [type(answer).__name__ for answer in answers if not isinstance(answer, tuple)]
        return Answers([took for code, took in told if code == REFUSED], sum(c == ACCEPTED for c, _ in told), others)

    async def fill(self) -> None:
        """Submit as many jobs as may wait."""
        async with self._http() as http:
            await asyncio.gather(*(self._post(http) for _ in range(QUEUE)))

    def _http(self) -> httpx2.AsyncClient:
        return httpx2.AsyncClient(
            base_url=self._application.config.url,
            headers={"Authorization": f"Bearer {served.KEY}"},
            timeout=60.0,
            trust_env=False,
            limits=httpx2.Limits(max_connections=64),
        )


def measure(run: Run) -> None:
    """The full queue's own rate first, then the loads by turns."""
    side_px = run.parameter("side_px", full=128, quick=64)
    steps = run.parameter("steps", full=12, quick=2)
    duration_s = run.parameter("a phase (s)", full=25.0, quick=2.0)
    repetitions = run.parameter("repetitions", full=3, quick=1)
    run.parameters["jobs that may wait"] = QUEUE
    overrides: dict[str, Any] = {"tenancy": {"max_queued_jobs": QUEUE, "requests_per_minute": 1_000_000}}
    with served.application(overrides) as application:
        client = Client(application, side_px, steps)
        asyncio.run(client.fill())  # the photo is known and all is warm from here on
        client.empty()
        for repetition, name in run.interleaved(("peak", *LOADS), repetitions):
            if name == "peak":
                run.record("peak pictures/s", _peak(client), "pictures/s")
            else:
                _phase(run, client, name, duration_s, repetition)
            client.empty()
            run.record("memory of the API's replica", _api_bytes(application) / 1e6, "MB")
    _conclude(run)


def _peak(client: Client) -> float:
    """How fast a full queue is worked off."""
    began = time.time()
    asyncio.run(client.fill())
    client.empty()
    return client.done(began, time.time()) / (time.time() - began)


def _phase(run: Run, client: Client, name: str, duration_s: float, seed: int) -> None:
    began = time.time()
    answers = asyncio.run(client.arrive(LOADS[name] * run.median("peak pictures/s"), duration_s, seed))
    warm_s = duration_s / 5  # until the queue is full
    run.record(
        f"{name} pictures/s", client.done(began + warm_s, began + duration_s) / (duration_s - warm_s), "pictures/s"
    )
    run.record(f"{name} refused", len(answers.refusals_s), "requests")
    run.record(f"{name} neither accepted nor refused", len(answers.others), "requests")
    if answers.refusals_s:
        run.record(f"{name} refusals, p99", percentile(answers.refusals_s, 99), "s")
        run.record(f"{name} refusals, median", percentile(answers.refusals_s, 50), "s")
    run.attach(f"{name} {seed}: seconds until a refusal", _rounded(answers.refusals_s))


def _rounded(values: Sequence[float]) -> list[float]:
    return [round(value, 4) for value in values]


def _api_bytes(application: served.Application) -> int:
    return sum(psutil.Process(pid).memory_info().rss for pid in application.pids("Api"))


def _conclude(run: Run) -> None:
    for name, share in {"2x": 0.90, "5x": 0.85}.items():
        run.ratio(f"{name} / peak", f"{name} pictures/s", "peak pictures/s")
        run.require(f"{name} / peak", at_least=share, claim=f"goodput at {name} is {share:.0%} of the peak")
        metric = f"{name} refusals, p99"
        if metric in run.samples:
            run.require(metric, at_most=0.1, claim=f"a refusal at {name} takes under 100 ms")
        run.require(
            f"{name} neither accepted nor refused", at_most=0, every=True, claim="nobody is left without an answer"
        )
    memory = run.samples["memory of the API's replica"]
    half = len(memory) // 2
    run.value("memory, last phases - first phases", max(memory[half:]) - max(memory[:half] or memory), "MB")
    run.require("memory, last phases - first phases", at_most=16.0, claim="the API's memory stays as it is")
    run.note("Peak: jobs done per second from a full queue of 32 to an empty one, the last unfull batches included.")


if __name__ == "__main__":
    sys.exit(main("overload", MEASURED, measure))
