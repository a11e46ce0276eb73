"""Counters over a sliding minute, in memory and in a real Redis."""

import asyncio
import logging
import socket
import time

import pytest

from instantid_serve.errors import ConfigurationError
from instantid_serve.service.rate_limits import RateLimits


@pytest.fixture
def redis(redis_server):
    """The session's Redis, without what other tests counted in it."""
    redis_server.restart()
    return redis_server


@pytest.fixture(params=["memory", "redis"])
def url(request):
    return "memory://" if request.param == "memory" else request.getfixturevalue("redis").url


@pytest.fixture
async def opened():
    """Open limits at a URL; closed at the end."""
    limits = []

    def open_limits(url, timeout_s=2):
        limits.append(RateLimits(url, timeout_s=timeout_s))
        return limits[-1]

    yield open_limits
    for each in limits:
        await each.close()


@pytest.fixture
def limits(url, opened):
    return opened(url)


async def take(limits, times, whose="acme", per_minute=5):
    return [await limits.take("requests", whose, per_minute) for _ in range(times)]


async def test_a_minute_lets_in_what_it_allows_and_no_more(limits):
    taken = await take(limits, 7)

    assert [allowance.granted for allowance in taken] == [True] * 5 + [False] * 2


async def test_what_is_left_is_counted_down_to_nothing(limits):
    taken = await take(limits, 6)

    assert [allowance.left for allowance in taken] == [4, 3, 2, 1, 0, 0]


async def test_a_refusal_says_within_the_minute_when_more_is_let_in(limits):
    refused = (await take(limits, 6))[-1]

    assert 1 <= refused.more_in_s <= 60


async def test_tenants_do_not_share_a_limit(limits):
    await take(limits, 6)

    (allowance,) = await take(limits, 1, whose="other")

    assert allowance.granted


async def test_calls_at_the_same_moment_get_no_more_than_the_limit(limits):
    taken = await asyncio.gather(*(limits.take("requests", "acme", 20) for _ in range(60)))

    assert sum(allowance.granted for allowance in taken) == 20


async def test_replicas_share_the_limit_in_redis(redis, opened):
    first, second = (opened(redis.url) for _ in range(2))
    await take(first, 3)

    taken = await take(second, 3)

    assert [allowance.granted for allowance in taken] == [True, True, False]


async def test_nobody_is_limited_while_redis_is_away_and_all_are_once_it_is_back(redis, opened, monkeypatch):
    monkeypatch.setattr("instantid_serve.service.rate_limits._LEFT_ALONE_S", 0.0)
    limits = opened(redis.url)
    await take(limits, 6)

    redis.stop()
    away = await take(limits, 3)
    redis.start()
    back = await take(limits, 6)

    assert away == [None] * 3
    assert [allowance.granted for allowance in back] == [True] * 5 + [False]


async def test_the_log_names_the_outage_once_a_minute(caplog, opened, monkeypatch):
    monkeypatch.setattr("instantid_serve.service.rate_limits._LEFT_ALONE_S", 0.0)
    limits = opened("redis://127.0.0.1:1")

    with caplog.at_level(logging.ERROR):
        await take(limits, 5)

    assert [record.getMessage() for record in caplog.records if "rate limits" in record.message] == [
        "rate limits are not enforced: their storage does not answer (StorageError)"
    ]


async def test_a_storage_that_hangs_delays_one_request_by_its_timeout_and_the_next_not_at_all(opened):
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        limits = opened(f"redis://127.0.0.1:{silent.getsockname()[1]}", timeout_s=0.2)

        started = time.monotonic()
        taken = await take(limits, 20)
        took_s = time.monotonic() - started

    assert taken == [None] * 20
    assert took_s < 1


@pytest.mark.parametrize("url", ["mongodb://host", "redis://host:port", "nonsense"])
def test_another_storage_is_refused_without_telling_its_url(url):
    with pytest.raises(ConfigurationError) as refused:
        RateLimits(url, timeout_s=1)

    assert url not in str(refused.value)
