"""For whom there is no room is told so over the same connection, as cheaply as can be."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from functools import partial

import pytest
import uvicorn
from litestar.types import Receive, Scope, Send

from ewallet.plumbing.http.admission import LEAST, WINDOW_SECONDS, Admissions
from ewallet.plumbing.http.protocol import ADMISSION_SCOPE_KEY, ProblemProtocol

PAYMENT = b"POST /payment/initiate HTTP/1.1\r\nHost: x\r\nX-Request-Id: mine\r\nContent-Length: 2\r\n"
LOOK = b"GET /payment/pay_1 HTTP/1.1\r\nHost: x\r\n\r\n"


async def answering(scope: Scope, _receive: Receive, send: Send) -> None:
    """Say whether the request was counted."""
    body = b"counted" if ADMISSION_SCOPE_KEY in scope else b"not counted"
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})


class Server:
    """A server before an application that answers at once; as full as the test wants."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.now = 0.0
        self.admissions = Admissions(1, clock=lambda: self.now)

    def fill(self) -> None:
        """As many are under way as are always let in, and none is done."""
        admission = self.admissions.of(b"POST", b"/payment/initiate")
        assert admission is not None
        for _ in range(LEAST):
            admission.begin()
        self.now += 2 * WINDOW_SECONDS

    def empty(self) -> None:
        admission = self.admissions.of(b"POST", b"/payment/initiate")
        assert admission is not None
        for _ in range(LEAST):
            admission.end()
        admission.has_room()
        self.now += 2 * WINDOW_SECONDS


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        made = Server(listening.getsockname()[1])
        protocol = partial(ProblemProtocol, made.admissions)
        config = uvicorn.Config(answering, http=protocol, log_config=None, access_log=False, lifespan="off")  # type: ignore[arg-type]  # it makes one
        server = uvicorn.Server(config)
        serving = asyncio.create_task(server._serve([listening]))
        yield made
        server.should_exit = True
        await serving


class Client:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def of(cls, server: Server) -> "Client":
        return cls(*await asyncio.open_connection("127.0.0.1", server.port))

    def send(self, message: bytes) -> None:
        self._writer.write(message)

    async def answer(self) -> tuple[bytes, bytes]:
        """Head and body of the next answer."""
        head = await self._reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        return head, await self._reader.readexactly(length)

    async def is_closed(self) -> bool:
        return await self._reader.read() == b""

    def close(self) -> None:
        self._writer.close()


@pytest.fixture
async def client(server: Server) -> AsyncIterator[Client]:
    connected = await Client.of(server)
    yield connected
    connected.close()


async def test_whoever_is_turned_away_gets_a_problem(server: Server, client: Client) -> None:
    server.fill()

    client.send(PAYMENT + b"\r\n{}")
    head, body = await client.answer()

    problem = json.loads(body)
    assert head.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
    assert b"\r\nretry-after: 1\r\n" in head
    assert b"\r\nx-request-id: mine\r\n" in head
    assert b"\r\ncontent-type: application/problem+json\r\n" in head
    assert (problem["type"], problem["instance"]) == ("/problems/service-unavailable", "/payment/initiate")
    assert problem["requestId"] == "mine"


async def test_its_connection_can_be_used_again(server: Server, client: Client) -> None:
    server.fill()
    client.send(PAYMENT + b"\r\n{}")
    refused, _ = await client.answer()
    server.empty()

    client.send(PAYMENT + b"\r\n{}")

    assert b" 503 " in refused
    assert (await client.answer())[1] == b"counted"


async def test_the_body_is_passed_over_even_if_it_comes_late(server: Server, client: Client) -> None:
    server.fill()
    client.send(PAYMENT + b"\r\n")
    refused, _ = await client.answer()

    client.send(b"{}" + LOOK)

    assert b" 503 " in refused
    assert (await client.answer())[1] == b"not counted"


async def test_reading_is_never_turned_away(server: Server, client: Client) -> None:
    server.fill()

    client.send(LOOK)

    assert (await client.answer())[1] == b"not counted"


async def test_requests_sent_together_are_answered_in_their_order(server: Server, client: Client) -> None:
    """What was let in and has no answer yet comes first, so those behind it wait for their turn."""
    server.fill()

    client.send(LOOK + PAYMENT + b"\r\n{}" + LOOK)

    assert [(await client.answer())[1] for _ in range(3)] == [b"not counted"] * 3


async def test_a_client_that_waits_to_be_asked_for_its_body_is_told_and_let_go(server: Server, client: Client) -> None:
    """Whether the body still comes cannot be known, so the connection cannot be used again (RFC 9110, 10.1.1)."""
    server.fill()

    client.send(PAYMENT + b"Expect: 100-continue\r\n\r\n")
    head, _ = await client.answer()

    assert head.startswith(b"HTTP/1.1 503 ")
    assert b"\r\nconnection: close\r\n" in head
    assert await client.is_closed()
