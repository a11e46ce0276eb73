"""Who is served first, and how many places receivers can take that do not work."""

import dataclasses

import pytest
from doubles.webhooks import LEASE_S, PLENTY, REFUSED, WebhookDesk

from instantid_serve.service.delivery import Repute
from instantid_serve.service.delivery_turns import Places


@pytest.fixture
def desk(database, clock):
    return WebhookDesk(database, clock)


def reputes(errands):
    return [errand.repute for errand in errands]


def places(**changes):
    return dataclasses.replace(PLENTY, **changes)


@pytest.fixture
def three_kinds(desk, clock):
    """Two deliveries each for receivers that did not take the last one, that took nothing yet, and that work."""
    endpoints = [desk.endpoint(f"https://{name}.example/", name) for name in ("suspect", "unknown", "proven")]
    suspect, unknown, proven = endpoints
    desk.prove(proven)
    desk.put(suspect, "suspect")
    desk.queue.settle(desk.claim_one(), REFUSED)
    clock.now += 60
    desk.put(suspect, "suspect")
    desk.put(unknown, "unknown", 2)
    clock.now += 1
    desk.put(proven, "proven", 2)
    return desk


def test_receivers_that_work_come_first(three_kinds):
    claimed = three_kinds.claim(places(free=3))

    assert sorted(reputes(claimed)) == [Repute.PROVEN, Repute.PROVEN, Repute.UNKNOWN]


@pytest.mark.parametrize(
    ("room", "found"),
    [
        ({"free_unproven": 0}, [0, 0]),
        ({"free_suspect": 0}, [0, 0, 1, 1]),
        ({"free_unproven": 3}, [0, 0, 1, 1, 2]),
        ({"free_suspect": 1}, [0, 0, 1, 1, 2]),
    ],
)
def test_others_take_no_more_than_their_places(three_kinds, room, found):
    assert sorted(reputes(three_kinds.claim(places(**room)))) == found


def test_no_host_has_more_under_way_than_its_places(desk):
    for tenant in ("alice", "bob"):
        desk.put(desk.endpoint(tenant=tenant), tenant, 5)

    claimed = [len(desk.claim(places(free=free, per_host=3))) for free in (2, 100, 100)]

    assert claimed == [2, 1, 0]


def test_no_tenant_has_more_under_way_than_its_places(desk):
    for host in range(5):
        desk.put(desk.endpoint(f"https://{host}.example/"))

    claimed = [len(desk.claim(places(free=free, per_tenant=3))) for free in (2, 100, 100)]

    assert claimed == [2, 1, 0]


def test_a_place_is_free_again_when_its_courier_fell_silent(desk, clock):
    desk.put(desk.endpoint(), count=2)
    desk.claim(places(per_host=1))

    clock.now += LEASE_S + 1

    assert len(desk.claim(places(per_host=1))) == 1


def test_a_host_with_a_long_queue_does_not_hide_the_others(desk):
    desk.put(desk.endpoint("https://busy.example/"), count=200)
    [other] = desk.put(desk.endpoint("https://other.example/", "bob"), "bob")
    little = Places(free=4, free_unproven=4, free_suspect=4, per_host=2, per_tenant=10)

    claimed = {errand.id for _ in range(2) for errand in desk.claim(little)}

    assert other in claimed
