"""Whose request it is, as far as the network knows."""

from collections.abc import Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any, TypeAlias

from litestar.types import Scope

FORWARDED_FOR = b"x-forwarded-for"
_FORWARDED = frozenset({FORWARDED_FOR, b"forwarded"})
"""With one of these, a proxy says for whom it asks (the second one by RFC 7239)."""

KNOWN_ADDRESSES = 4096
"""As many are remembered: to compare an address with networks takes ten microseconds, and every request asks twice."""

Network: TypeAlias = IPv4Network | IPv6Network


class TrustedProxies:
    """The proxies whose ``X-Forwarded-For`` is believed: single addresses, and networks of which all belong to us."""

    def __init__(self, networks: Sequence[Network] = ()) -> None:
        self.networks = networks
        self._include = lru_cache(KNOWN_ADDRESSES)(self._compare)

    def __contains__(self, address: str) -> bool:
        """Whether an address is that of such a proxy; what is no address is none."""
        return self._include(address)

    def _compare(self, address: str) -> bool:
        parsed = _parsed(address)
        return parsed is not None and any(parsed in network for network in self.networks)


NO_PROXIES = TrustedProxies()


def trusted_proxies(setting: str) -> TrustedProxies:
    """Those in the setting ``trusted_proxies``: ``192.0.2.1, 10.1.0.0/16``. ValueError: names what is no network."""
    return TrustedProxies([ip_network(text) for each in setting.split(",") if (text := each.strip())])


def forwarded_chain(scope: Scope) -> list[str]:
    """The addresses in ``X-Forwarded-For``, in the order in which proxies appended them."""
    values = b",".join(value for name, value in scope["headers"] if name == FORWARDED_FOR).decode("latin-1")
    return [address for text in values.split(",") if (address := text.strip())]


def peer_of(scope: Scope) -> str:
    """The address at the other end of the connection; empty where the server does not know it (a Unix socket)."""
    client: tuple[Any, ...] | None = scope["client"]
    return str(client[0]) if client else ""


def address_of(scope: Scope, trusted: TrustedProxies, *, vouched: bool = False) -> str:
    """The client's address: the peer, or what proxies of ours say about it.

    A peer is one of them by its address, or because it has shown so otherwise (``vouched``). Only the part of
    ``X-Forwarded-For`` that trusted proxies wrote is believed: from its right end to the first address that is no proxy
    of ours. Anybody can write the rest.
    """
    peer = peer_of(scope)
    if peer not in trusted and not vouched:
        return peer
    return next((address for address in reversed(forwarded_chain(scope)) if address not in trusted), peer)


def came_by_a_stranger(scope: Scope, trusted: TrustedProxies) -> bool:
    """Whether a proxy that is none of ours has passed a request on: then nobody can say whose it is."""
    return peer_of(scope) not in trusted and any(name in _FORWARDED for name, _ in scope["headers"])


def is_ours(address: str) -> bool:
    """Whether an address is of this machine or of a private network; that of a Unix socket, which is empty, is."""
    if not address:
        return True
    parsed = _parsed(address)
    return parsed is not None and not parsed.is_global


def _parsed(address: str) -> IPv4Address | IPv6Address | None:
    """An address, or the IPv4 address that ``::ffff:192.0.2.1`` stands for; None where it is none."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return None
    mapped = parsed.ipv4_mapped if isinstance(parsed, IPv6Address) else None
    return mapped or parsed
