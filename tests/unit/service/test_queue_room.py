import dataclasses

import pytest
from doubles.service import LEASE_S, add

from instantid_serve.errors import OverloadedError, QueueFullError
from instantid_serve.service.fairness import Room
from instantid_serve.service.queue_room import QueueRoom


@pytest.fixture
def time_s():
    return [0.0]


@pytest.fixture
def room(database, time_s):
    return QueueRoom(database, most_in_all=3, monotonic=lambda: time_s[0])


@pytest.fixture
def alice(tenants):
    return dataclasses.replace(tenants.ensure("alice"), max_queued_jobs=2)


def test_a_queue_with_a_place_refuses_nobody(jobs, room, alice):
    add(jobs, "alice")

    room.check(alice)


def test_a_tenant_whose_queue_is_full_is_refused_and_others_are_not(jobs, room, alice, tenants):
    add(jobs, "alice")
    add(jobs, "alice")

    with pytest.raises(QueueFullError) as refused:
        room.check(alice)
    room.check(tenants.ensure("bob"))

    assert refused.value.facts == {"max_queued_jobs": 2, "queued": 2, "retry_after_s": 5}


def test_more_jobs_than_there_are_places_are_refused_and_fewer_are_not(jobs, room, alice):
    add(jobs, "alice")

    with pytest.raises(QueueFullError):
        room.check(alice, more=2)
    room.check(alice, more=1)


def test_everybody_is_refused_when_all_places_are_taken(jobs, room, tenants):
    for tenant in ("bob", "carol", "dave"):
        add(jobs, tenant)

    with pytest.raises(OverloadedError) as refused:
        room.check(tenants.ensure("erin"))

    assert refused.value.facts == {"retry_after_s": 5}


def test_a_full_queue_is_remembered_for_a_moment_without_a_look(jobs, queue, room, alice, time_s):
    add(jobs, "alice")
    add(jobs, "alice")
    with pytest.raises(QueueFullError):
        room.check(alice)
    queue.claim("w", Room(1), LEASE_S)

    with pytest.raises(QueueFullError):
        room.remembered(alice)
    time_s[0] += 0.3

    room.remembered(alice)
    room.check(alice)
