"""Every route of the document against keys that may do one thing, or everything but one."""

import dataclasses

import pytest
from doubles.key_holders import client_with

from instantid_serve.service.keyring import Caller
from instantid_serve.service.tenants import Tenants
from instantid_serve.settings import SCOPES, TENANT_SCOPES, TenancySettings

# Any caller may ask these; whoever has no key may ask what is not under /v1.
OPEN_TO_ANY_KEY = {("get", "/v1/models"), ("get", "/v1/status")}


class Holder:
    """Stands in for the keyring: its one caller has the scopes that a test gives."""

    def __init__(self, database):
        self._tenant = Tenants(database, TenancySettings(requests_per_minute=1_000_000)).ensure("acme")
        self.scopes = frozenset()

    def remembered(self, _key):
        return Caller(self._tenant, "", self.scopes)


def operations(app):
    for path, methods in app.openapi()["paths"].items():
        for method, operation in methods.items():
            yield method, path, operation


def scoped(app):
    return [(method, path, op["x-required-scope"]) for method, path, op in operations(app) if "x-required-scope" in op]


def concrete(path):
    return path.replace("{index}", "0").replace("{", "").replace("}", "")


@pytest.fixture
def holder(app, context, database):
    holder = Holder(database)
    app.state.context = dataclasses.replace(context, keyring=holder)
    return holder


def test_every_route_under_v1_names_its_scope_or_is_open_to_any_key(app):
    without = {(method, path) for method, path, operation in operations(app) if "x-required-scope" not in operation}

    assert {(method, path) for method, path in without if path.startswith("/v1")} == OPEN_TO_ANY_KEY


def test_every_route_of_operators_needs_their_scope_and_no_other_does(app):
    assert {path.startswith("/v1/admin/") for _, path, scope in scoped(app) if scope == "admin"} == {True}
    assert {scope for _, path, scope in scoped(app) if path.startswith("/v1/admin/")} == {"admin"}


def test_routes_that_change_something_need_a_scope_that_writes(app):
    changing = {scope for method, _, scope in scoped(app) if method != "get"}

    assert all(scope.endswith(":write") or scope == "admin" for scope in changing)


async def test_a_key_without_the_scope_is_refused_on_every_route(app, holder):
    allowed = []
    async with client_with(app, "any") as client:
        for method, path, scope in scoped(app):
            holder.scopes = frozenset(SCOPES) - {scope}
            answer = await client.request(method, concrete(path))
            if (answer.status_code, answer.json().get("code"), answer.json().get("scope")) != (403, "forbidden", scope):
                allowed.append((method, path, answer.status_code))

    assert allowed == []


async def test_a_key_with_only_the_scope_is_let_in_on_every_route(app, holder):
    refused = []
    async with client_with(app, "any") as client:
        for method, path, scope in scoped(app):
            holder.scopes = frozenset({scope})
            answer = await client.request(method, concrete(path))
            if answer.status_code in (401, 403, 500):
                refused.append((method, path, answer.status_code))

    assert refused == []


async def test_without_a_key_every_route_under_v1_is_refused(app, anyone):
    statuses = {(await anyone.request(m, concrete(p))).status_code for m, p, _ in operations(app) if "/v1" in p}

    assert statuses == {401}


def test_no_scope_of_tenants_opens_what_is_the_operators(app):
    assert {scope for _, path, scope in scoped(app) if "/admin/" in path}.isdisjoint(TENANT_SCOPES)
