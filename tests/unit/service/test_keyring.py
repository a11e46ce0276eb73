"""Whose key a presented text is: keys of the config file, keys of the database, and what is remembered."""

import hashlib

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from instantid_serve.errors import DatabaseError, UnauthorizedError
from instantid_serve.service.api_keys import ApiKeys
from instantid_serve.service.keyring import Keyring
from instantid_serve.settings import SCOPES, TENANT_SCOPES, ApiKey

REMEMBERED_S = 0.2


def configured(tenant, secret, **changes):
    return ApiKey(tenant=tenant, sha256=hashlib.sha256(secret.encode()).hexdigest(), **changes)


CONFIGURED = (
    configured("alice", "alice-1"),
    configured("bob", "bob-1", scopes=["generations:read"]),
    configured("alice", "alice-2"),
)


@pytest.fixture
def keys(database, clock):
    return ApiKeys(database, clock)


@pytest.fixture
def ring(keys, tenants):
    return Keyring(CONFIGURED, keys, tenants, remembered_s=REMEMBERED_S)


class TestKeysOfTheConfig:
    @pytest.mark.parametrize(("presented", "tenant"), [("alice-1", "alice"), ("bob-1", "bob"), ("alice-2", "alice")])
    def test_a_key_stands_for_its_tenant(self, ring, presented, tenant):
        assert ring.caller(presented).tenant.id == tenant

    def test_it_may_do_what_the_file_says(self, ring):
        assert ring.caller("bob-1").scopes == {"generations:read"}
        assert ring.caller("alice-1").scopes == set(TENANT_SCOPES)

    def test_its_tenant_is_made_when_it_is_new(self, ring, tenants):
        ring.caller("alice-1")

        assert tenants.get("alice").max_queued_jobs == 1000

    @given(st.text().filter(lambda text: text not in {"alice-1", "bob-1", "alice-2"}))
    @settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
    def test_any_other_text_is_unauthorized(self, ring, presented):
        with pytest.raises(UnauthorizedError):
            ring.caller(presented)

    @pytest.mark.parametrize("presented", ["\ud800", "", "x" * 1_000_000, hashlib.sha256(b"alice-1").hexdigest()])
    def test_odd_keys_and_the_stored_hash_itself_are_unauthorized(self, ring, presented):
        with pytest.raises(UnauthorizedError):
            ring.caller(presented)


class TestKeysOfTheDatabase:
    def test_an_issued_key_stands_for_its_tenant_with_its_scopes(self, ring, keys, tenants):
        tenants.ensure("carol")
        issued = keys.issue("carol", ["generations:read", "usage:read"])

        caller = ring.caller(issued.key)

        assert (caller.tenant.id, caller.key_id) == ("carol", issued.record.id)
        assert caller.scopes == {"generations:read", "usage:read"}

    def test_the_right_id_with_another_secret_is_unauthorized(self, ring, keys, tenants):
        tenants.ensure("carol")
        one, two = keys.issue("carol", SCOPES), keys.issue("carol", SCOPES)
        mixed = one.key[:21] + two.key[21:]

        with pytest.raises(UnauthorizedError):
            ring.caller(mixed)

    def test_a_key_that_outlived_its_tenant_is_unauthorized(self, ring, keys):
        issued = keys.issue("nobody", SCOPES)

        with pytest.raises(UnauthorizedError):
            ring.caller(issued.key)

    @pytest.mark.parametrize("end", ["revoked", "expired"])
    def test_an_ended_key_is_unauthorized_once_it_is_forgotten(self, keys, tenants, clock, end):
        tenants.ensure("carol")
        issued = keys.issue("carol", SCOPES, expires_in_s=60)
        ring = Keyring((), keys, tenants, remembered_s=1e-6)
        ring.caller(issued.key)
        if end == "revoked":
            keys.revoke("carol", issued.record.id)
        else:
            clock.now += 61

        with pytest.raises(UnauthorizedError):
            ring.caller(issued.key)


class TestMemory:
    def test_what_was_not_asked_yet_is_not_remembered(self, ring):
        assert ring.remembered("alice-1") is None

    def test_a_known_key_needs_no_database(self, ring, database):
        caller = ring.caller("alice-1")
        database.close()

        assert ring.remembered("alice-1") == caller

    def test_a_wrong_key_is_refused_from_memory(self, ring):
        with pytest.raises(UnauthorizedError):
            ring.caller("wrong")

        with pytest.raises(UnauthorizedError):
            ring.remembered("wrong")

    def test_an_outage_is_not_remembered_as_a_wrong_key(self, ring, keys, tenants, monkeypatch):
        tenants.ensure("carol")
        issued = keys.issue("carol", SCOPES)

        def away(_key_id):
            raise DatabaseError("the database does not answer")

        with monkeypatch.context() as patch:
            patch.setattr(keys, "find", away)
            with pytest.raises(DatabaseError):
                ring.caller(issued.key)

        assert ring.caller(issued.key).tenant.id == "carol"
