import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from instantid_serve.errors import UnauthorizedError
from instantid_serve.service.tenancy import Keyring
from instantid_serve.settings import ApiKey


def key(tenant, secret):
    return ApiKey(tenant=tenant, sha256=hashlib.sha256(secret.encode()).hexdigest())


RING = Keyring([key("alice", "alice-1"), key("bob", "bob-1"), key("alice", "alice-2")])


@pytest.mark.parametrize(("presented", "tenant"), [("alice-1", "alice"), ("bob-1", "bob"), ("alice-2", "alice")])
def test_a_key_stands_for_its_tenant(presented, tenant):
    assert RING.tenant(presented) == tenant


@given(st.text().filter(lambda text: text not in {"alice-1", "bob-1", "alice-2"}))
def test_any_other_text_is_unauthorized(presented):
    with pytest.raises(UnauthorizedError):
        RING.tenant(presented)


@pytest.mark.parametrize("presented", ["\ud800", "", "x" * 1_000_000, hashlib.sha256(b"alice-1").hexdigest()])
def test_odd_keys_and_the_stored_hash_itself_are_unauthorized(presented):
    with pytest.raises(UnauthorizedError):
        RING.tenant(presented)


def test_without_keys_nobody_is_known():
    with pytest.raises(UnauthorizedError):
        Keyring([]).tenant("alice-1")
