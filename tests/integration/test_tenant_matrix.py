"""Every route that names something, with things of two other tenants: they answer exactly as if there were none.

On PostgreSQL also with the application's own filter switched off: row-level security alone.
"""

import importlib
import pkgutil
import shutil
import sys

import pytest
import sqlalchemy as sa
from integration.tenants_world import (
    CONFIGURED,
    NAMES,
    answer_to,
    belongings,
    client_of,
    furnish,
    operations,
    photo,
    unknown_ids,
)

import instantid_serve.service
from instantid_serve.decoding import GuardedDecoder
from instantid_serve.service.database import open_database
from instantid_serve.service.results import open_store
from instantid_serve.serving.api.application import build_api
from instantid_serve.serving.api.context import open_context
from instantid_serve.serving.api.readiness import Readiness
from instantid_serve.settings import Settings


@pytest.fixture(params=["sqlite", "postgresql", "postgresql without the filter"])
def walls(request):
    """Which of the two walls stand."""
    return request.param


@pytest.fixture
def database(walls, request, tmp_path, migrated_file):
    if walls == "sqlite":
        url = f"sqlite:///{shutil.copy(migrated_file, tmp_path / 'jobs.sqlite3')}"
    else:
        url = request.getfixturevalue("postgres").create_database(migrated=True)
    database = open_database(url)
    yield database
    database.close()


@pytest.fixture
def context(database, tmp_path):
    values = {
        "database": {"url": f"sqlite:///{tmp_path / 'unused.sqlite3'}"},
        "results": {"kind": "folder", "folder": str(tmp_path / "results")},
        "api": {"keys": CONFIGURED},
        "tenancy": {"requests_per_minute": 100_000},
    }
    settings = Settings.load(values)
    decoder = GuardedDecoder(max_bytes=10_000_000)
    yield open_context(settings, database, open_store(settings.results), decoder, Readiness({}))
    decoder.close()


@pytest.fixture
def app(context):
    return build_api(context)


@pytest.fixture
async def world(app, context, walls, monkeypatch):
    """What each tenant has: ids by kind."""
    ids = {tenant: await furnish(app, context, tenant) for tenant in ("acme", "other", "third")}
    if walls == "postgresql without the filter":
        _forget_the_filter(monkeypatch)
    return ids


def _forget_the_filter(monkeypatch):
    """As if every query had forgotten whose rows it is about."""
    for found in pkgutil.iter_modules(instantid_serve.service.__path__, "instantid_serve.service."):
        importlib.import_module(found.name)
    for name, module in list(sys.modules.items()):
        if name.startswith("instantid_serve.") and hasattr(module, "owned_by"):
            monkeypatch.setattr(module, "owned_by", lambda *_: sa.true())


async def test_things_of_others_answer_like_nothing_and_stay_as_they_are(app, world):
    unknown = [name for _, _, names in operations(app) for name in names if name not in {*NAMES, "index"}]
    assert unknown == []  # or the matrix does not cover the routes that name them
    before = {tenant: await belongings(app, tenant, world[tenant]) for tenant in ("other", "third")}

    told_apart = []
    async with client_of(app, "acme") as http:
        for method, path, names in operations(app):
            nothing = await answer_to(http, method, path, names, unknown_ids())
            for tenant in ("other", "third"):
                answer = await answer_to(http, method, path, names, world[tenant])
                if answer != nothing or answer[0] != 404:
                    told_apart.append((method, path, tenant, answer[:2], nothing[:2]))

    assert told_apart == []
    assert {tenant: await belongings(app, tenant, world[tenant]) for tenant in before} == before


async def test_a_part_of_ones_own_named_through_a_thing_of_anothers_is_nothing(app, world):
    mine, others = world["acme"], world["other"]
    async with client_of(app, "acme") as http:
        crossed = [
            f"/v1/webhooks/{others['webhook']}/deliveries/{mine['delivery']}/redeliver",
            f"/v1/webhooks/{mine['webhook']}/deliveries/{others['delivery']}/redeliver",
        ]
        statuses = {(await http.post(path)).status_code for path in crossed}

    assert statuses == {404}


async def test_things_of_others_cannot_be_used(app, world):
    others, nothing = world["other"], unknown_ids()
    uses = [("identity_id", "identity"), ("upload_id", "upload")]
    async with client_of(app, "acme") as http:
        for field, kind in uses:
            answers = []
            for ids in (others, nothing):
                answer = await http.post("/v1/generations", json={"prompt": "x", field: ids[kind]})
                answers.append((answer.status_code, answer.json()["code"], answer.json()["detail"]))
            assert answers[0] == answers[1]
            assert answers[0][0] in (404, 422)


async def test_filters_by_things_of_others_find_nothing(app, world):
    async with client_of(app, "acme") as http:
        for field in ("batch_id", "identity_id"):
            kind = field.removesuffix("_id")
            pages = [
                (await http.get("/v1/generations", params={field: ids[kind]})).json()["data"]
                for ids in (world["other"], unknown_ids())
            ]
            assert pages == [[], []]


async def test_lists_hold_ones_own_alone(app, world):
    others = {value for tenant in ("other", "third") for value in world[tenant].values()}
    async with client_of(app, "acme") as http:
        for path in ("/v1/generations", "/v1/batches", "/v1/identities", "/v1/webhooks", "/v1/keys"):
            told = (await http.get(path)).text
            assert not [value for value in others if value in told]


@pytest.mark.usefixtures("world")
async def test_a_cursor_of_another_tenant_opens_nothing(app):
    async with client_of(app, "other") as http:
        cursor = (await http.get("/v1/generations", params={"limit": 1})).json()["next_cursor"]
    assert cursor
    async with client_of(app, "acme") as http:
        answer = await http.get("/v1/generations", params={"limit": 1, "cursor": cursor})

    assert answer.status_code == 422


@pytest.mark.usefixtures("world")
async def test_an_idempotency_key_is_each_tenants_own(app):
    made = {}
    for tenant in ("acme", "other"):
        async with client_of(app, tenant) as http:
            body = {"prompt": f"of {tenant}", "image": photo()}
            answer = await http.post("/v1/generations", json=body, headers={"Idempotency-Key": "the-same-for-all"})
            made[tenant] = answer.json()["id"]
            assert answer.headers["Idempotent-Replayed"] == "true"

    assert made["acme"] != made["other"]


@pytest.mark.usefixtures("world")
async def test_routes_of_operators_are_closed_to_tenants(app):
    paths = [(m, p) for p, methods in app.openapi()["paths"].items() for m in methods if p.startswith("/v1/admin/")]
    async with client_of(app, "acme") as http:
        statuses = {(await http.request(m, p.replace("{", "").replace("}", ""))).status_code for m, p in paths}

    assert statuses == {403}
