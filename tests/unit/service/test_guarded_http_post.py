"""Webhooks: posted once, to public addresses only, answered briefly, never redirected."""

import time

import pytest
from doubles.loopback import always, forever, http, loopback

from instantid_serve.errors import UrlBlockedError, UrlFetchError
from instantid_serve.service.guarded_http import GuardedHttp
from instantid_serve.service.guarded_urls import UrlRules

HEAD = b"HTTP/1.1 200 OK\r\n\r\n"


async def post(server, **more):
    rules = UrlRules(allowed_networks=("127.0.0.1/32",), ports=(server.port,), first_byte_timeout_s=0.3)
    headers = {"Content-Type": "application/json", "webhook-id": "msg_1", "Host": "evil"}
    return await GuardedHttp(rules, **more).post(server.url("/hook"), b'{"a": 1}', headers, timeout_s=0.9)


async def test_the_body_and_its_headers_arrive():
    async with loopback(always(http(204, body=b"", content_length=None))) as server:
        answer = await post(server)

    head, _, body = server.requests[0].partition(b"\r\n\r\n")
    assert (answer.status, body) == (204, b'{"a": 1}')
    assert head.startswith(b"POST /hook HTTP/1.1\r\n")
    assert b"webhook-id: msg_1\r\n" in head
    assert f"host: 127.0.0.1:{server.port}\r\n".encode() in head
    assert b"evil" not in head
    assert 0 < answer.took_s < 0.9


@pytest.mark.parametrize("status", [301, 302, 307, 308])
async def test_a_redirect_is_an_answer_and_is_not_followed(status):
    async with loopback(always(http(status, location="/other"))) as server:
        answer = await post(server)

    assert (answer.status, server.connections) == (status, 1)


async def test_when_to_come_again_is_told_and_nothing_else():
    async with loopback(always(http(429, retry_after="120", set_cookie="a=b", server="x"))) as server:
        answer = await post(server)

    assert (answer.status, answer.headers) == (429, {"retry-after": "120"})


@pytest.mark.parametrize(
    "answer",
    [
        forever(HEAD, b"a" * 65_536),
        forever(HEAD, b"a", pause_s=0.05),
        always(HEAD, b"a", 0.5),
        always(http(content_length=10)),
    ],
)
async def test_the_status_counts_whatever_follows_it(answer):
    begun_s = time.monotonic()

    async with loopback(answer) as server:
        answered = await post(server)

    assert answered.status == 200
    assert time.monotonic() - begun_s < 0.85


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (always(1.0), "timeout"),
        (forever(b"HTTP/1.1 200 OK\r\n", b"A: b\r\n", pause_s=0.05), "timeout"),
        (always(), "protocol"),
    ],
)
async def test_no_answer_has_a_named_reason(answer, reason):
    async with loopback(answer) as server:
        with pytest.raises(UrlFetchError) as failed:
            await post(server)

    assert failed.value.facts == {"reason": reason}


async def test_a_private_address_gets_nothing():
    counted = []
    async with loopback(always(http())) as server:
        guard = GuardedHttp(UrlRules(ports=(server.port,)), on_blocked=counted.append)
        with pytest.raises(UrlBlockedError):
            await guard.post(server.url(), b"", {}, timeout_s=0.5)

    assert (server.connections, counted) == (0, ["address"])
