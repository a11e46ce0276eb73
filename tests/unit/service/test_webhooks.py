"""Endpoints and deliveries as their tenants see them."""

import itertools

import pytest
from doubles.webhooks import REFUSED, TAKEN, WebhookDesk

from instantid_serve.errors import ConflictError, IdempotencyMismatchError, NotFoundError, UrlBlockedError
from instantid_serve.service.deliveries import Deliveries
from instantid_serve.service.idempotency import IdempotencyKey
from instantid_serve.service.webhooks import MAX_ENDPOINTS, Webhooks

KEY = IdempotencyKey("once", "fingerprint")
OTHER_URL = "https://other.example/"


@pytest.fixture
def desk(database, clock):
    return WebhookDesk(database, clock)


@pytest.fixture
def deliveries(database, clock):
    return Deliveries(database, clock)


def statuses(desk):
    return [row.status for row in desk.rows().values()]


def test_an_endpoint_is_found_as_it_was_made(desk):
    made = desk.endpoint(events=("generation.failed",), description="for the night shift")

    assert desk.webhooks.get("alice", made.id) == made == desk.webhooks.list("alice")[0]


def test_a_url_that_is_never_sent_to_is_refused_at_once(database, clock):
    def refuse(_url):
        raise UrlBlockedError("refused")

    with pytest.raises(UrlBlockedError):
        Webhooks(database, refuse, clock).create("alice", "http://127.0.0.1/")


def test_a_tenant_has_at_most_twenty(desk):
    for _ in range(MAX_ENDPOINTS):
        desk.endpoint()

    with pytest.raises(ConflictError):
        desk.endpoint()

    assert desk.endpoint(tenant="bob")


def test_a_key_makes_one_endpoint(desk):
    first = desk.endpoint(key=KEY)

    again = desk.webhooks.create("alice", first.url, key=KEY)

    assert (again.endpoint, again.replayed) == (first, True)


def test_a_key_for_another_request_is_refused(desk):
    desk.endpoint(key=KEY)

    with pytest.raises(IdempotencyMismatchError):
        desk.endpoint(key=IdempotencyKey("once", "another"))


def test_a_key_rotates_once(desk):
    endpoint = desk.endpoint()

    first, again = (desk.webhooks.rotate("alice", endpoint.id, 60.0, KEY) for _ in range(2))

    assert (again.endpoint.secrets, again.replayed) == (first.endpoint.secrets, True)


def test_a_tenants_own_secret_is_made_once_and_rotates_with_an_overlap(desk, clock):
    desk.endpoint()
    [first], [same] = (desk.webhooks.live_tenant_secrets("alice") for _ in range(2))

    rotated = desk.webhooks.rotate_tenant_secret("alice", 60.0)

    assert first == same
    assert rotated[1] == {"secret": first["secret"], "expires_at": clock.now + 60.0}
    assert list(desk.webhooks.live_tenant_secrets("alice")) == list(rotated)


def test_what_waits_goes_to_the_new_url(desk):
    endpoint = desk.endpoint()
    desk.put(endpoint)

    desk.webhooks.change("alice", endpoint.id, {"url": OTHER_URL})

    assert (desk.claim_one().url, desk.row().host) == (OTHER_URL, "other.example")


def test_an_endpoint_that_is_disabled_hears_nothing_and_can_be_enabled(desk):
    endpoint = desk.endpoint()
    desk.put(endpoint)

    disabled = desk.webhooks.change("alice", endpoint.id, {"disabled": True})
    enabled = desk.webhooks.change("alice", endpoint.id, {"disabled": False})

    assert (disabled.disabled_reason, enabled.disabled_at, statuses(desk)) == ("by_tenant", None, ["failed"])


def test_deleting_an_endpoint_takes_its_deliveries_along(desk):
    endpoint = desk.endpoint()
    desk.put(endpoint, count=2)

    desk.webhooks.delete("alice", endpoint.id)

    assert (desk.rows(), desk.webhooks.list("alice")) == ({}, [])


@pytest.mark.parametrize("settled", [TAKEN, REFUSED])
def test_what_is_asked_for_again_is_due_with_the_same_message_and_a_new_schedule(desk, deliveries, settled):
    endpoint = desk.endpoint()
    [delivery_id] = desk.put(endpoint)
    first = desk.claim_one()
    desk.queue.settle(first, settled)

    deliveries.redeliver("alice", endpoint.id, delivery_id)

    again = desk.claim_one()
    assert (again.message_id, again.tries, len(again.attempts)) == (first.message_id, 1, 1)


def test_what_is_being_sent_is_not_asked_for_again(desk, deliveries):
    endpoint = desk.endpoint()
    desk.put(endpoint)
    errand = desk.claim_one()

    with pytest.raises(ConflictError):
        deliveries.redeliver("alice", endpoint.id, errand.id)


def test_a_test_event_goes_to_an_endpoint_whatever_types_it_wants(desk, deliveries):
    endpoint = desk.endpoint(events=("generation.failed",))

    tested = deliveries.test("alice", endpoint.id)

    errand = desk.claim_one()
    assert (errand.id, errand.payload["type"]) == (tested.delivery.id, "webhook.test")


def test_a_key_tests_once(desk, deliveries):
    endpoint = desk.endpoint()

    first, again = (deliveries.test("alice", endpoint.id, KEY) for _ in range(2))

    assert (again.delivery, again.replayed, len(desk.rows())) == (first.delivery, True, 1)


def test_a_disabled_endpoint_is_sent_nothing_by_hand(desk, deliveries):
    endpoint = desk.endpoint()
    [delivery_id] = desk.put(endpoint)
    desk.webhooks.change("alice", endpoint.id, {"disabled": True})

    for ask in (deliveries.test, lambda *ids: deliveries.redeliver(*ids, delivery_id)):
        with pytest.raises(ConflictError):
            ask("alice", endpoint.id)


def test_pages_hold_every_delivery_once_the_newest_first(desk, deliveries):
    endpoint = desk.endpoint()
    ids = desk.put(endpoint, count=7)

    pages, before = [], None
    while page := [delivery.id for delivery in deliveries.find("alice", endpoint.id, before, 3)]:
        pages.append(page)
        before = page[-1]

    assert list(itertools.chain(*pages)) == sorted(ids, reverse=True)


@pytest.mark.parametrize(
    "use",
    [
        lambda desk, _d, ids: desk.webhooks.get(*ids),
        lambda desk, _d, ids: desk.webhooks.change(*ids, {"url": OTHER_URL}),
        lambda desk, _d, ids: desk.webhooks.delete(*ids),
        lambda desk, _d, ids: desk.webhooks.rotate(*ids, 60.0),
        lambda desk, _d, ids: desk.webhooks.live_secrets(*ids),
        lambda _desk, deliveries, ids: deliveries.find(*ids, None, 10),
        lambda _desk, deliveries, ids: deliveries.test(*ids),
        lambda desk, deliveries, ids: deliveries.redeliver(*ids, next(iter(desk.rows()))),
    ],
)
def test_another_tenant_finds_nothing_and_changes_nothing(desk, deliveries, use):
    endpoint = desk.endpoint()
    desk.put(endpoint)
    before = desk.rows()

    with pytest.raises(NotFoundError, match="there is no such webhook"):
        use(desk, deliveries, ("bob", endpoint.id))

    assert (desk.rows(), desk.webhooks.get("alice", endpoint.id)) == (before, endpoint)


def test_a_delivery_of_another_endpoint_is_not_found(desk, deliveries):
    desk.put(desk.endpoint())

    with pytest.raises(NotFoundError, match="there is no such delivery"):
        deliveries.redeliver("alice", desk.endpoint().id, next(iter(desk.rows())))
