"""Generators are stopped mid-denoise; their pictures go on elsewhere, at their step and with the same bits."""

import time

import pytest
from chaos_jobs import mid_denoise, outcomes
from doubles.counted import steps_file
from served_application import with_generators

from instantid_serve.serving import up

JOBS, STEPS = 3, 40


@pytest.fixture(scope="module")
def served(serve_with):
    """The application with two Generators that count their steps.

    One request a step: a picture's last bits depend on the size of the batches it was in, and who shares a batch after
    a move is not what it was before.
    """
    engine = {"max_batch_rows": 2}
    generators = {"num_replicas": 2, "num_cpus": 0.5}
    return serve_with(engine=engine, import_path="doubles.counted:build", generators=generators)


@pytest.fixture(scope="module")
def undisturbed(served):
    """The pictures' digests, by seed, when nothing is stopped."""
    with served.http() as http:
        return digests(outcomes(http, mid_denoise(http, served, JOBS, STEPS)))


def digests(jobs):
    return {job["images"][0]["seed"]: job["images"][0]["sha256"] for job in jobs}


def steps_run(served):
    path = steps_file(served.config.settings.results.folder)
    return sum(map(int, path.read_text().split()))


def moves(jobs):
    return sum(job["images"][0]["stats"]["moves"] for job in jobs)


def run_generators(served, num_replicas, num_cpus=0.5):
    """Ask for so many Generators, and do not wait for them."""
    up.deploy(with_generators(served.config, num_replicas=num_replicas, num_cpus=num_cpus))


def pids_once_there_are(served, count):
    ends = time.monotonic() + 60
    while len(pids := served.pids("Generator")) != count:
        assert time.monotonic() < ends, pids
        time.sleep(0.1)
    return pids


def disturbed(served, stop):
    """The ended jobs that ``stop`` was called in the midst of, and how many steps were run for them."""
    before = steps_run(served)
    with served.http() as http:
        jobs = mid_denoise(http, served, JOBS, STEPS)
        stop()
        return outcomes(http, jobs), steps_run(served) - before


def assert_nothing_was_lost(jobs, steps, undisturbed):
    assert [(job["status"], job["attempts"]) for job in jobs] == [("succeeded", 1)] * JOBS
    assert moves(jobs) > 0
    assert steps == JOBS * STEPS
    assert digests(jobs) == undisturbed


def test_fewer_generators_repeat_no_step(served, undisturbed):
    run_generators(served, 2)
    before = pids_once_there_are(served, 2)

    jobs, steps = disturbed(served, lambda: run_generators(served, 1))

    assert_nothing_was_lost(jobs, steps, undisturbed)
    assert pids_once_there_are(served, 1) < before


def test_an_update_of_the_only_generator_repeats_no_step(served, undisturbed):
    run_generators(served, 1)
    before = pids_once_there_are(served, 1)

    jobs, steps = disturbed(served, lambda: run_generators(served, 1, num_cpus=0.4))

    assert_nothing_was_lost(jobs, steps, undisturbed)
    assert not pids_once_there_are(served, 1) & before
