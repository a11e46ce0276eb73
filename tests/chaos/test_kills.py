"""Processes die at any line; accepted jobs still end, once each."""

import os
import signal
import time

import pytest


@pytest.fixture(scope="module")
def served(serve_with):
    """The application, with a short lease."""
    with serve_with() as running:
        yield running


def mid_denoise(http, served, jobs=3):
    """Submit jobs and return them once denoising has begun but is not nearly done."""
    form = {"prompt": "a portrait", "steps": 40, "width": 256, "height": 256}
    sent = [
        http.post("/v1/generations", data={**form, "seed": seed}, files={"image": served.photo}).json()
        for seed in range(jobs)
    ]
    ends = time.monotonic() + 30
    while time.monotonic() < ends:
        steps = [http.get(f"/v1/generations/{job['id']}").json()["progress"]["step"] for job in sent]
        if sum(steps) > 0:
            assert sum(steps) < 40 * jobs
            return sent
        time.sleep(0.05)
    raise AssertionError("denoising did not begin")


def outcomes(http, jobs, timeout_s=90):
    """The jobs once all have ended."""
    ends = time.monotonic() + timeout_s
    while time.monotonic() < ends:
        found = [http.get(f"/v1/generations/{job['id']}").json() for job in jobs]
        if all(job["done"] for job in found):
            return found
        time.sleep(0.2)
    raise AssertionError([(job["status"], job["attempts"]) for job in found])


def assert_one_result_each(http, jobs):
    for job in jobs:
        assert job["status"] == "succeeded", job["error"]
        assert job["attempts"] == 2
        (image,) = job["images"]
        assert http.get(image["url"]).status_code == 200
    assert len({job["images"][0]["sha256"] for job in jobs}) == len(jobs)


@pytest.mark.parametrize("victim", ["Generator", "Dispatcher"])
def test_jobs_end_with_one_result_each_after_kill_9(served, victim):
    with served.http() as http:
        jobs = mid_denoise(http, served)
        (pid,) = served.pids(victim)

        os.kill(pid, signal.SIGKILL)

        assert_one_result_each(http, outcomes(http, jobs))
        assert served.pids(victim) != {pid}
