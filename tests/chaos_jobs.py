"""Jobs for the chaos tests: some that are being denoised, and how they ended."""

import time


def mid_denoise(http, served, jobs, steps):
    """Submit jobs, seeds from 0, and return them once denoising has begun but is not nearly done."""
    form = {"prompt": "a portrait", "steps": steps, "width": 192, "height": 192}
    sent = [
        http.post("/v1/generations", data={**form, "seed": seed}, files={"image": served.photo}).json()
        for seed in range(jobs)
    ]
    ends = time.monotonic() + 30
    while time.monotonic() < ends:
        done = [http.get(f"/v1/generations/{job['id']}").json()["progress"]["step"] for job in sent]
        if sum(done) > 0:
            assert sum(done) < steps * jobs
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
