"""Every part is killed while callers hand in jobs, on PostgreSQL; load_tests/bench/kills.py does more of it."""

import asyncio
from pathlib import Path

import pytest
from served_application import KEYS

from load_tests.bench.job_history import History, wait_for_all
from load_tests.bench.killer import KILL, Killer
from load_tests.bench.patient_clients import PatientClients

JOBS = 40
FORM = {"prompt": "a portrait", "width": "64", "height": "64", "steps": "6", "exact": "true"}
VICTIMS = ("Dispatcher", "Api", "Generator", "Housekeeper")


@pytest.fixture(scope="module")
def database_url(postgres):
    return postgres.create_database(migrated=True)  # it goes with its server: the application is still served


@pytest.fixture(scope="module")
def served(serve_with, database_url):
    return serve_with(database=database_url)


async def test_no_job_is_lost_or_doubled_while_every_part_is_killed(served, database_url):
    clients = PatientClients(served.url, KEYS["acme"], served.photo, FORM, seeds=5)
    killer = Killer(served.pids, [(KILL, victim) for victim in VICTIMS], pauses_s=(1.0, 3.0), paused_s=0.0, seed=1)
    striking = asyncio.create_task(killer.strike(lambda: len(killer.blows) < len(VICTIMS)))

    await clients.hand_in(JOBS, rate_per_s=4.0)
    await striking
    await asyncio.to_thread(wait_for_all, database_url, 60.0)
    await clients.ask_again()

    history = History.read(database_url, "acme", Path(served.config.settings.results.folder), clients.answered)
    assert [blow.deployment for blow in killer.blows] == list(VICTIMS)
    assert len(history.rows) == JOBS
    assert not {fault: number for fault, number in history.faults().items() if number}
