"""A merchant's server: takes webhooks on a real socket, keeps what it got, answers as it is told."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

from ewallet.webhooks import ID_HEADER

Behave = Callable[["Receiver", "Got", asyncio.StreamWriter], Awaitable[None]]
"""Writes the answer to what was got; whoever returns without one has closed the connection."""


@dataclass(frozen=True)
class Got:
    """One request as it came."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def id(self) -> str:
        return self.headers[ID_HEADER]


def answering(status: int, *more_headers: str, body: bytes = b"") -> Behave:
    """Answer with a status, at once."""

    async def answer(_receiver: Receiver, _got: Got, writer: asyncio.StreamWriter) -> None:
        lines = [f"HTTP/1.1 {status} x", f"content-length: {len(body)}", *more_headers]
        writer.write("\r\n".join([*lines, "", ""]).encode() + body)

    return answer


async def silent(_receiver: Receiver, _got: Got, _writer: asyncio.StreamWriter) -> None:
    """Never answer."""
    await asyncio.Event().wait()


async def dripping(_receiver: Receiver, _got: Got, writer: asyncio.StreamWriter) -> None:
    """Answer with a byte a second, so that something always comes."""
    for byte in b"HTTP/1.1 200 OK\r\n" + b"x: " + b"y" * 10_000:
        if writer.is_closing():
            return
        writer.write(bytes([byte]))
        await asyncio.sleep(1)


@dataclass
class Receiver:
    """What came, in its order; ``behave`` may be changed at any time."""

    behave: Behave
    got: list[Got] = field(default_factory=list)
    connections: int = 0
    port: int = 0
    came: asyncio.Condition = field(default_factory=asyncio.Condition)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook"

    async def wait_for(self, count: int, seconds: float = 20) -> list[Got]:
        """Wait until so many requests have come."""
        async with asyncio.timeout(seconds), self.came:
            await self.came.wait_for(lambda: len(self.got) >= count)
        return self.got

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        with suppress(asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            while True:
                got = await _read(reader)
                self.got.append(got)
                async with self.came:
                    self.came.notify_all()
                await self.behave(self, got, writer)
                await writer.drain()
        writer.close()


@asynccontextmanager
async def receiving(behave: Behave | None = None, *, tls: ssl.SSLContext | None = None) -> AsyncIterator[Receiver]:
    """A receiver on a free port of the loopback."""
    receiver = Receiver(behave or answering(204))
    talks: set[asyncio.Task[None]] = set()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        talks.add(task)
        task.add_done_callback(talks.discard)
        await receiver.talk(reader, writer)

    server = await asyncio.start_server(talk, "127.0.0.1", 0, ssl=tls)
    receiver.port = server.sockets[0].getsockname()[1]
    try:
        yield receiver
    finally:
        server.close()
        ending = list(talks)
        for task in ending:
            task.cancel()
        await asyncio.gather(*ending, return_exceptions=True)
        await server.wait_closed()


async def _read(reader: asyncio.StreamReader) -> Got:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    pairs = (line.partition(":") for line in head[1:] if line)
    headers = {name.lower(): value.strip() for name, _, value in pairs}
    return Got(head[0].split(" ")[1], headers, await reader.readexactly(int(headers.get("content-length", "0"))))
