import asyncio
import threading

import openapi_spec_validator
import pytest
from doubles.api_callers import assert_problem

from instantid_serve.errors import DatabaseError, UnavailableError
from instantid_serve.serving.api.readiness import Readiness, on_own_thread


async def test_health_needs_nothing(anyone):
    assert (await anyone.get("/healthz")).json() == {"status": "ok"}


async def test_readiness_is_200_when_every_check_passes(anyone, checks):
    async def fine():
        """Nothing to say."""

    checks["database"] = checks["generator"] = fine

    response = await anyone.get("/readyz")

    assert (response.status_code, response.json()) == (200, {"status": "ready"})


async def test_readiness_is_503_and_says_what_is_not_ready(anyone, checks):
    async def broken():
        raise DatabaseError("the database does not answer")

    async def hangs():
        await asyncio.sleep(60)

    async def fails():
        raise ZeroDivisionError

    checks.update(database=broken, generator=hangs, results=fails)

    response = await anyone.get("/readyz")

    assert_problem(response, 503, "unavailable")
    assert response.json()["faults"] == {
        "database": "database_unavailable",
        "generator": "timeout",
        "results": "internal",
    }


async def test_readiness_is_asked_once_a_second_however_many_ask():
    asked = []

    async def check():
        asked.append(1)
        await asyncio.sleep(0.01)
        raise UnavailableError("no")

    readiness = Readiness({"generator": check})

    answers = await asyncio.gather(*(readiness.faults() for _ in range(20)))

    assert len(asked) == 1
    assert answers == [{"generator": "unavailable"}] * 20


async def test_a_check_that_hangs_is_not_asked_again_beside_itself():
    asked, go_on = [], threading.Event()

    def hang():
        asked.append(1)
        go_on.wait(10)

    check = on_own_thread(hang)

    for _ in range(5):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(check(), 0.02)
    asked_while_it_hung = list(asked)
    go_on.set()
    await check()

    assert len(asked_while_it_hung) == 1
    assert len(asked) == 2  # those whose callers gave up were never asked


async def test_metrics_tell_the_jobs_by_status_and_the_requests_by_route(submit, client):
    for _ in range(3):
        await submit()

    text = (await client.get("/metrics")).text

    assert 'instantid_jobs{status="queued"} 3.0' in text
    assert 'instantid_jobs{status="failed"} 0.0' in text
    assert "instantid_queue_depth 3.0" in text
    assert "instantid_queue_oldest_age_seconds" in text
    assert 'instantid_build_info{version="' in text
    assert 'request_duration_seconds_count{method="POST",route="/v1/generations",status="202"} 3.0' in text
    assert "acme" not in text


async def test_metrics_label_routes_not_paths(client):
    await client.get("/v1/generations/gen_1")
    await client.get("/nowhere/gen_2")

    text = (await client.get("/metrics")).text

    assert "gen_1" not in text
    assert "gen_2" not in text
    assert 'route="/v1/generations/{job_id}"' in text


async def test_metrics_are_served_while_the_database_is_away(client, app, database):
    database.close()
    (app.state.context.settings.results.folder.parent / "jobs.sqlite3").unlink()

    response = await client.get("/metrics")

    assert response.status_code == 200
    assert "instantid_database_up 0.0" in response.text


async def test_the_models_page_tells_samplers_limits_and_licences(client):
    (model,) = (await client.get("/v1/models")).json()["data"]

    assert model["id"] == "miniature"
    assert {"euler", "UniPCMultistepScheduler"} <= set(model["samplers"])
    assert model["limits"]["max_steps"] == 100
    assert model["licences"]


async def test_openapi_is_valid_and_describes_bodies_limits_and_errors(anyone):
    document = (await anyone.get("/openapi.json")).json()

    openapi_spec_validator.validate(document)
    create = document["paths"]["/v1/generations"]["post"]
    form = create["requestBody"]["content"]["multipart/form-data"]["schema"]
    assert form["required"] == ["prompt"]
    assert [of["required"] for of in form["oneOf"]] == [["image"], ["image_url"], ["upload_id"], ["identity_id"]]
    assert form["properties"]["steps"]["maximum"] == 100
    assert create["security"] == [{"ApiKey": []}]
    assert "application/problem+json" in create["responses"]["default"]["content"]


async def test_openapi_lists_exactly_the_routes_there_are(anyone):
    document = (await anyone.get("/openapi.json")).json()

    assert set(document["paths"]) == {
        "/v1/generations",
        "/v1/generations/{job_id}",
        "/v1/generations/{job_id}/cancel",
        "/v1/generations/{job_id}/images/{index}",
        "/v1/generations/{job_id}/events",
        "/v1/batches",
        "/v1/batches/{batch_id}",
        "/v1/batches/{batch_id}/cancel",
        "/v1/uploads",
        "/v1/uploads/{upload_id}",
        "/v1/uploads/{upload_id}/content",
        "/v1/identities",
        "/v1/identities/{identity_id}",
        "/v1/webhooks",
        "/v1/webhooks/secret",
        "/v1/webhooks/rotate-secret",
        "/v1/webhooks/{webhook_id}",
        "/v1/webhooks/{webhook_id}/secret",
        "/v1/webhooks/{webhook_id}/rotate-secret",
        "/v1/webhooks/{webhook_id}/test",
        "/v1/webhooks/{webhook_id}/deliveries",
        "/v1/webhooks/{webhook_id}/deliveries/{delivery_id}/redeliver",
        "/v1/models",
        "/v1/keys",
        "/v1/keys/{key_id}",
        "/v1/keys/{key_id}/rotate",
        "/v1/usage",
        "/v1/limits",
        "/v1/status",
        "/v1/admin/tenants",
        "/v1/admin/tenants/{tenant_id}",
        "/v1/admin/tenants/{tenant_id}/keys",
        "/v1/admin/tenants/{tenant_id}/keys/{key_id}",
        "/v1/admin/tenants/{tenant_id}/keys/{key_id}/rotate",
        "/v1/admin/tenants/{tenant_id}/usage",
        "/healthz",
        "/readyz",
        "/metrics",
    }
