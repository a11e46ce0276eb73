"""Callers' words, keys and photos in every place there is, through success and every failure: no line holds them."""

import asyncio
import base64
import contextlib
import hashlib
import io
import logging
import sqlite3

import httpx2
import pytest
from doubles.log_lines import everything_logged
from doubles.stages import HandStages, dispatching, ended
from PIL import Image

from instantid_serve.errors import MultipleFacesError, UnavailableError
from instantid_serve.service.database import open_database, upgrade
from instantid_serve.service.job_queue import JobQueue
from instantid_serve.service.jobs import Jobs
from instantid_serve.settings import Settings

SECRET = "C4naryKey00000000000000"
KEY = f"iid_test_k1_{SECRET}"
PROMPT = "a canary-prompt in the sun"
FIELDS = {"prompt": PROMPT, "negative_prompt": "canary-negative"}
CANARIES = ["canary", SECRET, base64.b64encode(b"canary-photo")[:12].decode()]  # in any of their forms


@pytest.fixture
def settings(tmp_path):
    return Settings.load(
        {
            "database": {"url": f"sqlite:///{tmp_path / 'jobs.sqlite3'}"},
            "results": {"kind": "folder", "folder": str(tmp_path / "results")},
            "api": {"keys": [{"tenant": "acme", "sha256": hashlib.sha256(KEY.encode()).hexdigest()}]},
            "limits": {"native_side": 512},
        }
    )


@pytest.fixture
def database(settings):
    database = open_database(settings.database.url.get_secret_value(), busy_timeout_s=0.05)
    upgrade(database)
    yield database
    database.close()


@pytest.fixture
def jobs(database):
    return Jobs(database)


@pytest.fixture
def queue(database):
    return JobQueue(database)


@pytest.fixture
def outage(tmp_path):
    """The database answers nobody in this block: another connection holds its lock."""

    @contextlib.contextmanager
    def begin():
        with contextlib.closing(sqlite3.connect(tmp_path / "jobs.sqlite3", isolation_level=None)) as other:
            other.execute("BEGIN EXCLUSIVE")
            yield
            other.execute("ROLLBACK")

    return begin


@pytest.fixture(scope="session")
def photo():
    stream, exif = io.BytesIO(), Image.Exif()
    exif[0x010E] = "canary-exif"
    Image.new("RGB", (300, 400), (120, 90, 60)).save(stream, "JPEG", exif=exif)
    return stream.getvalue()


@pytest.fixture
async def client(app):
    headers = {"Authorization": f"Bearer {KEY}", "Cookie": "canary-cookie", "User-Agent": "canary-agent"}
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://test", headers=headers) as http:
        yield http


@pytest.fixture
def stages():
    return HandStages()


@pytest.fixture
def accept(client, photo, jobs):
    """Send a form that is accepted; its job."""

    async def send():
        files = {"image": ("canary-name.jpg", photo)}
        response = await client.post("/v1/generations?sig=canary-query", data=FIELDS, files=files)
        assert response.status_code == 202, response.text
        return jobs.get("acme", response.json()["id"])

    return send


def assert_no_canary(kept):
    assert any("canary" in text for text in kept.plain)  # they were there to be found
    assert [text for text in kept.texts if any(canary.lower() in text.lower() for canary in CANARIES)] == []


def lines_about(kept, job):
    """The dispatcher's lines about the job; each must name job, tenant and attempt."""
    lines = [line for line in kept.told("instantid_serve.service") if line["job_id"] == job.id]
    assert lines
    assert all(line["tenant"] == "acme" and line["attempt"] >= 1 for line in lines)
    return lines


async def test_success_is_told_from_the_request_to_the_settled_job(accept, client, jobs, queue, stages):
    with everything_logged() as kept:
        job = await accept()
        async with dispatching(queue, stages):
            await ended(jobs, job)
        await client.get(f"/v1/generations/{job.id}?key={KEY}", headers={"x-request-id": "trace-7"})

    assert_no_canary(kept)
    assert [line["message"] for line in lines_about(kept, job)] == ["job claimed", "job settled"]
    post, get = kept.told("instantid_serve.serving.api.access")
    assert (post["method"], post["route"], post["status"]) == ("POST", "/v1/generations", 202)
    assert {line["job_id"] for line in (post, get)} == {job.id}
    assert {line["tenant"] for line in (post, get)} == {"acme"}
    assert (get["request_id"], get["route"]) == ("trace-7", "/v1/generations/{job_id}")


@pytest.mark.parametrize("stage", ["analyze", "generate", "publish"])
@pytest.mark.parametrize(
    "error",
    [
        ValueError(f"CUDA error while drawing {PROMPT!r}"),
        MultipleFacesError("two faces", {"boxes": [[1, 2, 3, 4]], "advice": PROMPT}),
        UnavailableError("a stage died"),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_a_stage_that_fails(accept, jobs, queue, stages, stage, error):
    stages.faults[stage].append(error)
    with everything_logged() as kept:
        job = await accept()
        async with dispatching(queue, stages):
            await ended(jobs, job)

    assert_no_canary(kept)
    [failed] = [line for line in lines_about(kept, job) if line["message"] == "work failed"]
    assert failed["error"] == type(error).__name__


async def test_a_database_that_is_away(accept, client, jobs, queue, stages, outage, photo):
    stages.gate.clear()
    with everything_logged() as kept:
        job = await accept()
        async with dispatching(queue, stages):
            await asyncio.sleep(0.1)
            with outage():
                stages.gate.set()
                refused = await client.post("/v1/generations", data=FIELDS, files={"image": ("canary.jpg", photo)})
                await asyncio.sleep(0.3)
            await ended(jobs, job)

    assert refused.status_code == 503
    assert_no_canary(kept)
    assert "heartbeat failed" in {line["message"] for line in kept.told()}
    assert "settling failed" in {line["message"] for line in lines_about(kept, job)}


async def test_requests_that_are_refused(client, photo):
    image = base64.b64encode(photo).decode()
    json = {"Content-Type": "application/json"}
    path = "/v1/generations"
    with everything_logged() as kept:
        answers = [
            await client.post(path, data=FIELDS, files={"image": ("canary.jpg", b"\xff\xd8\xff canary-photo" * 99)}),
            await client.post(path, data=FIELDS, files={"image": ("canary.jpg", photo[: len(photo) // 2])}),
            await client.post(path, content=b'{"prompt": "canary-prompt", ', headers=json),
            await client.post(path, json={**FIELDS, "image": image, "steps": "canary-steps"}),
            await client.post(path, json={**FIELDS, "image": image, "canary-field": {"a": "canary-metadata"}}),
            await client.get(f"{path}/canary-id?token=canary-query"),
            await client.get("/canary-path?api_key=canary-query", headers={"x-request-id": "a canary id"}),
            await client.get(f"{path}/gen_x", headers={"Authorization": f"Bearer {KEY}x"}),
        ]

    assert all(400 <= answer.status_code < 500 for answer in answers)
    assert_no_canary(kept)
    access = kept.told("instantid_serve.serving.api.access")
    assert [line["status"] for line in access] == [answer.status_code for answer in answers]
    assert access[-2]["route"] == "unmatched"


async def test_an_error_nobody_foresaw(accept, client, app):
    class Broken:
        def get(self, *_):
            raise RuntimeError("canary-jobs") from KeyError("canary-row")

    with everything_logged() as kept:
        job = await accept()
        object.__setattr__(app.state.context, "jobs", Broken())
        response = await client.get(f"/v1/generations/{job.id}")

    assert_no_canary(kept)
    [line] = [line for line in kept.told() if line["level"] == logging.getLevelName(logging.ERROR)]
    assert line["request_id"] == response.json()["request_id"]
    assert (line["error"], line["tenant"]) == ("RuntimeError", "acme")
    assert line["causes"] == ["KeyError"]
