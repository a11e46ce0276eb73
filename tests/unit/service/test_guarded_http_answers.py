"""Servers that stall, lie, overflow or refuse: each ends in time, with an error that has a name."""

import asyncio
import gzip
import pickle
import time

import pytest
from doubles.loopback import always, forever, http, loopback

from instantid_serve.errors import UrlFetchError, UrlTooLargeError
from instantid_serve.service.guarded_http import GuardedHttp
from instantid_serve.service.guarded_urls import UrlRules

MAX_BYTES = 100_000
ENDLESS = b"HTTP/1.1 200 OK\r\n\r\n"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
BOMB = gzip.compress(bytes(1_000_000))


def guard_for(server, **more):
    timeouts = {"connect_timeout_s": 0.2, "first_byte_timeout_s": 0.2}
    rules = UrlRules(allowed_networks=("127.0.0.1/32",), ports=(server.port,), **timeouts)
    return GuardedHttp(rules, **more)


async def failure(answer, *, scheme="http", timeout_s=0.5):
    async with loopback(answer) as server:
        with pytest.raises((UrlFetchError, UrlTooLargeError)) as failed:
            await guard_for(server).fetch(server.url(scheme=scheme), max_bytes=MAX_BYTES, timeout_s=timeout_s)
    return failed.value


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (always(ENDLESS, b"a", 0.3, b"a"), "timeout"),
        (forever(ENDLESS, b"a", pause_s=0.05), "timeout"),
        (forever(b"HTTP/1.1 200 OK\r\n", b"A: b\r\n", pause_s=0.05), "timeout"),
        (forever(b"", b"HTTP/1.1 100 Continue\r\n\r\n", pause_s=0.01), "timeout"),
        (always(1.0), "timeout"),
        (forever(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 1000), "protocol"),
        (forever(CHUNKED, b"1\r\na\r\n" * 1000), "protocol"),
        (always(), "protocol"),
        (always(b"SSH-2.0-OpenSSH_9.6\r\n\r\n"), "protocol"),
        (forever(b"HTTP/1.1 200 OK\r\n", b"A: " + b"b" * 60_000), "protocol"),
        (always(http(content_length=10)), "protocol"),
        (always(http(content_length="five")), "protocol"),
        (always(http(content_length="9" * 5000)), "protocol"),
        (always(http(content_length="5\r\nContent-Length: 6")), "protocol"),
        (always(CHUNKED, b"zz\r\n"), "protocol"),
        (always(http(body=BOMB, content_encoding="gzip")), "encoding"),
        (always(http(body=BOMB, content_encoding="br, identity")), "encoding"),
        (always(http(204, body=b"", content_length=None)), "status"),
        (always(http(101, body=b"")), "protocol"),
        (always(http(206)), "status"),
        (always(http(304, body=b"")), "status"),
        (always(http(404)), "status"),
        (always(http(500)), "status"),
    ],
)
async def test_a_bad_answer_has_a_named_reason(answer, reason):
    failed = await failure(answer)

    assert (failed.code, failed.status, failed.facts["reason"]) == ("url_unreachable", 422, reason)


@pytest.mark.parametrize(
    "answer",
    [
        forever(ENDLESS, b"a" * 65_536),
        forever(CHUNKED, b"10000\r\n" + b"a" * 65_536 + b"\r\n"),
        always(http(body=b"a" * (MAX_BYTES + 1))),
        always(http(content_length=10**12), 0.3),
    ],
)
async def test_what_is_too_large_is_cut_off(answer):
    failed = await failure(answer)

    assert (failed.code, failed.status, failed.facts) == ("url_too_large", 413, {"max_bytes": MAX_BYTES})


async def test_the_largest_size_passes():
    async with loopback(always(http(body=b"a" * MAX_BYTES))) as server:
        fetched = await guard_for(server).fetch(server.url(), max_bytes=MAX_BYTES, timeout_s=0.5)

    assert len(fetched.content) == MAX_BYTES


async def test_one_byte_a_second_ends_at_the_total_time():
    begun_s = time.monotonic()

    await failure(forever(ENDLESS, b"a", pause_s=0.05), timeout_s=0.3)

    assert 0.25 < time.monotonic() - begun_s < 0.6


async def test_a_page_passes_for_whoever_asked_to_judge():
    async with loopback(always(http(body=b"<html>", content_type="text/html"))) as server:
        fetched = await guard_for(server).fetch(server.url(), max_bytes=MAX_BYTES, timeout_s=0.5)

    assert (fetched.content, fetched.media_type) == (b"<html>", "text/html")


async def test_the_server_is_asked_for_bytes_as_they_are():
    async with loopback(always(http())) as server:
        await guard_for(server).fetch(server.url(), max_bytes=MAX_BYTES, timeout_s=0.5)

    assert b"accept-encoding: identity\r\n" in server.requests[0]


async def test_a_closed_port_is_told_apart():
    async with loopback(always()) as server:
        guard, url = guard_for(server), server.url()

    with pytest.raises(UrlFetchError) as failed:
        await guard.fetch(url, max_bytes=MAX_BYTES, timeout_s=0.5)

    assert failed.value.facts == {"reason": "connect"}


async def knows_nothing(_host, _port):
    raise OSError(-2, "Name or service not known")


async def answers_nothing(_host, _port):
    return []


async def never_answers(_host, _port):
    await asyncio.sleep(10)


@pytest.mark.parametrize("resolve", [knows_nothing, answers_nothing, never_answers])
async def test_a_name_that_is_not_found_is_told_apart(resolve):
    async with loopback(always()) as server:
        guard, url = guard_for(server, resolve=resolve), server.url(host="gone.example")
        with pytest.raises(UrlFetchError) as failed:
            await guard.fetch(url, max_bytes=MAX_BYTES, timeout_s=0.5)

    assert failed.value.facts == {"reason": "dns"}


async def test_an_error_survives_pickling():
    failed = await failure(always(http(404)))

    again = pickle.loads(pickle.dumps(failed))  # noqa: S301 - our own bytes

    assert (type(again), again.facts) == (UrlFetchError, {"reason": "status", "status": 404})
