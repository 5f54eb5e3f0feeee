"""Where webhooks may go: addresses of the public internet, however they are spelled, and what an operator allows."""

import re
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from urllib.parse import urlsplit

from ewallet.kernel.errors import Refusal, invalid

ENDPOINTS_PER_MERCHANT = 10
"""Shops, a staging system, a bookkeeper; each costs a request for every event."""

ROTATION_SECONDS = 24 * 3600
"""How long the old secret signs beside the new one: a day to bring the new one to every server."""

MAXIMUM_URL_LENGTH = 2048


class EndpointStatus(StrEnum):
    """Whether an endpoint is told of events."""

    ENABLED = "ENABLED"
    DISABLED = "DISABLED"
    """By its owner."""
    GONE = "GONE"
    """By its own answer, 410."""


Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

_GLOBAL_UNICAST = IPv6Network("2000::/3")
"""All that is public in IPv6 (RFC 4291, section 2.4), and none of the ways to write an IPv4 address in it but these."""

_TUNNELS = (IPv6Network("2001::/32"), IPv6Network("2002::/16"))
"""Teredo (RFC 4380) and 6to4 (RFC 3056) hide an IPv4 address that nobody would look at."""


@dataclass(frozen=True, slots=True)
class AddressRules:
    """Which addresses may be called: those of the public internet, and ``allowed`` ones of an operator's own."""

    allowed: tuple[Network, ...] = ()

    @classmethod
    def parse(cls, setting: str) -> "AddressRules":
        """``127.0.0.1, 10.1.0.0/16, fd00::/8``. ValueError: names what is no network."""
        return cls(tuple(ip_network(text) for part in setting.split(",") if (text := part.strip())))

    def permit(self, address: Address) -> bool:
        """Whether an address may be called."""
        plain = _unmapped(address)
        return _is_public(plain) or any(plain in network for network in self.allowed)


def _unmapped(address: Address) -> Address:
    """The IPv4 address that ``::ffff:127.0.0.1`` stands for: the system connects to it."""
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address


def _is_public(address: Address) -> bool:
    if isinstance(address, IPv6Address) and (
        address not in _GLOBAL_UNICAST or any(address in tunnel for tunnel in _TUNNELS)
    ):
        return False
    return address.is_global and not address.is_multicast and not address.is_reserved


_HOST_NAME = re.compile(r"(?=.{1,253}$)([a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9])?\.)*[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.?")
_ENDS_LIKE_A_NUMBER = re.compile(r"(^|.*\.)(0x[0-9a-f]*|[0-9]+)\.?")
"""A host like this is an IPv4 address to most programs, whatever it looks like to a person (WHATWG URL, 3.5)."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A URL that has been read: where to connect to."""

    host: str
    port: int


def endpoint_of(url: str, *, plain_http: bool) -> Endpoint | Refusal:
    """Read a webhook's URL. Refused with ``validation-error``; whether its address may be called is another question.

    ``plain_http`` lets ``http:`` pass, as in development.
    """
    if len(url) > MAXIMUM_URL_LENGTH or not url.isascii() or any(character <= " " for character in url):
        return _refused(f"must be at most {MAXIMUM_URL_LENGTH} visible ASCII characters (a name in its xn-- form).")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        return _refused("cannot be read: it must look like https://shop.example/webhooks.")
    if parts.scheme not in (("https", "http") if plain_http else ("https",)):
        return _refused(f"must begin with https://{' or http://' if plain_http else ''}.")
    if any(mark in url for mark in "#\\") or "@" in parts.netloc or ("[" in parts.netloc) != (":" in host):
        return _refused("must have no user, no password, no # and no \\.")
    if not _is_host(host) or port == 0:
        return _refused("must name a host: a domain name, or an address in its usual form.")
    return Endpoint(host, port or _PORTS[parts.scheme])


_PORTS = {"https": 443, "http": 80}


def _is_host(host: str) -> bool:
    if ":" in host or _ENDS_LIKE_A_NUMBER.fullmatch(host):
        return literal_address(host) is not None
    return _HOST_NAME.fullmatch(host) is not None


def literal_address(host: str) -> Address | None:
    """The address that a host is, where it is none that must be looked up; without a zone, which is this machine's."""
    if "%" in host:
        return None
    try:
        return ip_address(host)
    except ValueError:
        return None


def _refused(what: str) -> Refusal:
    return invalid("/url", f"The URL {what}")
