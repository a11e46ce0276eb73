"""A tenant's own API keys over HTTP: made, replaced, ended."""

import time
from dataclasses import replace

import pytest
from doubles.api_callers import KEYS, assert_problem, fields_of
from doubles.key_holders import client_with, issued

from instantid_serve.errors import UnauthorizedError
from instantid_serve.service.api_keys import ApiKeys
from instantid_serve.service.keyring import Keyring
from instantid_serve.serving.api.application import build_api
from instantid_serve.settings import TENANT_SCOPES


class CountingApiKeys(ApiKeys):
    """Remembers which ids the database was asked for."""

    def __init__(self, database):
        super().__init__(database)
        self.asked = []

    def find(self, key_id):
        self.asked.append(key_id)
        return super().find(key_id)


async def status_of(app, key, path="/v1/models"):
    async with client_with(app, key) as holder:
        return (await holder.get(path)).status_code


class TestCreate:
    async def test_the_key_is_shown_once_and_works(self, client, app):
        made = await client.post("/v1/keys", json={"label": "phone", "scopes": ["usage:read"]})

        told = made.json()
        listed = (await client.get("/v1/keys")).json()["data"]
        assert made.status_code == 201
        assert listed == [{name: value for name, value in told.items() if name != "key"}]
        assert await status_of(app, told["key"], "/v1/usage") == 200

    async def test_without_scopes_it_may_do_what_the_calling_key_may(self, app, context):
        caller = issued(context, "acme", ["keys:write", "usage:read"]).key

        async with client_with(app, caller) as holder:
            made = await holder.post("/v1/keys", json={})

        assert made.json()["scopes"] == ["keys:write", "usage:read"]

    @pytest.mark.parametrize("scopes", [["generations:write"], ["admin"], ["keys:write", "admin"]])
    async def test_it_can_do_no_more_than_the_calling_key(self, app, context, scopes):
        caller = issued(context, "acme", ["keys:write"]).key

        async with client_with(app, caller) as holder:
            made = await holder.post("/v1/keys", json={"scopes": scopes})

        assert_problem(made, 403, "forbidden")
        assert "keys:write" not in made.json()["scopes"]

    async def test_it_ends_when_it_was_to(self, client, app):
        made = await client.post("/v1/keys", json={"expires_in_s": 0.05})

        time.sleep(0.1)  # noqa: ASYNC251 - the database's clock

        assert await status_of(app, made.json()["key"]) == 401

    @pytest.mark.parametrize(
        ("body", "field"),
        [
            ({"label": "x" * 101}, "/label"),
            ({"label": "a\0b"}, "/label"),
            ({"scopes": []}, "/scopes"),
            ({"scopes": ["everything"]}, "/scopes"),
            ({"scopes": "admin"}, "/scopes"),
            ({"expires_in_s": 0}, "/expires_in_s"),
            ({"expires_in_s": True}, "/expires_in_s"),
            ({"expires_in_s": 1e12}, "/expires_in_s"),
            ({"tenant": "other"}, "/tenant"),
        ],
    )
    async def test_what_makes_no_sense_is_refused_by_name(self, client, body, field):
        refused = await client.post("/v1/keys", json=body)

        assert_problem(refused, 422, "invalid_request")
        assert fields_of(refused) == {field}

    @pytest.mark.parametrize("body", [b"", b"[]", b'{"label": "a", "label": "b"}', b'{"label": NaN}', b"\xff"])
    async def test_what_is_no_json_object_is_refused(self, client, body):
        refused = await client.post("/v1/keys", content=body, headers={"Content-Type": "application/json"})

        assert refused.status_code in (400, 422)

    async def test_a_body_beyond_reason_is_refused(self, client):
        refused = await client.post("/v1/keys", json={"label": "x" * 300_000})

        assert_problem(refused, 413, "body_too_large")


class TestOnce:
    async def test_a_repeated_request_is_refused_and_names_the_key_it_made(self, client):
        headers = {"Idempotency-Key": "a-retry"}
        made = (await client.post("/v1/keys", json={"label": "one"}, headers=headers)).json()

        again = await client.post("/v1/keys", json={"label": "one"}, headers=headers)

        assert_problem(again, 409, "secret_shown_once")
        assert again.json()["key_id"] == made["id"]
        assert len((await client.get("/v1/keys")).json()["data"]) == 1

    async def test_the_same_idempotency_key_for_another_request_is_a_mistake(self, client):
        headers = {"Idempotency-Key": "a-retry"}
        await client.post("/v1/keys", json={"label": "one"}, headers=headers)

        other = await client.post("/v1/keys", json={"label": "two"}, headers=headers)

        assert_problem(other, 422, "idempotency_key_reused")

    async def test_a_repeated_rotation_makes_no_third_key(self, client, context):
        first = issued(context, "acme", ["keys:write"]).record
        headers = {"Idempotency-Key": "a-retry"}
        await client.post(f"/v1/keys/{first.id}/rotate", json={}, headers=headers)

        again = await client.post(f"/v1/keys/{first.id}/rotate", json={}, headers=headers)

        assert_problem(again, 409, "secret_shown_once")
        assert len(context.keys.list("acme")) == 2

    @pytest.mark.parametrize("sent", ["", "two words", "x" * 256])
    async def test_an_odd_idempotency_key_is_refused(self, client, sent):
        refused = await client.post("/v1/keys", json={}, headers={"Idempotency-Key": sent})

        assert_problem(refused, 422, "invalid_request")


class TestRotate:
    async def test_both_keys_work_during_the_overlap(self, client, app, context):
        old = issued(context, "acme", ["usage:read"], label="phone")

        new = (await client.post(f"/v1/keys/{old.record.id}/rotate", json={"overlap_s": 60})).json()

        assert (new["label"], new["scopes"]) == ("phone", ["usage:read"])
        assert [await status_of(app, key, "/v1/usage") for key in (old.key, new["key"])] == [200, 200]

    async def test_without_an_overlap_only_the_new_key_works(self, client, app, context):
        old = issued(context, "acme", ["usage:read"])

        new = (await client.post(f"/v1/keys/{old.record.id}/rotate", json={"overlap_s": 0})).json()

        assert [await status_of(app, key, "/v1/usage") for key in (old.key, new["key"])] == [401, 200]

    async def test_a_lesser_key_cannot_turn_a_greater_one_into_its_own(self, app, context):
        lesser = issued(context, "acme", ["keys:write"]).key
        greater = issued(context, "acme", TENANT_SCOPES).record

        async with client_with(app, lesser) as holder:
            refused = await holder.post(f"/v1/keys/{greater.id}/rotate", json={})

        assert_problem(refused, 403, "forbidden")

    async def test_another_tenants_key_is_not_there(self, other, context):
        mine = issued(context, "acme", ["usage:read"]).record

        refused = [await other.post(f"/v1/keys/{mine.id}/rotate", json={}), await other.delete(f"/v1/keys/{mine.id}")]

        assert [answer.status_code for answer in refused] == [404, 404]


class TestRevoke:
    async def test_a_revoked_key_is_refused_and_stays_in_the_list(self, client, app, context):
        key = issued(context, "acme", ["usage:read"])

        revoked = await client.delete(f"/v1/keys/{key.record.id}")

        assert revoked.status_code == 204
        assert await status_of(app, key.key, "/v1/usage") == 401
        assert (await client.get("/v1/keys")).json()["data"][0]["revoked_at"] is not None

    async def test_every_replica_refuses_it_within_five_seconds(self, context, settings):
        key = issued(context, "acme", ["usage:read"])
        rings = [
            Keyring((), context.keys, context.tenants, remembered_s=settings.tenancy.key_cache_s) for _ in range(2)
        ]
        for ring in rings:
            ring.caller(key.key)
        revoked_at = time.monotonic()

        context.keys.revoke("acme", key.record.id)
        while any(known(ring, key.key) for ring in rings):
            time.sleep(0.05)  # noqa: ASYNC251 - nothing else runs

        assert time.monotonic() - revoked_at < 5


def known(ring, key):
    try:
        return bool(ring.remembered(key) or ring.caller(key))
    except UnauthorizedError:
        return False


class TestWhoMayCall:
    async def test_a_suspended_tenant_is_refused_with_a_valid_key(self, client, context):
        context.tenants.ensure("acme")
        context.tenants.change("acme", {"suspended": True})

        assert_problem(await client.get("/v1/models"), 403, "tenant_suspended")

    async def test_a_key_that_can_not_be_one_never_reaches_the_database(self, context, database):
        good = issued(context, "acme", TENANT_SCOPES).key
        keys = CountingApiKeys(database)
        keyring = Keyring((), keys, context.tenants, remembered_s=3)
        app = build_api(replace(context, keyring=keyring))
        mistyped = good[:-1] + ("a" if good[-1] != "a" else "b")

        statuses = [await status_of(app, key) for key in (mistyped, good[:-1], good.lower(), "x")]

        assert statuses == [401] * 4
        assert keys.asked == []
        assert await status_of(app, good) == 200
        assert len(keys.asked) == 1

    async def test_the_config_files_key_still_works(self, app):
        assert await status_of(app, KEYS["acme"], "/v1/keys") == 200
