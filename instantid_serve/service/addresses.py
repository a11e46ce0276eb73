"""Which network addresses are public: the ones a URL of a stranger's may lead to.

``ipaddress.is_global`` is not that question: Python 3.11 says yes to two clouds' metadata servers, to every way of
writing a private IPv4 address inside an IPv6 one, and to multicast. So the networks are named here, and for IPv6 it is
the public ones that are named: what nobody thought of is refused.
"""

from __future__ import annotations

import asyncio
import functools
import socket
from collections.abc import Awaitable, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network
Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""Called with a host name and a port; answers its addresses, or raises OSError."""


def networks(*cidrs: str) -> tuple[Network, ...]:
    """The networks of their CIDR notations; raises ValueError for what is none, or has host bits set."""
    return tuple(ip_network(cidr) for cidr in cidrs)


# Look-ups cannot be stopped once begun. In threads of their own, names that answer slowly, and their owners can choose
# how slowly, hold up each other and nothing else: asyncio's own threads are the database's, too.
_LOOK_UPS = ThreadPoolExecutor(16, thread_name_prefix="look-up")

# https://www.iana.org/assignments/iana-ipv4-special-registry, and what was found to be missing there.
_SPECIAL_V4 = networks(
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",  # carrier NAT; Alibaba Cloud's metadata server is in it
    "127.0.0.0/8",
    "168.63.129.16/32",  # Azure's host
    "169.254.0.0/16",  # most clouds' metadata servers
    "172.16.0.0/12",
    "192.0.0.0/24",  # Oracle Cloud's metadata server is in it
    "192.0.2.0/24",
    "192.88.99.0/24",  # 6to4 relays
    "192.168.0.0/16",
    "198.18.0.0/15",
    "198.51.100.0/24",
    "203.0.113.0/24",
    "224.0.0.0/4",
    "240.0.0.0/4",
)
# Global unicast. IPv4-mapped and -compatible addresses, NAT64, ULA, link-local, site-local and multicast are outside.
_PUBLIC_V6 = networks("2000::/3")
# https://www.iana.org/assignments/iana-ipv6-special-registry, as far as it is in global unicast.
_SPECIAL_V6 = networks(
    "2001::/23",  # protocols; Teredo, which carries IPv4 addresses, is in it
    "2001:db8::/32",
    "2002::/16",  # 6to4 carries IPv4 addresses
    "3ffe::/16",
    "3fff::/20",
)


def is_public(address: Address) -> bool:
    """Whether an address is an ordinary one of the internet, at which nothing of ours or of a cloud's own answers."""
    if isinstance(address, IPv4Address):
        return not _among(address, _SPECIAL_V4)
    return _among(address, _PUBLIC_V6) and not _among(address, _SPECIAL_V6)


def may_connect(text: str, allowed: Iterable[Network]) -> bool:
    """Whether an address in its usual notation is public, or in a network the operator allowed."""
    address = ip_address(text)
    return is_public(address) or _among(address, allowed)


async def system_resolver(host: str, port: int) -> Sequence[str]:
    """The addresses the operating system knows for a host; raises OSError if it knows none."""
    look_up = functools.partial(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM)
    found = await asyncio.get_running_loop().run_in_executor(_LOOK_UPS, look_up)
    return [str(sockaddr[0]) for *_, sockaddr in found]


def _among(address: Address, among: Iterable[Network]) -> bool:
    return any(address in network for network in among)
