"""Operators over HTTP: tenants, their limits, and their keys."""

import pytest
from doubles.api_callers import assert_problem, fields_of
from doubles.key_holders import ADMIN, client_with, configured_admin, issued

from instantid_serve.settings import TENANT_SCOPES, ApiKey

TENANTS = "/v1/admin/tenants"


@pytest.fixture
def settings(settings):
    keys = (*settings.api.keys, ApiKey.model_validate(configured_admin()))
    return settings.model_copy(update={"api": settings.api.model_copy(update={"keys": keys})})


@pytest.fixture
async def admin(app):
    async with client_with(app, ADMIN) as http:
        yield http


class TestCreate:
    async def test_a_new_tenant_comes_with_a_key_that_may_do_all_a_tenant_may(self, admin, app):
        made = await admin.post(TENANTS, json={"id": "carol", "pictures_per_month": 9})

        assert made.status_code == 201
        assert made.json()["key"]["scopes"] == list(TENANT_SCOPES)
        async with client_with(app, made.json()["key"]["key"]) as carol:
            limits = (await carol.get("/v1/limits")).json()
        assert limits["pictures_per_month"]["limit"] == 9

    async def test_what_it_has_no_limit_of_is_the_servers(self, admin):
        made = (await admin.post(TENANTS, json={"id": "carol"})).json()

        assert (made["requests_per_minute"], made["max_queued_jobs"], made["weight"]) == (1200, 1000, 1.0)

    async def test_a_name_that_is_taken_is_refused_and_nothing_changes(self, admin, context):
        await admin.post(TENANTS, json={"id": "carol", "weight": 2})

        assert_problem(await admin.post(TENANTS, json={"id": "carol"}), 409, "conflict")
        assert context.tenants.get("carol").weight == 2
        assert len(context.keys.list("carol")) == 1

    @pytest.mark.parametrize(
        ("body", "field"),
        [
            ({}, "/id"),
            ({"id": "Carol"}, "/id"),
            ({"id": "*"}, "/id"),
            ({"id": "carol", "weight": 0}, "/weight"),
            ({"id": "carol", "weight": "2"}, "/weight"),
            ({"id": "carol", "requests_per_minute": 0}, "/requests_per_minute"),
            ({"id": "carol", "max_queued_jobs": 2**31}, "/max_queued_jobs"),
            ({"id": "carol", "suspended": None}, "/suspended"),
            ({"id": "carol", "webhook_secret": "x"}, "/webhook_secret"),
            ({"id": "carol", "defaults": {"steps": 1000}}, "/defaults/steps"),
            ({"id": "carol", "defaults": {"colour": "red"}}, "/defaults/colour"),
            ({"id": "carol", "defaults": {"steps": None}}, "/defaults/steps"),
        ],
    )
    async def test_what_makes_no_sense_is_refused_by_name(self, admin, body, field):
        refused = await admin.post(TENANTS, json=body)

        assert_problem(refused, 422, "invalid_request")
        assert fields_of(refused) == {field}


class TestChange:
    async def test_only_what_is_named_changes(self, admin):
        await admin.post(TENANTS, json={"id": "carol", "weight": 2, "max_queued_jobs": 7})

        changed = (await admin.patch(f"{TENANTS}/carol", json={"weight": 3})).json()

        assert (changed["weight"], changed["max_queued_jobs"]) == (3, 7)

    async def test_null_gives_back_the_servers_limit(self, admin):
        await admin.post(TENANTS, json={"id": "carol", "max_queued_jobs": 7})

        changed = (await admin.patch(f"{TENANTS}/carol", json={"max_queued_jobs": None})).json()

        assert changed["max_queued_jobs"] == 1000

    async def test_a_suspended_tenant_is_refused_until_it_is_resumed(self, admin, app, context):
        key = issued(context, "carol", TENANT_SCOPES).key
        statuses = []

        for suspended in (True, False):
            await admin.patch(f"{TENANTS}/carol", json={"suspended": suspended})
            context.keyring._known.clear()  # as after three seconds
            async with client_with(app, key) as carol:
                statuses.append((await carol.get("/v1/models")).status_code)

        assert statuses == [403, 200]


class TestLook:
    async def test_pages_hold_every_tenant_once_by_name(self, admin, context):
        for number in range(5):
            context.tenants.ensure(f"tenant-{number}")
        found, cursor = [], ""

        while cursor is not None:
            page = (await admin.get(TENANTS, params={"limit": 2, "cursor": cursor})).json()
            found += [tenant["id"] for tenant in page["data"]]
            cursor = page["next_cursor"]

        assert found == ["operators", *(f"tenant-{number}" for number in range(5))]

    @pytest.mark.parametrize("name", ["nobody", "NOBODY", "a%20b", "x" * 64])
    @pytest.mark.parametrize("route", ["", "/keys", "/usage"])
    async def test_an_unknown_tenant_is_not_found(self, admin, name, route):
        assert_problem(await admin.get(f"{TENANTS}/{name}{route}"), 404, "not_found")

    async def test_a_tenant_cannot_be_deleted(self, admin, context):
        context.tenants.ensure("carol")

        assert_problem(await admin.delete(f"{TENANTS}/carol"), 405, "method_not_allowed")

    async def test_its_usage_is_told(self, admin, context):
        context.tenants.ensure("carol")

        assert (await admin.get(f"{TENANTS}/carol/usage")).json() == {"object": "list", "data": []}


class TestKeys:
    async def test_a_key_is_made_replaced_and_ended(self, admin, context, app):
        context.tenants.ensure("carol")
        made = (await admin.post(f"{TENANTS}/carol/keys", json={"scopes": ["usage:read"]})).json()
        path = f"{TENANTS}/carol/keys/{made['id']}"
        replaced = (await admin.post(f"{path}/rotate", json={})).json()

        ended = await admin.delete(path)

        assert ended.status_code == 204
        listed = (await admin.get(f"{TENANTS}/carol/keys")).json()["data"]
        assert [key["id"] for key in listed if key["revoked_at"] is None] == [replaced["id"]]
        async with client_with(app, replaced["key"]) as carol:
            assert (await carol.get("/v1/usage")).status_code == 200

    async def test_not_even_an_operator_makes_an_operators_key(self, admin, context):
        context.tenants.ensure("carol")

        refused = await admin.post(f"{TENANTS}/carol/keys", json={"scopes": ["admin"]})

        assert_problem(refused, 403, "forbidden")

    async def test_a_row_of_the_database_makes_nobody_an_operator(self, app, context):
        written = issued(context, "carol", [*TENANT_SCOPES, "admin"]).key

        async with client_with(app, written) as carol:
            assert_problem(await carol.get(TENANTS), 403, "forbidden")

    async def test_a_repeated_request_is_refused_and_the_tenants_own_keys_do_not_meet_it(self, admin, app, context):
        own = issued(context, "carol", ["keys:write"]).key
        headers = {"Idempotency-Key": "a-retry"}
        await admin.post(f"{TENANTS}/carol/keys", json={}, headers=headers)

        again = await admin.post(f"{TENANTS}/carol/keys", json={}, headers=headers)

        assert_problem(again, 409, "secret_shown_once")
        async with client_with(app, own) as carol:
            assert (await carol.post("/v1/keys", json={}, headers=headers)).status_code == 201

    async def test_a_key_of_another_tenant_is_not_there(self, admin, context):
        key = issued(context, "carol", ["usage:read"]).record
        context.tenants.ensure("dave")

        assert_problem(await admin.delete(f"{TENANTS}/dave/keys/{key.id}"), 404, "not_found")
