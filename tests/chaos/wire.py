"""A small HTTP client that tells apart what a client can know: an answer, nothing sent, or no answer.

A library's client would do, at five times the processor time, which the platform under test needs more.
"""

import asyncio
import json
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, NamedTuple

ANSWER_SECONDS = 30
"""Beyond every bound of the platform's own: who is still silent then will say nothing."""


class NotSent(Exception):
    """There was no connection: the request has certainly done nothing."""


class NoAnswer(Exception):
    """The connection broke: the request may have done everything."""


class Answer(NamedTuple):
    """What came back."""

    status: int
    body: Any


class Wire:
    """Requests to one address over connections that are kept, each for one request at a time."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.in_flight = 0
        host, _, port = address.removeprefix("http://").partition(":")
        self._host, self._port = host, int(port)
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def call(
        self, method: str, path: str, body: Any = None, *, token: str = "", headers: Mapping[str, str] | None = None
    ) -> Answer:
        """One request. NotSent, NoAnswer: there is no answer, and whether there was a request."""
        content = b"" if body is None else json.dumps(body).encode()
        lines = [f"{method} {path} HTTP/1.1", f"Host: {self._host}", f"Content-Length: {len(content)}"]
        lines += ["Content-Type: application/json"] if content else []
        lines += [f"Authorization: Bearer {token}"] if token else []
        lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
        request = "\r\n".join([*lines, "\r\n"]).encode() + content
        reader, writer = await self._connection()
        reusable = False
        self.in_flight += 1
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                writer.write(request)
                answer, reusable = await _answer(reader)
        except (OSError, asyncio.IncompleteReadError, TimeoutError) as error:
            raise NoAnswer(f"{method} {path}: {error!r}") from error
        finally:
            self.in_flight -= 1
            if reusable:
                self._idle.append((reader, writer))
            else:
                await self._close(writer)
        return answer

    async def close(self) -> None:
        """Close the connections that are kept."""
        while self._idle:
            await self._close(self._idle.pop()[1])

    async def _connection(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        while self._idle:
            reader, writer = self._idle.pop()
            if not reader.at_eof() and reader.exception() is None:
                return reader, writer
            await self._close(writer)
        try:
            return await asyncio.open_connection(self._host, self._port)
        except OSError as error:
            raise NotSent(str(error)) from error

    async def _close(self, writer: asyncio.StreamWriter) -> None:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()


async def _answer(reader: asyncio.StreamReader) -> tuple[Answer, bool]:
    """The answer, and whether the connection stays open."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    status = int(head[0].split()[1])
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])}
    content = await reader.readexactly(int(headers.get("content-length", 0)))
    body = json.loads(content) if "json" in headers.get("content-type", "") else None
    return Answer(status, body), headers.get("connection") != "close"
