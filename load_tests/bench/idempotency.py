"""Many requests with one idempotency key at the same moment: exactly one of them may make a job.

Run as ``python -m load_tests.bench.idempotency [URL ...]``; without a URL, on an SQLite file of its own. A database
that is named keeps the tenant and the jobs.
"""

from __future__ import annotations

import argparse
import tempfile
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from instantid_serve.messages import GenerationSpec
from instantid_serve.service.database import open_database, upgrade
from instantid_serve.service.idempotency import IdempotencyKey
from instantid_serve.service.ids import new_id
from instantid_serve.service.job import NewJob
from instantid_serve.service.jobs import Accepted, Jobs
from instantid_serve.service.tenants import Tenant, Tenants
from instantid_serve.settings import TenancySettings

THREADS = 50
ROUNDS = 1000
TENANT = "bench-idempotency"
SPEC = GenerationSpec(prompt="a portrait", seed=7, width=64, height=64)
TIMEOUT_S = 60.0


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the rounds on every database, and say what came of them; ends with an error when a key made two jobs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("urls", nargs="*")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        for url in options.urls or [f"sqlite:///{folder}/jobs.sqlite3"]:
            _run(url, options.rounds)


def _run(url: str, rounds: int) -> None:
    database = open_database(url, busy_timeout_s=TIMEOUT_S)
    upgrade(database)
    tenants = Tenants(database, TenancySettings())
    tenants.ensure(TENANT)
    tenant = tenants.change(TENANT, {"max_queued_jobs": 1_000_000})
    jobs = Jobs(database)
    began_s = time.monotonic()
    with ThreadPoolExecutor(THREADS) as pool:
        wrong = sum(not _one_job(_round(jobs, tenant, pool)) for _ in range(rounds))
    took_s = time.monotonic() - began_s
    database.close()
    kind = "postgresql" if database.is_postgresql else "sqlite"
    print(f"{kind}: {rounds} rounds of {THREADS} threads, {wrong} with other than one job, {took_s:.0f} s")
    if wrong:
        raise SystemExit(1)


def _round(jobs: Jobs, tenant: Tenant, pool: ThreadPoolExecutor) -> list[Accepted]:
    """The answers to as many equal requests as there are threads, all sent at one moment."""
    key = IdempotencyKey(new_id("gen"), "the same")
    together = threading.Barrier(THREADS)

    def send() -> Accepted:
        job_id = new_id("gen")
        together.wait(TIMEOUT_S)
        return jobs.accept(tenant, [NewJob(job_id, SPEC, (f"{TENANT}/{job_id}/photo",))], key)

    return [answer.result(TIMEOUT_S) for answer in [pool.submit(send) for _ in range(THREADS)]]


def _one_job(answers: Sequence[Accepted]) -> bool:
    made = [answer for answer in answers if not answer.replayed]
    return len(made) == 1 and len({answer.jobs[0].id for answer in answers}) == 1


if __name__ == "__main__":
    main()
