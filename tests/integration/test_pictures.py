"""Photo and prompt in, picture out, over HTTP: the same tests on every kind of result store."""

import base64
import hashlib
import io
import time

import numpy as np
import pytest
from PIL import Image

STEPS = 4


@pytest.fixture(
    scope="module",
    params=["folder", "moto_bucket", pytest.param("real_bucket", marks=pytest.mark.s3)],
)
def served(request, serve_with):
    """The application, over one of the result stores."""
    return serve_with(None if request.param == "folder" else request.getfixturevalue(request.param))


def submit(http, photo, *, wait_s=None, **fields):
    """Send a form and return the job."""
    form = {"prompt": "a portrait", "steps": STEPS, "seed": 7, **fields}
    headers = {} if wait_s is None else {"Prefer": f"wait={wait_s}"}
    response = http.post("/v1/generations", data=form, files={"image": photo}, headers=headers)
    assert response.status_code in (200, 202), response.text
    return response.json()


def finished(http, job, timeout_s=60):
    """Poll until the job is done."""
    ends = time.monotonic() + timeout_s
    while not job["done"] and time.monotonic() < ends:
        time.sleep(0.05)
        job = http.get(f"/v1/generations/{job['id']}").json()
    assert job["done"], job
    return job


def picture(http, job, index=0):
    """The bytes of a finished job's picture."""
    response = http.get(job["images"][index]["url"])
    assert response.status_code == 200
    return response.content


def test_a_form_waited_for_answers_with_the_picture(served):
    with served.http() as http:
        job = submit(http, served.photo, wait_s=60)

        data = picture(http, job)

    image = job["images"][0]
    pixels = np.asarray(Image.open(io.BytesIO(data)))
    assert (job["status"], job["progress"]) == ("succeeded", {"step": STEPS, "steps": STEPS})
    assert pixels.shape == (128, 128, 3)
    assert pixels.std() > 5  # a picture, not a blank
    assert hashlib.sha256(data).hexdigest() == image["sha256"]
    assert (len(data), image["seed"]) == (image["size_bytes"], 7)
    assert image["stats"]["steps"] == STEPS
    assert job["timings"]


def test_json_polled_for_gives_the_same_picture_as_the_form(served):
    with served.http() as http:
        fields = {"prompt": "a portrait", "steps": STEPS, "seed": 7}
        body = {**fields, "image": base64.b64encode(served.photo).decode()}
        response = http.post("/v1/generations", json=body)
        assert response.status_code == 202
        job = finished(http, response.json())

        again = submit(http, served.photo, wait_s=60)

        assert picture(http, job) == picture(http, again)


def test_several_tenants_at_once_get_their_own_pictures_and_nobody_elses(served):
    with served.http("acme") as acme, served.http("other") as other, served.http("third") as third:
        clients = [acme, other, third]
        jobs = [submit(http, served.photo, seed=100 + 10 * i, count=2) for i, http in enumerate(clients)]

        done = [finished(http, job) for http, job in zip(clients, jobs, strict=True)]

        digests = {image["sha256"] for job in done for image in job["images"]}
        assert len(digests) == 6
        assert acme.get(f"/v1/generations/{jobs[1]['id']}").status_code == 404
        assert acme.get(done[1]["images"][0]["url"]).status_code == 404
        assert acme.post(f"/v1/generations/{jobs[1]['id']}/cancel").status_code == 404


def test_a_seed_gives_the_same_bytes_alone_and_in_company(served):
    with served.http() as http:
        alone = picture(http, submit(http, served.photo, wait_s=60, seed=5))
        company = [submit(http, served.photo, seed=seed) for seed in (1, 5, 9)]
        again = picture(http, finished(http, company[1]))

    difference = np.abs(np.asarray(Image.open(io.BytesIO(alone)), int) - np.asarray(Image.open(io.BytesIO(again)), int))
    assert difference.max() <= 1  # batches of other sizes round differently in the last place


def test_formats_and_sizes_come_out_as_asked(served):
    with served.http() as http:
        job = submit(http, served.photo, wait_s=60, output_format="webp", width=192, height=128, fit="pad", steps=1)
        data = picture(http, job)

    image = Image.open(io.BytesIO(data))
    assert (image.format, image.size) == ("WEBP", (192, 128))


def test_the_sdk_submits_waits_and_fetches(served):
    with served.sdk() as client:
        job = client.wait(client.submit(served.photo, "a portrait", steps=STEPS, seed=3), timeout_s=60)

        assert job.failure is None
        assert client.fetch(job, 0).startswith(b"\x89PNG")


def test_a_cancel_ends_a_running_job_and_frees_the_generator(served):
    with served.http() as http:
        job = submit(http, served.photo, steps=100, count=4, width=512, height=512)
        while http.get(f"/v1/generations/{job['id']}").json()["progress"]["step"] == 0:
            time.sleep(0.05)

        began = time.monotonic()
        http.post(f"/v1/generations/{job['id']}/cancel")
        ended = finished(http, job, timeout_s=10)

        assert ended["status"] == "canceled"
        assert time.monotonic() - began < 5
        assert submit(http, served.photo, wait_s=20, steps=1)["status"] == "succeeded"


def test_a_photo_without_a_face_fails_with_its_code(served):
    stream = io.BytesIO()
    Image.effect_noise((300, 300), 50).convert("RGB").save(stream, "PNG")

    with served.http() as http:
        job = submit(http, stream.getvalue(), wait_s=30)

    assert (job["status"], job["error"]["code"]) == ("failed", "face_not_found")
    assert job["error"]["retryable"] is False
    assert job["attempts"] == 1
