"""A stranger's URL, read once and strictly: what is connected to and what is sent all come from this one reading.

Two parsers that disagree about where a host ends are how guards are passed (CVE-2026-24779 of vLLM). So a URL in which
they could disagree (a backslash, a percent sign, a user name, a letter outside ASCII in the host) is refused.
"""

from __future__ import annotations

import dataclasses
import re
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from urllib.parse import quote, urljoin, urlsplit

MAX_URL_CHARS = 2048
_DEFAULT_PORTS = {"http": 80, "https": 443}
_AUTHORITY = re.compile(r"(?:\[(?P<v6>[0-9a-f:.]+)\]|(?P<name>[a-z0-9_.-]+))(?::(?P<port>[0-9]{1,5}))?", re.ASCII)
_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?", re.ASCII)
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*", re.ASCII)
_MAX_HOST_CHARS = 253
_SENT_AS_THEY_ARE = "%/?:@!$&'()*+,;=-._~[]|"


class RefusedError(Exception):
    """A URL breaks a rule; its one argument is the rule's short word, one of a fixed few. Never leaves the service."""

    @property
    def reason(self) -> str:
        """The rule's short word, for a metric's label."""
        return str(self.args[0])


@dataclasses.dataclass(frozen=True, slots=True)
class UrlRules:
    """What strangers' URLs may be. The defaults are for the public internet; every exception is the operator's.

    ``allowed_networks``: CIDR notations of networks that are not public and may be reached all the same; they turn off
    no other check. ``blocked_hosts``: names in lower case, with all below them, that are never reached, such as the
    result store's own, whose signed URLs would else open other tenants' photos to whoever has seen one.
    """

    allowed_networks: tuple[str, ...] = ()
    blocked_hosts: tuple[str, ...] = ()
    ports: tuple[int, ...] = (80, 443)
    require_https: bool = False
    connect_timeout_s: float = 3.0
    first_byte_timeout_s: float = 5.0


@dataclasses.dataclass(frozen=True, slots=True)
class Url:
    """A URL that keeps the rules. ``host`` is in lower case and without brackets; ``target`` is what is sent."""

    scheme: str
    host: str
    port: int
    target: str
    is_literal: bool

    @property
    def authority(self) -> str:
        """What the Host header says."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"

    def join(self, location: str, rules: UrlRules) -> Url:
        """The URL a redirect from here leads to; raises RefusedError if it breaks a rule."""
        _check_characters(location)
        return read_url(urljoin(f"{self.scheme}://{self.authority}{self.target}", location), rules)


def read_url(text: str, rules: UrlRules) -> Url:
    """Reads a URL; raises RefusedError if it breaks a rule. Looks nothing up."""
    _check_characters(text)
    try:
        parts = urlsplit(text)
    except ValueError:
        raise RefusedError("host") from None
    if parts.scheme not in (("https",) if rules.require_https else _DEFAULT_PORTS):
        raise RefusedError("scheme")
    if "@" in parts.netloc:
        raise RefusedError("userinfo")
    authority = _AUTHORITY.fullmatch(parts.netloc.lower())
    if authority is None:
        raise RefusedError("host")
    host, is_literal = _read_host(authority["v6"], authority["name"])
    if any(host == blocked or host.endswith(f".{blocked}") for blocked in rules.blocked_hosts):
        raise RefusedError("host")
    port = int(authority["port"] or _DEFAULT_PORTS[parts.scheme])
    if port not in rules.ports:
        raise RefusedError("port")
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Url(parts.scheme, host, port, quote(target, safe=_SENT_AS_THEY_ARE), is_literal)


def _check_characters(text: str) -> None:
    if len(text) > MAX_URL_CHARS:
        raise RefusedError("length")
    # urlsplit drops tabs, line breaks and what stands before the scheme: other readers do not.
    if "\\" in text or not text.isprintable() or any(character.isspace() for character in text):
        raise RefusedError("characters")


def _read_host(v6: str | None, name: str | None) -> tuple[str, bool]:
    """A host in its one notation, and whether it is an address."""
    try:
        if v6 is not None:
            return str(IPv6Address(v6)), True
        labels = (name or "").split(".")
        # Resolvers take 127.1, 0x7f.1, 0177.0.0.1 and 2130706433 for addresses, too: only four decimal numbers may be.
        if _NUMBER.fullmatch(labels[-1]):
            return str(IPv4Address(name)), True
    except AddressValueError:
        raise RefusedError("host") from None
    host = ".".join(labels)
    if len(host) > _MAX_HOST_CHARS or not all(_LABEL.fullmatch(label) for label in labels):
        raise RefusedError("host")
    return host, False
