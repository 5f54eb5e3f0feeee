"""Answers without an end, and how they end when the server does."""

import asyncio
from collections.abc import Collection

from litestar.enums import ScopeType
from litestar.types import ASGIApp, Message, Receive, ReceiveMessage, Scope, Send


class EndingStreams:
    """ASGI middleware: when ``stopping`` is set, the streams at ``paths`` see their client leave, and end properly.

    A server that stops waits for answers that are under way; without this it would wait for streams until its patience
    ends and then cut them off.
    """

    def __init__(self, app: ASGIApp, *, paths: Collection[str], stopping: asyncio.Event) -> None:
        self._app = app
        self._paths = paths
        self._stopping = stopping

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != ScopeType.HTTP or scope["path"].rstrip("/") not in self._paths:
            await self._app(scope, receive, send)
            return
        stream = _Stream(receive, send, self._stopping)
        await self._app(scope, stream.receive, stream.send)
        await stream.end()


class _Stream:
    def __init__(self, receive: Receive, send: Send, stopping: asyncio.Event) -> None:
        self._receive = receive
        self._send = send
        self._stopping = stopping
        self._open = False

    async def receive(self) -> ReceiveMessage:
        """The next message of the client, or its leaving, whether it or the server caused it."""
        message = asyncio.ensure_future(self._receive())
        stopping = asyncio.ensure_future(self._stopping.wait())
        try:
            await asyncio.wait((message, stopping), return_when=asyncio.FIRST_COMPLETED)
            return message.result() if message.done() else {"type": "http.disconnect"}
        finally:
            message.cancel()
            stopping.cancel()

    async def send(self, message: Message) -> None:
        self._open = message["type"] == "http.response.start" or bool(message.get("more_body"))
        await self._send(message)

    async def end(self) -> None:
        """Complete an answer that was left open, so that the client sees an end instead of a broken connection."""
        if self._open:
            await self._send({"type": "http.response.body", "body": b"", "more_body": False})
