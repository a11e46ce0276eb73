"""The HTTP application over a real SQLite file, a real results folder and the real guarded decoder; no Ray."""

import base64
import hashlib
import io
import shutil

import httpx2
import pytest
from doubles.api_callers import KEYS
from PIL import Image

from instantid_serve.decoding import GuardedDecoder
from instantid_serve.service.database import ready_database
from instantid_serve.service.results import open_store
from instantid_serve.serving.api.application import build_api
from instantid_serve.serving.api.context import open_context
from instantid_serve.serving.api.readiness import Readiness
from instantid_serve.settings import Settings

MAX_BODY = 15_000_000


@pytest.fixture(scope="session")
def decoder():
    with_limits = GuardedDecoder(max_bytes=10_000_000)
    yield with_limits
    with_limits.close()


@pytest.fixture
def settings(tmp_path, migrated_file):
    shutil.copy(migrated_file, tmp_path / "jobs.sqlite3")
    keys = [{"tenant": t, "sha256": hashlib.sha256(k.encode()).hexdigest()} for t, k in KEYS.items()]
    return Settings.load(
        {
            "database": {"url": f"sqlite:///{tmp_path / 'jobs.sqlite3'}"},
            "results": {"kind": "folder", "folder": str(tmp_path / "results")},
            "api": {"keys": keys, "max_body_bytes": MAX_BODY, "max_wait_s": 2.0, "poll_s": 0.02},
            "limits": {"native_side": 512},
        }
    )


@pytest.fixture
def database(settings):
    database = ready_database(settings.database)
    yield database
    database.close()


@pytest.fixture
def store(settings):
    return open_store(settings.results)


@pytest.fixture
def checks():
    """The readiness checks; a test puts its own in."""
    return {}


@pytest.fixture
def context(settings, database, store, decoder, checks):
    return open_context(settings, database, store, decoder, Readiness(checks))


@pytest.fixture
def jobs(context):
    return context.jobs


@pytest.fixture
def queue(context):
    return context.queue


@pytest.fixture
def app(context):
    return build_api(context)


@pytest.fixture
async def anyone(app):
    """A client without a key."""
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://test") as client:
        yield client


@pytest.fixture
async def client(app):
    """Acme's client."""
    headers = {"Authorization": f"Bearer {KEYS['acme']}"}
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://test", headers=headers) as http:
        yield http


@pytest.fixture
async def other(app):
    """Another tenant's client."""
    headers = {"Authorization": f"Bearer {KEYS['other']}"}
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://test", headers=headers) as http:
        yield http


@pytest.fixture(scope="session")
def photo():
    """A decodable photo; nothing here looks for the face in it."""
    stream = io.BytesIO()
    Image.new("RGB", (300, 400), (120, 90, 60)).save(stream, "JPEG")
    return stream.getvalue()


@pytest.fixture
def submit(client, photo):
    """Send a form: fields as keywords."""

    async def send(headers=None, **fields):
        form = {"prompt": "a portrait", **{name: str(value) for name, value in fields.items()}}
        return await client.post("/v1/generations", data=form, files={"image": ("me.jpg", photo)}, headers=headers)

    return send


@pytest.fixture
def submit_json(client, photo):
    """Send JSON: fields as keywords."""

    async def send(**fields):
        body = {"prompt": "a portrait", "image": base64.b64encode(photo).decode(), **fields}
        return await client.post("/v1/generations", json=body)

    return send
