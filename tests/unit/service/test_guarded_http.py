"""What strangers' URLs lead to: the corpus of bad ones, names that turn private, and redirects, over real sockets."""

import asyncio
import collections
import itertools

import pytest
from doubles.loopback import always, http, loopback

from instantid_serve.errors import ConfigurationError, UrlBlockedError, UrlFetchError
from instantid_serve.service.guarded_http import GuardedHttp
from instantid_serve.service.guarded_urls import UrlRules

NAMES = {
    "public.example": ["93.184.216.34"],
    "metadata.google.internal": ["169.254.169.254"],
    "ray-head": ["10.0.3.7"],
    "kubernetes.default.svc": ["10.96.0.1"],
    "127.0.0.1.nip.example": ["127.0.0.1"],
    "half.example": ["93.184.216.34", "10.0.0.5"],
    "mapped.example": ["::ffff:10.0.0.5"],
    "nat64.example": ["64:ff9b::a9fe:a9fe"],
    "six-to-four.example": ["2002:a9fe:a9fe::"],
    "multicast.example": ["224.0.0.1"],
    "store.example": ["93.184.216.34"],
}
CORPUS = {
    133: "http://127.0.0.1/",
    134: "http://localhost/",
    135: "http://127.1/",
    136: "http://2130706433/",
    137: "http://0x7f.1/",
    138: "http://0177.0.0.1/",
    139: "http://0/",
    140: "http://[::1]/",
    141: "http://[::ffff:127.0.0.1]/",
    142: "http://169.254.169.254/latest/meta-data/",
    143: "http://metadata.google.internal/",
    144: "http://[fd00:ec2::254]/",
    145: "http://ray-head:8265/api/jobs/",
    146: "https://kubernetes.default.svc/api",
    147: "http://public.example\\@127.0.0.1/",
    148: "http://127.0.0.1%2f@public.example/",
    149: "http://\uff50ublic.example/",
    150: "file:///etc/passwd",
    151: "gopher://public.example/",
    152: "s3://other-bucket/x",
    153: "data:image/png;base64," + "A" * 50_000_000,
    154: "http://user:pass@public.example/",
    155: "http://public.example:22/",
    155.5: "http://public.example:6379/",
    156: "http://127.0.0.1.nip.example/",
    157: "http://half.example/",
    157.1: "http://mapped.example/",
    157.2: "http://nat64.example/",
    157.3: "http://six-to-four.example/",
    157.4: "http://multicast.example/",
    170: "http://public.example/" + "a" * 65_536,
    171: "https://store.example/other-tenant/photo?X-Amz-Signature=1",
}
MAX_BYTES = 100_000
HERE = ("127.0.0.1/32",)


async def of_names(host, _port):
    if host == "localhost":
        return ["127.0.0.1", "::1"]
    return NAMES[host]


def guard_for(*servers, resolve=of_names, allowed=HERE):
    """One that may reach these servers."""
    rules = UrlRules(allowed_networks=allowed, ports=(80, 443, 8265, *(server.port for server in servers)))
    return GuardedHttp(rules, resolve=resolve)


async def fetch(guard, url, **more):
    return await guard.fetch(url, **{"max_bytes": MAX_BYTES, "timeout_s": 2.0, **more})


@pytest.mark.parametrize("number", CORPUS)
async def test_a_bad_url_is_blocked_and_counted_without_saying_what_was_there(number):
    counted = []
    rules = UrlRules(ports=(80, 443, 8265), blocked_hosts=("store.example",))
    guard = GuardedHttp(rules, resolve=of_names, on_blocked=counted.append)

    with pytest.raises(UrlBlockedError) as blocked:
        await fetch(guard, CORPUS[number])

    with pytest.raises(UrlBlockedError) as another:
        guard.check("http://user@public.example/")
    assert (blocked.value.detail, blocked.value.facts) == (another.value.detail, {})
    assert len(counted) == 2


@pytest.mark.parametrize("number", [133, *range(135, 143), 144, *range(147, 156), 170])
def test_what_is_bad_by_itself_is_blocked_without_a_look_up(number):
    with pytest.raises(UrlBlockedError):
        GuardedHttp(UrlRules()).check(CORPUS[number])


async def test_a_name_is_checked_with_all_its_addresses_before_it_is_registered():
    guard = GuardedHttp(UrlRules(), resolve=of_names)

    await guard.resolve_check("https://public.example/hook")

    with pytest.raises(UrlBlockedError):
        await guard.resolve_check("https://half.example/hook")


@pytest.mark.parametrize("first", ["127.9.9.9", "127.0.0.1"])
async def test_a_name_that_turns_private_never_gets_a_connection(first):
    """127.9.9.9 stands for the internet, where nobody answers here; 127.0.0.1 is what the rules protect."""
    answers = itertools.cycle(["127.9.9.9", "127.0.0.1"] if first == "127.9.9.9" else ["127.0.0.1", "127.9.9.9"])
    asked = []

    async def flipping(host, _port):
        asked.append(host)
        return [next(answers)]

    outcomes = collections.Counter()
    async with loopback(always(http())) as server:
        guard = guard_for(server, resolve=flipping, allowed=("127.9.9.9/32",))
        for _ in range(20):
            tries = [fetch(guard, server.url(host="flips.example")) for _ in range(25)]
            outcomes.update(error.code for error in await asyncio.gather(*tries, return_exceptions=True))

    assert server.connections == 0
    assert (len(asked), outcomes) == (500, {"url_blocked": 250, "url_unreachable": 250})


async def test_an_allowed_network_is_reached():
    async with loopback(always(http(content_type="Image/PNG; x=y"))) as server:
        fetched = await fetch(guard_for(server), server.url("/a?b"))

    assert (fetched.content, fetched.media_type) == (b"photo", "image/png")


@pytest.mark.parametrize("addresses", [["127.9.9.9", "127.0.0.1"], ["127.0.0.1", "127.9.9.9"]])
async def test_every_address_is_tried(addresses):
    async def both(_host, _port):
        return addresses

    async with loopback(always(http())) as server:
        guard = guard_for(server, resolve=both, allowed=("127.0.0.0/8",))
        fetched = await fetch(guard, server.url(host="two.example"))

    assert fetched.content == b"photo"


async def test_an_allowed_network_turns_no_other_check_off():
    async with loopback(always(http())) as server:
        guard = GuardedHttp(UrlRules(allowed_networks=HERE))
        with pytest.raises(UrlBlockedError):
            await fetch(guard, server.url())


def test_a_network_that_is_none_is_refused_by_name():
    with pytest.raises(ConfigurationError, match="allowed_networks"):
        GuardedHttp(UrlRules(allowed_networks=("10.0.0.1/8",)))


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_followed_with_no_cookie_and_no_name_of_the_first_host(status):
    answers = {"/": http(status, location="/photo", set_cookie="a=b"), "/photo": http()}
    async with loopback(lambda path, writer: always(answers[path])(path, writer)) as server:
        fetched = await fetch(guard_for(server), server.url())

    assert fetched.content == b"photo"
    assert b"cookie" not in server.requests[1].lower()
    assert b"referer" not in server.requests[1].lower()


@pytest.mark.parametrize(
    "location",
    [
        "http://169.254.169.254/latest/meta-data/",
        "http://metadata.google.internal/",
        "//10.0.0.1/",
        "file:///etc/passwd",
        "http://public.example:22/",
        "http://user@public.example/",
        "http://\udcff.example/",
        "/\\evil",
        "/a\tb",
    ],
)
async def test_a_redirect_is_checked_like_the_url_itself(location):
    async with loopback(always(http(302, location=location))) as server:
        with pytest.raises(UrlBlockedError) as blocked:
            await fetch(guard_for(server), server.url())

    assert server.connections == 1
    assert "169.254" not in str(blocked.value)


@pytest.mark.parametrize(("location", "max_redirects"), [("/", 3), ("/", 0), (None, 3)])
async def test_redirects_end(location, max_redirects):
    async with loopback(always(http(302, location=location))) as server:
        with pytest.raises(UrlFetchError) as failed:
            await fetch(guard_for(server), server.url(), max_redirects=max_redirects)

    assert failed.value.facts == {"reason": "redirects"}
    assert server.connections == max_redirects + 1


async def test_proxies_of_the_environment_are_not_used(monkeypatch):
    async with loopback(always(http(body=b"proxy"))) as proxy, loopback(always(http())) as server:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url())
        fetched = await fetch(guard_for(server, proxy), server.url())

    assert (fetched.content, proxy.connections) == (b"photo", 0)
