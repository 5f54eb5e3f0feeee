"""Calls of servers that somebody else has named: never of an address that is not public, whatever its name answers.

A host is looked up when a connection to it is made, every answer is checked, and the connection goes to an address that
was checked, not to the name: an answer that changes between a check and a connection changes nothing. TLS and the
``Host`` header keep the name. Nothing else on the way asks a resolver: no proxy is used, and no redirect followed.
"""

import asyncio
import socket
from collections.abc import Awaitable, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import httpcore2

from ewallet.notification.domain.endpoints import Address, AddressRules, literal_address

RESOLVER_THREADS = 32
"""A name whose servers do not answer keeps a thread for ten seconds and more."""

Resolver = Callable[[str, int], Awaitable[Sequence[Address]]]
"""The addresses of a host. OSError: it has none, or nobody knows just now."""


class AddressForbidden(httpcore2.ConnectError):
    """The host has an address that may not be called."""


class NameUnknown(OSError):
    """There is no such host, said by who must know."""


_NO_SUCH_NAME = (socket.EAI_NONAME, socket.EAI_NODATA)


def system_resolver() -> Resolver:
    """What the operating system knows, in threads of its own so that slow names delay nobody else's work."""
    threads = ThreadPoolExecutor(RESOLVER_THREADS, thread_name_prefix="resolver")

    async def resolve(host: str, port: int) -> Sequence[Address]:
        # As bytes, because Python would first take the name for one in Unicode.
        look_up = partial(socket.getaddrinfo, host.encode("ascii"), port, type=socket.SOCK_STREAM)
        try:
            found = await asyncio.get_running_loop().run_in_executor(threads, look_up)
        except socket.gaierror as error:
            raise NameUnknown(host) if error.errno in _NO_SUCH_NAME else error from error
        addresses = [literal_address(str(place[0])) for *_, place in found]
        return [address for address in addresses if address is not None]

    return resolve


class Outside:
    """Finds out where a host is, and refuses it where that is no place for us to call."""

    def __init__(self, rules: AddressRules, resolve: Resolver) -> None:
        self._rules = rules
        self._resolve = resolve

    async def addresses(self, host: str, port: int) -> Sequence[Address]:
        """Every address of a host, all of which may be called. AddressForbidden, OSError."""
        literal = literal_address(host)
        found = [literal] if literal is not None else await self._resolve(host, port)
        if not found:
            raise OSError(f"{host} has no address")
        if not all(map(self._rules.permit, found)):
            raise AddressForbidden("the address is not on the public internet")
        return list(dict.fromkeys(found))


class OutsideNetwork(httpcore2.AsyncNetworkBackend):
    """The network of an HTTP client, as ``httpcore2`` asks for it."""

    def __init__(self, outside: Outside) -> None:
        self._outside = outside
        self._network = httpcore2.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109  # the signature is httpcore2's
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        """Connect to the first address that answers. ConnectError: none does; AddressForbidden."""
        try:
            addresses = await self._outside.addresses(host, port)
        except OSError as error:
            raise httpcore2.ConnectError("the host's name has no address") from error
        failure = httpcore2.ConnectError("the host's name has no address")
        for address in addresses:
            try:
                return await self._network.connect_tcp(str(address), port, timeout, local_address, socket_options)
            except httpcore2.ConnectError as error:
                failure = error
        raise failure

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        await asyncio.sleep(seconds)
