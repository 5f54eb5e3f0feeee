"""A proxy in front of a MariaDB that cuts connections at chosen moments, as a network does.

It reads what clients send just far enough to know a COMMIT: packets of the MySQL protocol, each with its length (three
bytes, little-endian) and a number in front, a command's first byte being 3 for a statement.
"""

import asyncio
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from enum import Enum, auto
from itertools import cycle

COMMIT = b"\x03COMMIT"


class Moment(Enum):
    """When a connection is cut."""

    BEFORE_COMMIT = auto()
    """The server never hears of it, and rolls back."""
    DURING_COMMIT = auto()
    """The server hears of it, and finds nobody to answer."""
    AFTER_COMMIT = auto()
    """The server has answered, and nobody hears that."""


class Proxy:
    """Passes everything on, until it is told to cut."""

    def __init__(self, port: int) -> None:
        self.port = 0
        self.cuts: Counter[Moment] = Counter()
        self._server_port = port
        self._moments = cycle(Moment)
        self._wanted = 0

    def cut_next(self) -> None:
        """Cut at the next COMMIT of whatever connection, at each moment in turn."""
        self._wanted += 1

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One client's connection."""
        answers, requests = await asyncio.open_connection("127.0.0.1", self._server_port)
        passing = asyncio.create_task(_pass_on(answers, writer))
        try:
            with suppress(OSError, asyncio.IncompleteReadError):
                while await self._pass_packet(reader, requests, passing, answers):
                    pass
        finally:
            passing.cancel()
            for each in (requests, writer):
                each.transport.abort()

    async def _pass_packet(
        self,
        reader: asyncio.StreamReader,
        requests: asyncio.StreamWriter,
        passing: "asyncio.Task[None]",
        answers: asyncio.StreamReader,
    ) -> bool:
        """Pass one packet of the client on; False when the connection is to be cut."""
        head = await reader.readexactly(4)
        packet = await reader.readexactly(int.from_bytes(head[:3], "little"))
        if packet != COMMIT or not self._wanted:
            requests.write(head + packet)
            await requests.drain()
            return True
        self._wanted -= 1
        moment = next(self._moments)
        self.cuts[moment] += 1
        if moment is Moment.BEFORE_COMMIT:
            return False
        if moment is Moment.AFTER_COMMIT:
            passing.cancel()
            await asyncio.wait([passing])
        requests.write(head + packet)
        await requests.drain()
        if moment is Moment.AFTER_COMMIT:
            await answers.read(1)
        return False


async def _pass_on(answers: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Pass on what the server says."""
    with suppress(OSError):
        while received := await answers.read(65536):
            writer.write(received)
            await writer.drain()
    writer.transport.abort()


@contextmanager
def proxy(port: int) -> Iterator[Proxy]:
    """A proxy on a port of its own in front of that of a server, in a thread of its own."""
    made, loop, listening = Proxy(port), asyncio.new_event_loop(), threading.Event()
    stopped = asyncio.Event()
    thread = threading.Thread(target=loop.run_until_complete, args=(_run(made, listening, stopped),))
    thread.start()
    listening.wait()
    try:
        yield made
    finally:
        loop.call_soon_threadsafe(stopped.set)
        thread.join()
        loop.close()


async def _run(made: Proxy, listening: threading.Event, stopped: asyncio.Event) -> None:
    serving = set[asyncio.Task[None]]()

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        serving.add(asyncio.create_task(made.serve(reader, writer)))

    async with await asyncio.start_server(connected, "127.0.0.1", 0) as server:
        made.port = server.sockets[0].getsockname()[1]
        listening.set()
        await stopped.wait()
        for task in serving:
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)
