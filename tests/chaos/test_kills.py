"""Processes die at any line; accepted jobs still end, once each."""

import os
import signal
import time

import pytest

STEPS = 40


@pytest.fixture(scope="module")
def served(serve_with):
    """The application, with a short lease."""
    return serve_with()


def mid_denoise(http, served, jobs=2):
    """Submit jobs and return them once denoising has begun but is not nearly done."""
    form = {"prompt": "a portrait", "steps": STEPS, "width": 192, "height": 192}
    sent = [
        http.post("/v1/generations", data={**form, "seed": seed}, files={"image": served.photo}).json()
        for seed in range(jobs)
    ]
    ends = time.monotonic() + 30
    while time.monotonic() < ends:
        steps = [http.get(f"/v1/generations/{job['id']}").json()["progress"]["step"] for job in sent]
        if sum(steps) > 0:
            assert sum(steps) < STEPS * jobs
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
        (image,) = job["images"]
        assert http.get(image["url"]).status_code == 200
    assert len({job["images"][0]["sha256"] for job in jobs}) == len(jobs)
    assert max(job["attempts"] for job in jobs) == 2  # one that had not begun yet needs but one


@pytest.mark.parametrize("victim", ["Generator", "Dispatcher"])
def test_jobs_end_with_one_result_each_after_kill_9(served, victim):
    with served.http() as http:
        jobs = mid_denoise(http, served)
        (pid,) = served.pids(victim)

        os.kill(pid, signal.SIGKILL)

        assert_one_result_each(http, outcomes(http, jobs))
        assert served.pids(victim) != {pid}
