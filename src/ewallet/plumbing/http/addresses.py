"""Whose request it is, as far as the network knows."""

from collections.abc import Collection, Iterable

FORWARDED_FOR = b"x-forwarded-for"


def trusted_proxies(setting: str) -> frozenset[str]:
    """The addresses in the setting ``trusted_proxies``."""
    return frozenset(address for text in setting.split(",") if (address := text.strip()))


def forwarded_chain(headers: Iterable[tuple[bytes, bytes]]) -> list[str]:
    """The addresses in ``X-Forwarded-For``, in the order in which proxies appended them."""
    values = b",".join(value for name, value in headers if name == FORWARDED_FOR).decode("latin-1")
    return [address for text in values.split(",") if (address := text.strip())]


def client_address(peer: str, forwarded_for: Iterable[tuple[bytes, bytes]], trusted: Collection[str]) -> str:
    """The address that a limit counts: the peer, or what proxies of ours say about it.

    ``forwarded_for`` are the request's headers. Only the part of ``X-Forwarded-For`` that trusted proxies wrote is
    believed: from its right end to the first address that is no proxy of ours. Anybody can write the rest.
    """
    if peer not in trusted:
        return peer
    for address in reversed(forwarded_chain(forwarded_for)):
        if address not in trusted:
            return address
    return peer
