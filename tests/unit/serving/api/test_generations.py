import asyncio
import base64
import hashlib
import io
import threading
import time

import pytest
from doubles.api_callers import KEYS, assert_problem
from PIL import Image

from instantid_serve import images
from instantid_serve.errors import DatabaseError, FaceNotFoundError, ImageCorruptError, QueueFullError
from instantid_serve.messages import StoredImage
from instantid_serve.service.fairness import Room
from instantid_serve.service.results import image_key


def finish(queue, store, *, data=b"\x89PNG picture", error=None):
    """Do what the dispatcher does to the oldest queued job, without making a picture."""
    (claim,) = queue.claim("tests", Room(1), 60)
    if error is not None:
        queue.settle_failed(claim.job.id, claim.fence, error.to_json())
        return claim.job
    key = image_key(claim.job.tenant, claim.job.id, claim.fence, 0, "png")
    store.put(key, data, "image/png")
    sha256 = hashlib.sha256(data).hexdigest()
    stored = StoredImage(key, "image/png", len(data), sha256, 384, 512, claim.job.spec.seed, {"denoise_s": 1.5})
    queue.settle_succeeded(claim.job.id, claim.fence, [stored], {"generate_s": 2.0})
    return claim.job


async def queued(queue):
    """Return once a job waits in the table."""
    while queue.counts()["queued"] == 0:  # noqa: ASYNC110 - a table has no event to wait for
        await asyncio.sleep(0.01)


async def test_a_form_is_accepted_with_202_and_the_jobs_address(submit):
    response = await submit(seed=7)

    job = response.json()
    assert response.status_code == 202
    assert response.headers["location"] == f"/v1/generations/{job['id']}"
    assert job["object"] == "generation"
    assert (job["status"], job["done"], job["images"], job["error"]) == ("queued", False, [], None)


async def test_json_with_base64_is_accepted_alike(submit, submit_json):
    form, json = (await submit(seed=7)).json(), (await submit_json(seed=7)).json()

    assert form["parameters"] == json["parameters"]


async def test_a_data_uri_is_base64_too(submit_json, photo):
    response = await submit_json(image="data:image/jpeg;base64," + base64.b64encode(photo).decode())

    assert response.status_code == 202


async def test_the_size_is_chosen_from_the_upright_photo_when_none_is_given(client):
    stream = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its side
    Image.new("RGB", (400, 300)).save(stream, "JPEG", exif=exif)

    response = await client.post("/v1/generations", data={"prompt": "x"}, files={"image": stream.getvalue()})

    parameters = response.json()["parameters"]
    assert (parameters["width"], parameters["height"]) == (384, 512)


async def test_a_given_size_is_kept(submit):
    parameters = (await submit(width=640, height=320)).json()["parameters"]

    assert (parameters["width"], parameters["height"]) == (640, 320)


async def test_a_missing_seed_is_drawn_and_told(submit):
    seeds = {(await submit()).json()["parameters"]["seed"] for _ in range(3)}

    assert len(seeds) == 3


async def test_the_photo_is_stored_upright_without_metadata_before_the_job_is_known(submit, jobs, store):
    job = jobs.get("acme", (await submit()).json()["id"])

    header = images.inspect(store.get(job.photos[0]), max_bytes=10**7)
    assert (header.format, header.width, header.height) == ("png", 300, 400)


async def test_a_job_that_is_refused_leaves_no_photo(app, client, photo, settings):
    class Full:
        def accept(self, *_, **__):
            raise QueueFullError("as many generations wait as may")

    app.state.context.intake._jobs = Full()

    response = await client.post("/v1/generations", data={"prompt": "x"}, files={"image": photo})

    assert_problem(response, 429, "queue_full")
    assert [path for path in settings.results.folder.rglob("*") if path.is_file()] == []


async def test_a_job_that_may_have_been_stored_keeps_its_photo(app, client, photo, store):
    class Silent:
        def accept(self, _tenant, new, *_, **__):
            self.new = new[0]
            raise DatabaseError("the database does not answer")

    app.state.context.intake._jobs = jobs = Silent()

    response = await client.post("/v1/generations", data={"prompt": "x"}, files={"image": photo})

    assert_problem(response, 503, "database_unavailable")
    assert store.size(jobs.new.photos[0]) is not None


async def test_prefer_wait_answers_200_with_the_finished_job(submit, queue, store):
    waiting = asyncio.create_task(submit(headers={"Prefer": "respond-async, wait=2"}))
    await queued(queue)

    finish(queue, store)

    response = await waiting
    assert response.status_code == 200
    assert response.headers["preference-applied"] == "wait=2"
    assert response.json()["status"] == "succeeded"


async def test_prefer_wait_answers_202_with_the_job_when_time_is_up(submit):
    response = await submit(headers={"Prefer": "wait=0"})

    assert response.status_code == 202
    assert response.json()["status"] == "queued"


@pytest.mark.parametrize(("sent", "applied"), [("wait=600", "wait=2"), ("wait", "wait=2"), ('wait="1"', "wait=1")])
async def test_a_wait_is_capped(submit, queue, store, sent, applied):
    waiting = asyncio.create_task(submit(headers={"Prefer": sent}))
    await queued(queue)
    finish(queue, store)

    assert (await waiting).headers["preference-applied"] == applied


@pytest.mark.parametrize("sent", ["wait=soon", "wait=-1", "waiting=3", "await=3", ""])
async def test_a_preference_that_makes_no_sense_is_ignored(submit, sent):
    response = await submit(headers={"Prefer": sent})

    assert response.status_code == 202
    assert "preference-applied" not in response.headers


async def test_a_finished_job_lists_its_pictures_without_their_storage_keys(submit, client, queue, store):
    job_id = (await submit(seed=7)).json()["id"]
    finish(queue, store)

    job = (await client.get(f"/v1/generations/{job_id}")).json()

    (image,) = job["images"]
    assert job["done"] is True
    assert job["timings"] == {"generate_s": 2.0}
    assert image["url"] == f"/v1/generations/{job_id}/images/0"
    assert (image["seed"], image["width"], image["stats"]) == (7, 384, {"denoise_s": 1.5})
    assert "key" not in image


async def test_a_failed_job_tells_the_code_and_the_facts(submit, client, queue, store):
    job_id = (await submit()).json()["id"]
    finish(queue, store, error=FaceNotFoundError("there is no face in the photo", {"advice": "come closer"}))

    job = (await client.get(f"/v1/generations/{job_id}")).json()

    assert (job["status"], job["done"], job["images"]) == ("failed", True, [])
    assert job["error"]["code"] == "face_not_found"
    assert job["error"]["advice"] == "come closer"


async def test_a_picture_is_served_with_its_type_and_etag(submit, client, queue, store):
    job_id = (await submit()).json()["id"]
    finish(queue, store, data=b"bytes of a picture")

    response = await client.get(f"/v1/generations/{job_id}/images/0", headers={"Range": "bytes=0-,0-,0-"})

    assert (response.status_code, response.content) == (200, b"bytes of a picture")
    assert response.headers["content-type"] == "image/png"
    assert response.headers["etag"] == f'"{hashlib.sha256(b"bytes of a picture").hexdigest()}"'
    assert response.headers["cache-control"].startswith("private")
    assert response.headers["x-content-type-options"] == "nosniff"


async def test_a_picture_the_caller_has_is_not_sent_again(submit, client, queue, store):
    path = f"/v1/generations/{(await submit()).json()['id']}/images/0"
    finish(queue, store)
    etag = (await client.get(path)).headers["etag"]

    response = await client.get(path, headers={"If-None-Match": etag})

    assert (response.status_code, response.content) == (304, b"")


@pytest.mark.parametrize(("index", "status"), [("0", 404), ("7", 404), ("-1", 422), ("x", 422), ("1e400", 422)])
async def test_a_picture_that_is_not_there_is_a_problem(submit, client, index, status):
    job_id = (await submit()).json()["id"]

    response = await client.get(f"/v1/generations/{job_id}/images/{index}")

    assert_problem(response, status, {404: "not_found", 422: "invalid_request"}[status])


async def test_a_queued_job_is_canceled_at_once_and_again_without_harm(submit, client):
    path = f"/v1/generations/{(await submit()).json()['id']}/cancel"

    first, second = await client.post(path), await client.post(path)

    assert first.json()["status"] == second.json()["status"] == "canceled"


async def test_another_tenants_job_is_like_one_that_does_not_exist(submit, other, queue, store):
    job_id = (await submit()).json()["id"]
    finish(queue, store)

    for method, path in [("GET", ""), ("GET", "/images/0"), ("POST", "/cancel")]:
        theirs = await other.request(method, f"/v1/generations/{job_id}{path}")
        nobodys = await other.request(method, f"/v1/generations/gen_nobody{path}")

        assert_problem(theirs, 404, "not_found")
        assert {**theirs.json(), "request_id": ""} == {**nobodys.json(), "request_id": ""}


async def test_an_id_that_postgresql_cannot_hold_is_not_looked_for(client):
    assert_problem(await client.get("/v1/generations/gen_%00"), 422, "invalid_request")
    assert_problem(await client.post("/v1/generations/gen_%00/cancel"), 422, "invalid_request")


@pytest.mark.parametrize(
    "job_id", ["%00", "..%2f..%2fetc%2fpasswd", "gen_" + "a" * 10_000, "'; DROP TABLE jobs;--", "\u202e"]
)
async def test_a_strange_id_is_a_problem(client, job_id):
    response = await client.get(f"/v1/generations/{job_id}")

    assert response.status_code in (404, 422)
    assert response.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [("Authorization", "")],
        [("Authorization", "Bearer")],
        [("Authorization", "Bearer wrong")],
        [("Authorization", f"Basic {KEYS['acme']}")],
        [("Authorization", KEYS["acme"])],
        [("Authorization", f"Bearer {KEYS['acme']}"), ("Authorization", "Bearer wrong")],
        [("Authorization", b"Bearer \xff\xfe")],
        [("X-Api-Key", KEYS["acme"])],
    ],
)
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/generations"),
        ("GET", "/v1/generations/gen_x"),
        ("POST", "/v1/generations/gen_x/cancel"),
        ("GET", "/v1/generations/gen_x/images/0"),
        ("GET", "/v1/models"),
    ],
)
async def test_nothing_of_v1_answers_without_a_valid_key(anyone, method, path, headers):
    response = await anyone.request(method, path, headers=headers, params={"api_key": KEYS["acme"]})

    assert_problem(response, 401, "unauthorized")
    assert response.headers["www-authenticate"] == "Bearer"


async def test_a_slow_photo_does_not_hold_up_those_who_ask_for_their_jobs(app, client, submit):
    job_id = (await submit()).json()["id"]
    release = threading.Event()

    class Slow:
        def normalise(self, _):
            release.wait(10)
            raise ImageCorruptError("at last")

    app.state.context.photos._decoder = Slow()
    uploads = [asyncio.create_task(submit()) for _ in range(40)]
    await asyncio.sleep(0.1)

    began = time.monotonic()
    response = await client.get(f"/v1/generations/{job_id}")

    took_s = time.monotonic() - began
    release.set()
    assert (await asyncio.gather(*uploads))[0].status_code == 422
    assert response.status_code == 200
    assert took_s < 2
