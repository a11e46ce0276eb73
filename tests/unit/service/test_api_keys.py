"""API keys of the database: their shape, and their lives."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from instantid_serve.errors import NotFoundError
from instantid_serve.service.api_keys import ApiKeys, digest, id_of
from instantid_serve.service.tables import api_keys as table


@pytest.fixture
def keys(database, clock, tenants):
    for tenant in ("alice", "bob"):
        tenants.ensure(tenant)
    return ApiKeys(database, clock, environment="test")


@pytest.fixture
def issued(keys):
    return keys.issue("alice", ["generations:read"], label="laptop")


class TestShape:
    def test_a_key_says_what_it_is(self, issued):
        assert re.fullmatch(r"iid_test_[0-9A-Za-z]{12}_[0-9A-Za-z]{49}", issued.key)
        assert id_of(issued.key) == issued.record.id

    @given(st.integers(0, 70), st.sampled_from("0aZ_-"))
    def test_a_typing_error_is_seen_without_asking_anyone(self, position, typed):
        key = "iid_live_0123456789ab_" + "x" * 43
        with_checksum = key + _checksum_of(key)
        mistyped = with_checksum[:position] + typed + with_checksum[position + 1 :]

        assert id_of(with_checksum) == "0123456789ab"
        assert mistyped == with_checksum or id_of(mistyped) is None

    @given(st.text())
    def test_other_text_is_no_key(self, text):
        assert id_of(text) is None

    def test_neither_the_record_nor_the_key_shows_a_secret_when_printed(self, issued):
        assert issued.key not in repr(issued)
        assert digest(issued.key) not in repr(issued)

    def test_the_key_itself_is_not_stored(self, issued, database):
        with database.read() as connection:
            [row] = connection.execute(table.select()).all()

        assert issued.key.split("_")[3] not in str(tuple(row))
        assert row.sha256 == digest(issued.key)


def _checksum_of(body):
    from instantid_serve.service.api_keys import _checksum

    return _checksum(body)


class TestLife:
    def test_a_new_key_is_found_by_its_id(self, keys, issued):
        found = keys.find(issued.record.id)

        assert found == issued.record
        assert (found.tenant, found.scopes, found.label) == ("alice", ("generations:read",), "laptop")

    def test_a_rotated_key_works_until_the_overlap_ends_and_the_new_one_goes_on(self, keys, issued, clock):
        new = keys.rotate("alice", issued.record.id, overlap_s=60)
        clock.now += 59
        during = keys.find(issued.record.id)
        clock.now += 2

        assert during is not None
        assert keys.find(issued.record.id) is None
        assert keys.find(new.record.id).scopes == issued.record.scopes

    def test_rotating_does_not_prolong_a_key_that_ends_sooner(self, keys, clock):
        short = keys.issue("alice", ["generations:read"], expires_in_s=10)

        keys.rotate("alice", short.record.id, overlap_s=60)
        clock.now += 11

        assert keys.find(short.record.id) is None

    @pytest.mark.parametrize("seconds", [9, 11])
    def test_a_key_ends_when_it_was_to(self, keys, clock, seconds):
        short = keys.issue("alice", ["generations:read"], expires_in_s=10)

        clock.now += seconds

        assert (keys.find(short.record.id) is None) == (seconds > 10)

    def test_a_revoked_key_is_found_no_more_and_stays_in_the_list(self, keys, issued):
        keys.revoke("alice", issued.record.id)

        assert keys.find(issued.record.id) is None
        assert [record.revoked_at is None for record in keys.list("alice")] == [False]

    @pytest.mark.parametrize(
        "use", [lambda keys, key: keys.revoke("bob", key), lambda keys, key: keys.rotate("bob", key, overlap_s=1)]
    )
    def test_another_tenants_key_is_like_one_that_does_not_exist(self, keys, issued, use):
        with pytest.raises(NotFoundError):
            use(keys, issued.record.id)
        assert keys.find(issued.record.id) == issued.record
        assert keys.list("bob") == []

    def test_an_ended_key_is_neither_rotated_nor_revoked_again(self, keys, issued):
        keys.revoke("alice", issued.record.id)

        with pytest.raises(NotFoundError):
            keys.rotate("alice", issued.record.id, overlap_s=1)
        with pytest.raises(NotFoundError):
            keys.revoke("alice", issued.record.id)
