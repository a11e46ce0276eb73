"""Deliveries to real receivers on this machine. What the database decides is tested with the delivery queue."""

import asyncio
import json
import time

import pytest
import sqlalchemy as sa
from doubles.loopback import http, loopback
from doubles.webhooks import WebhookDesk, by_path, delivering, received, until
from standardwebhooks import Webhook

from instantid_serve.errors import DatabaseError
from instantid_serve.service.database import open_database, upgrade
from instantid_serve.service.delivery_queue import DeliveryQueue, tenant_secrets
from instantid_serve.service.outbox import delivery, put

HANGS = [60.0]


@pytest.fixture
def database(tmp_path):
    """SQLite alone: nothing here is about the database."""
    database = open_database(f"sqlite:///{tmp_path / 'jobs.sqlite3'}")
    upgrade(database)
    yield database
    database.close()


@pytest.fixture
def desk(database, clock):
    return WebhookDesk(database, clock)


def ended(desk):
    return all(row.status in ("delivered", "failed") or row.attempts for row in desk.rows().values())


async def sent_once(desk, said, **limits):
    """What came of one delivery, to a receiver that says that: its row, and what the receiver got."""
    async with loopback(by_path({"/hook": said})) as server, delivering(desk, server.port, **limits):
        desk.put(desk.endpoint(server.url("/hook")))
        await until(lambda: ended(desk))
    return desk.row(), received(server)


async def test_a_delivery_arrives_signed_so_that_the_library_verifies_it(desk):
    row, [message] = await sent_once(desk, [http(200)])

    [endpoint] = desk.webhooks.list("alice")
    told = Webhook(endpoint.secrets[0]["secret"]).verify(message.body, message.headers)
    assert (row.status, row.message_id, row.payload) == ("delivered", message.headers["webhook-id"], told)
    assert message.headers["content-type"] == "application/json"


async def test_while_two_secrets_live_both_sign(desk):
    async with loopback(by_path({})) as server, delivering(desk, server.port) as outcomes:
        endpoint = desk.endpoint(server.url())
        rotated = desk.webhooks.rotate("alice", endpoint.id, 60.0).endpoint
        desk.put(rotated)
        await until(lambda: outcomes)

    [message] = received(server)
    for entry in rotated.secrets:
        Webhook(entry["secret"]).verify(message.body, message.headers)
    assert len(rotated.secrets) == 2


async def test_after_its_overlap_a_secret_signs_no_more(desk, clock):
    async with loopback(by_path({})) as server, delivering(desk, server.port) as outcomes:
        rotated = desk.webhooks.rotate("alice", desk.endpoint(server.url()).id, 60.0).endpoint
        clock.now += 61
        desk.put(rotated)
        await until(lambda: outcomes)

    assert len(received(server)[0].headers["webhook-signature"].split()) == 1


@pytest.mark.parametrize(
    ("said", "status", "error"),
    [
        ([http(500)], 500, None),
        ([http(302, location="/elsewhere")], 302, None),
        ([*HANGS], None, "timeout"),
        ([b""], None, "protocol"),
        ([b"HTTP/1.1 200 OK\r\ncontent-le", *HANGS], None, "timeout"),
    ],
)
async def test_what_is_no_success_is_logged_and_waits_for_its_next_turn(desk, clock, said, status, error):
    row, messages = await sent_once(desk, said)

    [attempt] = row.attempts
    assert (attempt["status"], attempt["error"]) == (status, error)
    assert (row.status, len(messages)) == ("pending", 1)
    assert 4.0 <= row.due_at - clock.now <= 6.0


async def test_a_receiver_that_is_down_gets_the_same_message_once_it_is_up(desk, clock):
    async with loopback(by_path({})) as server:
        port = server.port
    async with delivering(desk, port) as outcomes:
        desk.put(desk.endpoint(server.url()))
        await until(lambda: outcomes == ["retried"])
        message_id = desk.row().message_id
        answering = await asyncio.start_server(_no_content, "127.0.0.1", port)
        clock.now += 6
        await until(lambda: outcomes == ["retried", "delivered"])
        answering.close()

    assert (desk.row().message_id, desk.row().attempts[0]["error"]) == (message_id, "connect")


async def _no_content(reader, writer):
    await reader.readuntil(b"\r\n\r\n")
    writer.write(http(204, body=b"", content_length=None))
    writer.close()


async def test_gone_disables_the_endpoint(desk):
    row, _ = await sent_once(desk, [http(410)])

    assert (row.status, desk.webhooks.list("alice")[0].disabled_reason) == ("failed", "gone")


@pytest.mark.parametrize(("status", "waits_s"), [(429, 90.0), (503, 90.0), (500, 5.0)])
async def test_retry_after_is_honoured_of_those_that_are_busy(desk, clock, status, waits_s):
    row, _ = await sent_once(desk, [http(status, retry_after=90)])

    assert row.due_at - clock.now == pytest.approx(waits_s, rel=0.2)


async def test_an_endless_answer_is_not_read_to_its_end(desk):
    row, _ = await sent_once(desk, [b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 10_000_000], timeout_s=5.0)

    assert row.status == "delivered"


async def test_a_url_that_leads_to_a_forbidden_address_is_not_connected_to(desk):
    async with loopback(by_path({})) as server, delivering(desk, 443):
        desk.put(desk.endpoint(server.url()))
        await until(lambda: ended(desk))

    assert (desk.row().attempts[0]["error"], server.connections) == ("url_blocked", 0)


async def test_two_hundred_hanging_receivers_hold_up_nobody_else(desk):
    async with (
        loopback(by_path({"/hang": HANGS})) as server,
        delivering(desk, server.port, in_flight=512, timeout_s=30.0),
    ):
        for number in range(200):
            tenant = f"tenant-{number % 10}"
            desk.put(desk.endpoint(server.url("/hang", host=f"h{number}.test"), tenant), tenant)
        await until(lambda: server.connections >= 200)
        [good] = desk.put(desk.endpoint(server.url("/good", host="good.test")))
        took_s = await until(lambda: desk.rows()[good].status == "delivered")

    assert took_s < 1.0


async def test_a_proven_receiver_is_served_when_others_hold_all_places_they_may_have(desk):
    async with (
        loopback(by_path({"/hang": HANGS})) as server,
        delivering(desk, server.port, in_flight=8, timeout_s=30.0),
    ):
        good = desk.endpoint(server.url("/good", host="good.test"))
        desk.put(good)
        await until(lambda: ended(desk))
        for number in range(20):
            tenant = f"tenant-{number}"
            desk.put(desk.endpoint(server.url("/hang", host=f"h{number}.test"), tenant), tenant)
        await until(lambda: server.connections >= 1 + 6)
        [second] = desk.put(good)
        took_s = await until(lambda: desk.rows()[second].status == "delivered")

    assert took_s < 1.0
    assert server.connections == 1 + 6 + 1


async def test_a_courier_that_is_killed_between_sending_and_settling_sends_the_same_message_again(desk, clock):
    async with loopback(by_path({"/hook": HANGS})) as server, delivering(desk, server.port, timeout_s=30.0):
        desk.put(desk.endpoint(server.url("/hook")))
        await until(lambda: server.requests)
    clock.now += 100

    async with delivering(desk, server.port) as outcomes:
        await until(lambda: outcomes)

    first, second = received(server)[0], desk.row()
    assert (first.headers["webhook-id"], second.tries) == (second.message_id, 2)


async def test_a_webhook_that_a_job_names_is_signed_with_its_tenants_secret(desk):
    async with loopback(by_path({})) as server, delivering(desk, server.port) as outcomes:
        desk.endpoint("https://example.com/")  # makes the tenant
        row = delivery("alice", {"type": "generation.failed"}, server.url(), job_id="gen_1")
        with desk.database.write() as connection:
            put(connection, desk.clock(), [row])
        await until(lambda: outcomes)

    [message] = received(server)
    with desk.database.write() as connection:
        [kept] = tenant_secrets(connection, "alice")
    assert Webhook(kept["secret"]).verify(message.body, message.headers) == {"type": "generation.failed"}


class AwayAtFirst(DeliveryQueue):
    """Its database answers from the third call on."""

    away = 2

    def claim(self, *args):
        self.away -= 1
        if self.away >= 0:
            raise DatabaseError("the database does not answer")
        return super().claim(*args)


async def test_an_outage_of_the_database_is_waited_out(desk):
    desk.queue = AwayAtFirst(desk.database, desk.clock)

    row, messages = await sent_once(desk, [http(204, body=b"")])

    assert (row.status, len(messages)) == ("delivered", 1)


class AwayAfterSending(DeliveryQueue):
    """Its database is away when the first outcomes are to be written down."""

    away = 2

    def settle(self, *args):
        self.away -= 1
        if self.away >= 0:
            raise DatabaseError("the database does not answer")
        return super().settle(*args)


async def test_an_outage_after_sending_sends_nothing_twice(desk):
    desk.queue = AwayAfterSending(desk.database, desk.clock)

    row, messages = await sent_once(desk, [http(204, body=b"")])

    assert (row.status, row.tries, len(messages)) == ("delivered", 1, 1)


async def test_a_delivery_that_cannot_be_signed_does_not_stop_the_others(desk):
    async with loopback(by_path({})) as server, delivering(desk, server.port) as outcomes:
        broken = desk.endpoint(server.url("/broken"))
        with desk.database.write() as connection:
            secrets = json.dumps([{"secret": "whsec_%%%", "expires_at": None}])
            connection.execute(sa.text("UPDATE webhook_endpoints SET secrets = :s"), {"s": secrets})
        desk.put(broken)
        desk.put(desk.endpoint(server.url("/good")))
        await until(lambda: outcomes == ["delivered"])

    assert [message.path for message in received(server)] == ["/good"]


async def test_a_courier_stops_at_once(desk):
    async with loopback(by_path({"/hook": HANGS})) as server:
        async with delivering(desk, server.port, timeout_s=30.0):
            desk.put(desk.endpoint(server.url("/hook")))
            await until(lambda: server.requests)
            begun_s = time.perf_counter()
        took_s = time.perf_counter() - begun_s

    assert took_s < 1.0
