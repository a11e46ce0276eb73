"""Keys made with an idempotency key: one of them, however often and however fast it is asked for."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from instantid_serve.errors import ForbiddenError, IdempotencyMismatchError, SecretShownError
from instantid_serve.service.api_keys import ApiKeys
from instantid_serve.service.idempotency import KEPT_S, IdempotencyKey

ONCE = IdempotencyKey("a-retry", "the same request")


@pytest.fixture
def keys(database, clock, tenants):
    for tenant in ("alice", "bob"):
        tenants.ensure(tenant)
    return ApiKeys(database, clock)


def test_the_second_request_is_refused_and_names_the_first_ones_key(keys):
    made = keys.issue("alice", ["usage:read"], once=ONCE)

    with pytest.raises(SecretShownError) as refused:
        keys.issue("alice", ["usage:read"], once=ONCE)

    assert refused.value.facts == {"key_id": made.record.id}
    assert len(keys.list("alice")) == 1


def test_requests_at_the_same_moment_make_one_key(keys):
    def ask(_number):
        try:
            return keys.issue("alice", ["usage:read"], once=ONCE)
        except SecretShownError as refused:
            return refused

    with ThreadPoolExecutor(6) as threads:
        answers = list(threads.map(ask, range(6)))

    assert sum(isinstance(answer, SecretShownError) for answer in answers) == 5
    assert len(keys.list("alice")) == 1


def test_another_request_with_it_is_a_mistake(keys):
    keys.issue("alice", ["usage:read"], once=ONCE)

    with pytest.raises(IdempotencyMismatchError):
        keys.issue("alice", ["usage:read"], once=IdempotencyKey(ONCE.key, "another request"))


def test_another_tenant_may_use_the_same(keys):
    keys.issue("alice", ["usage:read"], once=ONCE)

    assert keys.issue("bob", ["usage:read"], once=ONCE).record.tenant == "bob"


def test_after_a_day_it_is_forgotten(keys, clock):
    keys.issue("alice", ["usage:read"], once=ONCE)
    clock.now += KEPT_S + 1

    assert keys.issue("alice", ["usage:read"], once=ONCE)


def test_a_refused_rotation_leaves_the_old_key_as_it_was(keys):
    old = keys.issue("alice", ["usage:read", "keys:write"]).record

    with pytest.raises(ForbiddenError):
        keys.rotate("alice", old.id, overlap_s=0, within={"keys:write"}, once=ONCE)

    assert keys.find(old.id) == old
    assert keys.rotate("alice", old.id, overlap_s=0, once=ONCE).record.scopes == old.scopes
