"""Processes die at any line; accepted jobs still end, once each."""

import os
import signal

import pytest
from chaos_jobs import mid_denoise, outcomes

STEPS = 40


@pytest.fixture(scope="module")
def served(serve_with):
    """The application, with a short lease."""
    return serve_with()


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
        jobs = mid_denoise(http, served, 2, STEPS)
        (pid,) = served.pids(victim)

        os.kill(pid, signal.SIGKILL)

        assert_one_result_each(http, outcomes(http, jobs))
        assert served.pids(victim) != {pid}
