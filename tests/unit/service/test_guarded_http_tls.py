"""TLS to a pinned address still proves the name."""

import asyncio
import ssl
import time

import pytest
from doubles.certificates import write_self_signed
from doubles.loopback import always, http, loopback

from instantid_serve.errors import UrlFetchError
from instantid_serve.service.guarded_http import GuardedHttp
from instantid_serve.service.guarded_urls import UrlRules

HOST = "photos.example"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """A file with a self-signed certificate for HOST, and its key."""
    return write_self_signed(tmp_path_factory.mktemp("tls") / "server.pem", HOST)


@pytest.fixture
def names_asked():
    return []


@pytest.fixture
def server_tls(certificate, names_asked):
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate)
    tls.sni_callback = lambda _socket, name, _context: names_asked.append(name)
    return tls


async def always_here(_host, _port):
    return ["127.0.0.1"]


async def fetch(server, host, tls=None, timeout_s=1.0):
    rules = UrlRules(allowed_networks=("127.0.0.1/32",), ports=(server.port,), connect_timeout_s=0.3)
    guard = GuardedHttp(rules, resolve=always_here, tls=tls)
    return await guard.fetch(server.url(host=host, scheme="https"), max_bytes=100, timeout_s=timeout_s)


async def test_the_name_is_in_the_handshake_and_in_the_host_header(certificate, server_tls, names_asked):
    async with loopback(always(http()), server_tls) as server:
        fetched = await fetch(server, HOST, ssl.create_default_context(cafile=certificate))

    assert (fetched.content, names_asked) == (b"photo", [HOST])
    assert f"host: {HOST}:{server.port}\r\n".encode() in server.requests[0]


@pytest.mark.parametrize("host", [HOST, "127.0.0.1"])
async def test_a_certificate_nobody_vouches_for_is_refused(server_tls, host):
    async with loopback(always(http()), server_tls) as server:
        with pytest.raises(UrlFetchError) as failed:
            await fetch(server, host)

    assert (failed.value.facts, server.requests) == ({"reason": "tls"}, [])


@pytest.mark.parametrize("host", ["other.example", "127.0.0.1"])
async def test_a_certificate_of_another_name_is_refused(certificate, server_tls, host):
    async with loopback(always(http()), server_tls) as server:
        with pytest.raises(UrlFetchError) as failed:
            await fetch(server, host, ssl.create_default_context(cafile=certificate))

    assert (failed.value.facts, server.requests) == ({"reason": "tls"}, [])


async def test_a_handshake_without_an_answer_ends_at_the_time_for_connecting():
    # The server waits in vain for the end of a request's head.
    begun_s = time.monotonic()
    async with loopback(always()) as server:
        with pytest.raises(UrlFetchError) as failed:
            await fetch(server, HOST)

    assert failed.value.facts == {"reason": "timeout"}
    assert time.monotonic() - begun_s < 0.9


async def test_a_handshake_that_is_given_up_leaves_no_connection_behind():
    async with loopback(always()) as server:
        with pytest.raises(UrlFetchError):
            await fetch(server, HOST, timeout_s=0.1)
        await asyncio.sleep(0.05)

        assert (server.connections, server.left) == (1, 1)
