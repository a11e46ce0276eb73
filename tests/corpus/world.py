"""What is there before the corpus is sent: two tenants, each with one of everything."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import httpx2
from corpus.entry import PHOTO_TEXT
from doubles.api_process import KEYS, ApiProcess
from doubles.scripted_worker import ScriptedWorker

from instantid_serve.service.database import ready_database
from instantid_serve.service.job_queue import JobQueue
from instantid_serve.service.results import open_store
from instantid_serve.settings import Settings

ASKED = {"prompt": "a portrait", "image": PHOTO_TEXT}


def populate(api: ApiProcess, settings: Mapping[str, Any]) -> dict[str, str]:
    """Make it, and name it: ``own_job``, ``spare_job``, ``other_job`` and so on, and the keys that are dead.

    What is named ``spare`` is a second one of the first tenant's.
    """
    names: dict[str, str] = {}
    with _client(api, "acme") as acme, _client(api, "other") as other:
        names["finished_job"] = _made(acme, "generations", ASKED)["id"]
        _finish_it(settings)
        names |= _everything(acme, "own") | _everything(acme, "spare") | _everything(other, "other") | _dead_keys(acme)
    return names


def _client(api: ApiProcess, tenant: str) -> httpx2.Client:
    headers = {"Authorization": f"Bearer {KEYS[tenant]}"}
    return httpx2.Client(base_url=api.url, headers=headers, trust_env=False, timeout=30)


def _made(client: httpx2.Client, kind: str, body: Mapping[str, Any], **headers: str) -> dict[str, Any]:
    response = client.post(f"/v1/{kind}", json=body, headers={k.replace("_", "-"): v for k, v in headers.items()})
    assert response.is_success, response.text
    return response.json()


def _everything(client: httpx2.Client, whose: str) -> dict[str, str]:
    consent = {"given": True, "statement": "yes"}
    webhook = _made(client, "webhooks", {"url": "https://public.example/hook"})["id"]
    made = {
        "job": _made(client, "generations", ASKED, Idempotency_Key=f"used-by-{whose}")["id"],
        "batch": _made(client, "batches", {"items": [ASKED]})["id"],
        "upload": _made(client, "uploads", {"media_type": "image/jpeg", "size_bytes": 3})["id"],
        "identity": _made(client, "identities", {"images": [PHOTO_TEXT], "consent": consent})["id"],
        "webhook": webhook,
        "delivery": _made(client, f"webhooks/{webhook}/test", {})["id"],
        "key": _made(client, "keys", {})["id"],
        "cursor": client.get("/v1/generations?limit=1").json()["next_cursor"],
        "event": "999999999",
    }
    return {f"{whose}_{kind}": value for kind, value in made.items()}


def _dead_keys(client: httpx2.Client) -> dict[str, str]:
    revoked = _made(client, "keys", {"label": "revoked"})
    assert client.delete(f"/v1/keys/{revoked['id']}").is_success
    expired = _made(client, "keys", {"label": "expired", "expires_in_s": 0.01})
    time.sleep(0.05)
    return {"revoked_key": revoked["key"], "expired_key": expired["key"]}


def _finish_it(settings: Mapping[str, Any]) -> None:
    """Do what a dispatcher would have done to the one job that waits."""
    loaded = Settings.load(dict(settings))
    database = ready_database(loaded.database)
    worker = ScriptedWorker(JobQueue(database), open_store(loaded.results))
    worker.take()
    worker.succeed()
    database.close()
