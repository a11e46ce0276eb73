"""Whether a job is lost, doubled or spoiled while processes of the whole service are killed at random.

The miniature at 64 px behind Ray Serve on PostgreSQL. Callers hand in jobs at a steady rate and repeat with the same
`Idempotency-Key` what was not answered. Meanwhile replicas are killed with SIGKILL, and dispatchers are now and then
paused for longer than a lease, which makes them come back with ends that are too late.
"""

from __future__ import annotations

import asyncio
import dataclasses
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from load_tests.bench import postgres, served
from load_tests.bench.harness import Run, main
from load_tests.bench.job_history import History, wait_for_all
from load_tests.bench.killer import KILL, PAUSE, Blow, Killer
from load_tests.bench.patient_clients import PatientClients
from load_tests.bench.ray_counters import RayCounters

MEASURED = "Random kills of every part of the service on PostgreSQL, and what became of the jobs handed in meanwhile."
REPLICAS = {"Dispatcher": 2, "Generator": 2}  # one of the rest: while it starts again, callers hear nothing
PLAN = (
    (KILL, "Dispatcher"),
    (KILL, "Generator"),
    (KILL, "Api"),
    (PAUSE, "Dispatcher"),
    (KILL, "Dispatcher"),
    (KILL, "Generator"),
    (KILL, "Api"),
    (KILL, "Housekeeper"),
)
FORM = {"prompt": "a portrait", "width": "64", "height": "64", "steps": "20", "exact": "true"}
SEEDS = 50
UPLOAD_S = 1.0  # of a picture: so that a dispatcher that is paused has some whose end is all that is left
LEASE_S = 3.0
PAUSED_S = 5.0
# Blows come a thousand times as often as anywhere: three attempts, the default, are for jobs that kill their workers.
MAX_ATTEMPTS = 10
REST_S = 180.0  # for what is left after the last job was handed in
LAST_COUNTS_S = 12.0  # replicas tell Ray what they counted every ten seconds


def measure(run: Run) -> None:
    """Hand in the jobs, strike meanwhile, and read the history when all is over."""
    jobs = run.parameter("jobs", full=1000, quick=40)
    rate_per_s = run.parameter("handed in per second", full=3.0, quick=2.0)
    pauses_s = run.parameter("seconds between blows", full=(4.0, 12.0), quick=(3.0, 5.0))
    run.parameters |= {
        "replicas": REPLICAS,
        "upload_s": UPLOAD_S,
        "lease_s": LEASE_S,
        "paused_s": PAUSED_S,
        "max_attempts": MAX_ATTEMPTS,
    }
    with postgres.database_url() as url, served.application(settings(url), REPLICAS) as app:
        app.upload_takes(UPLOAD_S)
        results = Path(app.config.application.args["results"]["folder"])
        clients = PatientClients(app.config.url, served.KEY, app.photo, FORM, SEEDS)
        killer = Killer(app.pids, PLAN, pauses_s, PAUSED_S, seed=1)
        began_s = time.monotonic()
        counters = asyncio.run(play(clients, killer, url, jobs, rate_per_s))
        run.value("seconds until the last job was done", time.monotonic() - began_s - LAST_COUNTS_S, "s")
        history = History.read(url, served.TENANT, results, clients.answered)
        record(run, clients, killer.blows, history, counters)


def settings(url: str) -> dict[str, Any]:
    """What differs from `deployments/local.yaml`."""
    return {
        "database": {"url": url},
        "dispatcher": {
            "lease_s": LEASE_S,
            "heartbeat_s": 0.5,
            "max_attempts": MAX_ATTEMPTS,
            "release_delay_s": 0.5,
        },
        "tenancy": {"requests_per_minute": 1_000_000, "max_queued_jobs": 1_000_000},
    }


async def play(clients: PatientClients, killer: Killer, url: str, jobs: int, rate_per_s: float) -> RayCounters:
    """Run it all, and return what was counted."""
    counters, over = RayCounters(), asyncio.Event()
    following = asyncio.create_task(counters.follow())
    striking = asyncio.create_task(killer.strike(lambda: not over.is_set()))
    await clients.hand_in(jobs, rate_per_s)
    over.set()
    await asyncio.to_thread(wait_for_all, url, REST_S)
    await striking
    await clients.ask_again()
    await asyncio.sleep(LAST_COUNTS_S)
    following.cancel()
    return counters


def record(run: Run, clients: PatientClients, blows: list[Blow], history: History, counters: RayCounters) -> None:
    """Everything that was seen, and what has to be so."""
    by_kind = Counter(f"{blow.how} {blow.deployment}" for blow in blows)
    for kind, number in sorted(by_kind.items()):
        run.value(kind, number, "times")
    run.value("processes killed", sum(blow.how == KILL for blow in blows), "processes")
    run.value("jobs answered with 202", len(clients.answered), "jobs")
    run.value("requests that had to be repeated", clients.unanswered, "requests")
    for attempts, number in sorted(history.attempts().items()):
        run.value(f"jobs of {attempts} attempts", number, "jobs")
    run.value("jobs taken back, by the history", history.reclaims(), "times")
    run.value("instantid_lease_reclaims_total", counters.total("instantid_lease_reclaims_total"), "times")
    rejected = counters.total("instantid_stale_commits_rejected_total")
    run.value("instantid_stale_commits_rejected_total", rejected, "times")
    run.value("pictures of attempts that were cut off", history.abandoned(), "pictures")
    run.require("processes killed", at_least=20, claim="processes that were killed with SIGKILL")
    for fault, number in history.faults().items():
        run.value(fault, number, "jobs" if "jobs" in fault else "times")
        run.require(fault, at_most=0, claim=f"of {len(clients.answered)} jobs under random kills: {fault}")
    run.attach("blows", [dataclasses.asdict(blow) for blow in blows])
    run.note(
        "A counter loses what a process had counted since it last told Ray, at most ten seconds, when it is killed."
    )
    run.note("Refused ends come from paused dispatchers; killed ones come back with nothing.")
    run.draw(lambda figure: timeline(figure, blows, history))


def timeline(figure: Figure, blows: list[Blow], history: History) -> None:
    """Jobs done over time, with every blow."""
    axes = figure.subplots()
    done = sorted(row.finished_at for row in history.rows.values() if row.finished_at)
    began_s = min(row.created_at for row in history.rows.values())
    axes.step([at - began_s for at in done], range(1, len(done) + 1), where="post", color="#1b6ca8")
    kinds = sorted({f"{blow.how} {blow.deployment}" for blow in blows})
    for number, kind in enumerate(kinds):
        at_s = [blow.at_s for blow in blows if f"{blow.how} {blow.deployment}" == kind]
        axes.plot(at_s, [len(done) * (1.06 + 0.06 * number)] * len(at_s), "|", ms=7, label=kind, color=f"C{number}")
    axes.set_xlabel("seconds")
    axes.set_ylabel("jobs done")
    axes.legend(frameon=False, loc="lower right")
    axes.set_title("Jobs done while processes are killed", loc="left")


if __name__ == "__main__":
    sys.exit(main("Kills", MEASURED, measure))
