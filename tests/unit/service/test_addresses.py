"""Which addresses are public, whatever Python's own opinion is."""

from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from instantid_serve.service.addresses import is_public, may_connect, networks, system_resolver

# ip.is_global says yes to each of these.
WRONGLY_GLOBAL = [
    "192.0.0.192",
    "168.63.129.16",
    "64:ff9b::a9fe:a9fe",
    "64:ff9b:1::1",
    "2002:a9fe:a9fe::",
    "::169.254.169.254",
    "fec0::1",
    "224.0.0.1",
    "ff02::1",
]
PRIVATE = [
    *("0.0.0.1", "10.1.2.3", "100.100.100.200", "127.0.0.1", "169.254.169.254", "172.31.255.255", "192.168.0.1"),
    *("192.88.99.1", "198.19.0.1", "203.0.113.9", "239.1.1.1", "255.255.255.255"),
    *("::", "::1", "::ffff:127.0.0.1", "::ffff:8.8.8.8", "::ffff:0:a9fe:a9fe", "fd00:ec2::254", "fe80::1%2"),
    *("2001::7f00:1", "2001:db8::1", "3fff::1", "ff0e::1", "5f00::1", "100::1"),
]


@pytest.mark.parametrize("text", [*WRONGLY_GLOBAL, *PRIVATE])
def test_an_address_that_is_not_the_internets_is_not_public(text: str):
    assert not is_public(ip_address(text))


@pytest.mark.parametrize("text", ["8.8.8.8", "172.32.0.1", "100.128.0.1", "2606:4700::1111", "2a00:1450:4001::200e"])
def test_ordinary_addresses_are_public(text: str):
    assert is_public(ip_address(text))


@given(st.ip_addresses())
def test_nothing_is_public_that_python_calls_private(address: IPv4Address | IPv6Address):
    assert not is_public(address) or (address.is_global and not address.is_multicast)


@given(st.ip_addresses(v=4), st.sampled_from(["::ffff:0:0", "::", "64:ff9b::", "::ffff:0:0:0"]))
def test_no_ipv4_address_passes_inside_an_ipv6_one(inside: IPv4Address, prefix: str):
    assert not is_public(IPv6Address(int(IPv6Address(prefix)) + int(inside)))


def test_an_allowed_network_allows_its_own_addresses_alone():
    allowed = networks("10.1.0.0/16")

    assert [may_connect(text, allowed) for text in ("10.1.2.3", "10.2.0.1", "::ffff:10.1.2.3")] == [True, False, False]


async def test_the_systems_resolver_answers_addresses():
    assert set(await system_resolver("localhost", 80)) <= {"127.0.0.1", "::1"}
