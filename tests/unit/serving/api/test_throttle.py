"""What callers are told of their rate, and what becomes of those who exceed it, or guess keys."""

import re
from dataclasses import replace

import pytest
from doubles.api_callers import KEYS, assert_problem
from doubles.key_holders import client_with, issued
from pydantic import SecretStr

from instantid_serve.service.rate_limits import RateLimits
from instantid_serve.serving.api.application import build_api
from instantid_serve.settings import TENANT_SCOPES

MISTYPED = "iid_live_0123456789ab_nothing"


@pytest.fixture
def slow(context, client):
    """Acme's client, whose tenant may send three requests a minute."""
    context.tenants.ensure("acme")
    context.tenants.change("acme", {"requests_per_minute": 3})
    return client


class TestRequests:
    async def test_every_answer_tells_the_policy_and_what_is_left(self, client):
        answer = await client.get("/v1/models")

        assert answer.headers["RateLimit-Policy"] == '"requests";q=1200;w=60'
        assert re.fullmatch(r'"requests";r=1199;t=\d{1,2}', answer.headers["RateLimit"])

    @pytest.mark.parametrize(
        ("method", "path", "status"),
        [("GET", "/v1/generations/gen_none", 404), ("GET", "/v1/admin/tenants", 403), ("POST", "/v1/keys", 415)],
    )
    async def test_refusals_tell_it_too(self, client, method, path, status):
        answer = await client.request(method, path)

        assert answer.status_code == status
        assert answer.headers["RateLimit"].startswith('"requests";r=1199;')

    async def test_one_too_many_is_refused_with_the_seconds_to_wait(self, slow):
        for _ in range(3):
            assert (await slow.get("/v1/models")).status_code == 200

        refused = await slow.get("/v1/models")

        assert_problem(refused, 429, "rate_limited")
        assert refused.json()["retryable"] is True
        assert refused.headers["Retry-After"] == str(refused.json()["retry_after_s"])
        assert 1 <= int(refused.headers["Retry-After"]) <= 60
        assert refused.headers["RateLimit"].startswith('"requests";r=0;')

    async def test_all_routes_and_methods_cost_the_same(self, slow):
        await slow.post("/v1/generations")
        await slow.get("/v1/models")
        await slow.delete("/v1/keys/none")

        assert_problem(await slow.get("/v1/status"), 429, "rate_limited")

    async def test_another_tenant_does_not_notice(self, slow, other):
        for _ in range(4):
            await slow.get("/v1/models")

        assert (await other.get("/v1/models")).status_code == 200

    async def test_all_keys_of_a_tenant_share_its_rate(self, slow, app, context):
        for _ in range(3):
            await slow.get("/v1/models")
        second = issued(context, "acme", TENANT_SCOPES).key

        async with client_with(app, second) as holder:
            assert_problem(await holder.get("/v1/models"), 429, "rate_limited")

    async def test_health_is_neither_counted_nor_refused(self, slow):
        for _ in range(5):
            answer = await slow.get("/healthz")

        assert answer.status_code == 200
        assert "RateLimit" not in answer.headers


class TestOutage:
    @pytest.fixture
    def settings(self, settings):
        tenancy = settings.tenancy.model_copy(update={"rate_limit_storage": SecretStr("redis://127.0.0.1:1")})
        return settings.model_copy(update={"tenancy": tenancy})

    async def test_requests_go_on_unlimited_while_the_storage_is_away(self, slow):
        answers = [await slow.get("/v1/models") for _ in range(6)]

        assert {answer.status_code for answer in answers} == {200}
        assert not [answer for answer in answers if "RateLimit" in answer.headers]


class TestFailedLogins:
    async def test_an_address_that_fails_too_often_is_told_to_wait(self, app):
        async with client_with(app, MISTYPED) as guesser:
            answers = [await guesser.get("/v1/models") for _ in range(61)]

        assert {answer.status_code for answer in answers[:60]} == {401}
        assert_problem(answers[60], 429, "rate_limited")
        assert int(answers[60].headers["Retry-After"]) >= 1

    async def test_a_valid_key_passes_from_that_address_all_the_same(self, app):
        async with client_with(app, MISTYPED) as guesser:
            for _ in range(61):
                await guesser.get("/v1/models")

        async with client_with(app, KEYS["acme"]) as holder:
            assert (await holder.get("/v1/models")).status_code == 200

    async def test_another_address_may_still_fail(self, app):
        async with client_with(app, MISTYPED) as guesser:
            for _ in range(61):
                await guesser.get("/v1/models")

        async with client_with(app, MISTYPED, address="192.0.2.2") as mistyping:
            assert (await mistyping.get("/v1/models")).status_code == 401


async def test_replicas_share_a_tenants_rate_over_redis(context, slow, redis_server):
    del slow  # only its tenant's limit is needed
    redis_server.restart()  # without what other tests counted in it
    storages = [RateLimits(redis_server.url, timeout_s=2) for _ in range(2)]
    one, two = (client_with(build_api(replace(context, rates=rates)), KEYS["acme"]) for rates in storages)

    statuses = [(await replica.get("/v1/models")).status_code for replica in (one, two, one, two)]

    for rates in storages:
        await rates.close()

    assert statuses == [200, 200, 200, 429]
