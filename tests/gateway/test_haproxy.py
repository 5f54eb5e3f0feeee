"""HAProxy in the Python gateway's place: what its configuration promises beyond the tests that both gateways share."""

import asyncio
import json
import signal
import socket
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path
from urllib.parse import unquote

import httpx2
import pytest
import pytest_asyncio
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from litestar import get

from ewallet.gateway.domain import GATEWAY, SERVICES, route_of
from ewallet.plumbing.database import StorageUnavailable
from ewallet.plumbing.http.application import service_application
from ewallet.plumbing.http.contract import public
from ewallet.plumbing.settings import Settings
from ewallet.plumbing.tokens import sign
from tests.servers.haproxy import program, running_haproxy, written
from tests.support.gateway import (
    INTERNAL_SECRET,
    KEY,
    KEY_ID,
    NewClient,
    SmallService,
    bearer,
    claims,
    opened,
    verifier,
)
from tests.support.notification import serving
from tests.support.platform import wait_until
from tests.support.ports import free_port

BESIDE_THE_SERVICES = pytest.mark.asyncio(loop_scope="module")
"""The services of the module's gateway run in this loop."""

OLD = KEY.public_key()
PROBLEM = "application/problem+json"
NOBODY = {name: ["127.0.0.1:9"] for name in (*SERVICES, GATEWAY)}
"""Servers that are not there."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def new_client(scratch: Path) -> AsyncIterator[NewClient]:
    async with opened("haproxy", SmallService(), scratch, request_seconds=1) as new_client:
        yield new_client


@pytest.fixture
def port(new_client: NewClient) -> int:
    found = new_client().base_url.port
    assert found is not None
    return found


def answer_to(port: int, sent: bytes) -> tuple[int, str, bytes]:
    """Status, head and body of the answer to some bytes after which the connection stays open."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(sent)
        head, _, body = b"".join(iter(lambda: connection.recv(4096), b"")).partition(b"\r\n\r\n")
    return int(head.split()[1]), head.decode().lower(), body


# --- the configuration --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [
        Settings(),
        Settings(rate_per_user=0, rate_per_address=0),
        Settings(trusted_proxies="192.0.2.1, 10.1.0.0/16, 2001:db8::1", host="::", port=8443),
    ],
    ids=["defaults", "no limits", "behind proxies"],
)
def test_haproxy_has_nothing_to_say_against_the_configuration(tmp_path: Path, settings: Settings) -> None:
    file = written(tmp_path, settings, NOBODY, {KEY_ID: OLD})

    checked = subprocess.run([program(), "-c", "-f", file], capture_output=True, text=True, check=False)

    assert (checked.returncode, checked.stdout + checked.stderr) == (0, "Configuration file is valid\n")


def test_services_that_have_names_are_looked_up_again_and_again(tmp_path: Path) -> None:
    servers = NOBODY | {"wallet": ["wallet.example.com:8082"], "payment": ["192.0.2.1:1", "[2001:db8::1]:2"]}

    text = written(tmp_path, Settings(), servers, {}).read_text()

    assert "server-template wallet-1- 10 wallet.example.com:8082 resolvers default" in text
    assert "server payment-1 192.0.2.1:1\n    server payment-2 [2001:db8::1]:2\n" in text


# --- where a request goes -----------------------------------------------------------------------------------------


@BESIDE_THE_SERVICES
@pytest.mark.parametrize(
    "path",
    [
        "/payment",
        "/payment/",
        "/%70ayment",
        "/payment/a%20b",
        "/payment/%",
        "/.well-known/jwks.json",
        "/",
        "*",
        "/internal/payment/orders",
        "/%69nternal/payment/orders",
        "//internal/payment/orders",
        "/%2finternal/payment/orders",
        "/payment/../internal/payment/orders",
        "/payment/%2e%2e/internal/payment/orders",
        "/payment/.%2e/internal/payment/orders",
        "/payment%2f..%2finternal/payment/orders",
        "/payment/./../internal/payment/orders",
        "/payment//internal/payment/orders",
        "/payment/..",
        "/payment/\\../internal",
        "/payment/%5c..%5cinternal",
        "/payment/%00",
        "/payment/%0a/../internal",
        "/paymentx",
        "/Payment",
        "/payment;/internal",
        "/openapi/openapi.json",
        "/docs/..%2f..%2fetc",
    ],
)
async def test_both_gateways_lead_to_the_same_places(port: int, path: str) -> None:
    """Without a token, what is there answers 401 or in its own way, and what is not 404."""
    route = route_of("GET", unquote(path))

    sent = f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode()
    status, _, body = await asyncio.to_thread(answer_to, port, sent)

    nothing_here = status == 404 and json.loads(body)["detail"] == "There is nothing at this address."
    if route is None:
        assert nothing_here or status == 400
    elif not route.public:
        assert status == 401


@BESIDE_THE_SERVICES
async def test_metrics_are_shown_to_nobody(new_client: NewClient) -> None:
    """They are asked for at each process; here nobody knows whose they would be."""
    async with new_client() as client:
        assert (await client.get("/metrics")).status_code == 404


@BESIDE_THE_SERVICES
async def test_absolute_addresses_open_nothing_more(port: int) -> None:
    sent = b"POST http://x/internal/payment/orders HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"

    assert (await asyncio.to_thread(answer_to, port, sent))[0] == 404


@BESIDE_THE_SERVICES
async def test_connections_are_not_upgraded(new_client: NewClient) -> None:
    wished = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
    wished["Sec-WebSocket-Key"] = "dGhlIHNhbXBsZSBub25jZQ=="
    async with new_client() as client:
        heard = (await client.get("/payment", headers=bearer() | wished)).json()["headers"]

    assert not heard.keys() & {"upgrade", "connection"}


@BESIDE_THE_SERVICES
async def test_a_service_is_told_for_how_long_its_answer_is_waited_for(new_client: NewClient) -> None:
    async with new_client() as client:
        heard = (await client.get("/payment", headers=bearer() | {"X-Time-Left": "86400000"})).json()["headers"]

    assert heard["x-time-left"] == ["1000"]


# --- patience -----------------------------------------------------------------------------------------------------


@BESIDE_THE_SERVICES
async def test_a_body_that_never_ends_does_not_wait_for_ever(port: int) -> None:
    token = bearer()["Authorization"]
    head = f"POST /payment/initiate HTTP/1.1\r\nHost: x\r\nAuthorization: {token}\r\nContent-Length: 10\r\n\r\n"

    status, said, body = await asyncio.to_thread(answer_to, port, head.encode() + b"{")

    assert status == 400
    assert PROBLEM in said
    assert json.loads(body)["detail"] == "The body did not arrive within 1 s."


@BESIDE_THE_SERVICES
async def test_a_head_that_never_ends_does_not_wait_for_ever(port: int) -> None:
    assert (await asyncio.to_thread(answer_to, port, b"GET /payment HTTP/1.1\r\nHost: x\r\n"))[0] == 408


async def test_a_stream_outlives_the_time_limit_and_ends_when_the_client_leaves(scratch: Path) -> None:
    service = SmallService()
    async with opened("haproxy", service, scratch, request_seconds=1) as new_client:
        async with (
            new_client() as client,
            client.stream("GET", "/notification/stream", headers=bearer()) as answer,
        ):
            lines = answer.aiter_lines()
            assert await anext(lines) == "data: first"
            asyncio.get_running_loop().call_later(1.5, service.go_on.set)  # longer than the time limit
            assert [await anext(lines), await anext(lines)] == ["", "data: second"]

        await asyncio.wait_for(service.stream_ended.wait(), 5)


# --- services that fail -------------------------------------------------------------------------------------------


@pytest.fixture
def before(tmp_path: Path) -> Iterator[Callable[[str], httpx2.Client]]:
    """Give a function that starts HAProxy before one or more payment services and returns a client of it."""
    with ExitStack() as cleanup:

        def start(*payment: str) -> httpx2.Client:
            settings = Settings(port=free_port(), rate_per_user=0, rate_per_address=0)
            file = written(tmp_path, settings, NOBODY | {"payment": list(payment)}, {KEY_ID: OLD})
            cleanup.enter_context(running_haproxy(file))
            client = httpx2.Client(base_url=f"http://127.0.0.1:{settings.port}", trust_env=False, timeout=20)
            return cleanup.enter_context(client)

        yield start


def test_a_service_that_cannot_be_reached_is_unavailable(before: Callable[..., httpx2.Client]) -> None:
    answer = before(f"127.0.0.1:{free_port()}").get("/payment", headers=bearer())

    assert (answer.status_code, answer.json()["type"]) == (503, "/problems/service-unavailable")
    assert answer.headers["retry-after"] == "1"
    assert answer.headers["x-request-id"] == answer.json()["requestId"]


async def test_a_connection_that_breaks_before_the_answer_leaves_the_outcome_unknown(
    before: Callable[..., httpx2.Client],
) -> None:
    """The service may have acted, so this is never told as a failure, and never tried again by HAProxy."""
    heard = 0

    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal heard
        head = await reader.readuntil(b"\r\n\r\n")
        heard += b"/payment/initiate" in head
        if b"/health/ready" in head:
            writer.write(b'HTTP/1.0 200 OK\r\n\r\n{"status":"ready"}')
        writer.close()

    async with await asyncio.start_server(hang_up, "127.0.0.1", 0) as server:
        client = before(f"127.0.0.1:{server.sockets[0].getsockname()[1]}")
        answer = await asyncio.to_thread(client.post, "/payment/initiate", headers=bearer(), json={})

    assert (answer.status_code, answer.json()["status"], answer.json()["type"]) == (504, 504, "/problems/timeout")
    assert answer.headers["retry-after"] == "1"
    assert heard == 1


async def test_a_process_that_is_gone_is_missed_by_nobody(before: Callable[..., httpx2.Client]) -> None:
    async with serving(SmallService().application("payment")) as (address, _):
        client = before(f"127.0.0.1:{free_port()}", address.removeprefix("http://"))

        def statuses() -> set[int]:
            return {client.get("/payment", headers=bearer()).status_code for _ in range(20)}

        assert await asyncio.to_thread(statuses) == {200}


async def test_a_service_whose_disk_is_full_still_answers_whoever_reads(before: Callable[..., httpx2.Client]) -> None:
    service = _Asked()
    service.trouble = StorageUnavailable("full")
    async with serving(service.application("payment")) as (address, _):
        client = before(address.removeprefix("http://"))
        # More often than HAProxy needs to ask to believe that a process cannot work.
        await asyncio.to_thread(wait_until, lambda: service.asked > 3, 20, "HAProxy does not ask")
        answer = await asyncio.to_thread(client.get, "/payment", headers=bearer())

    assert answer.status_code == 200


class _Asked(SmallService):
    """Counts how often it was asked whether it can work."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0

    async def check(self) -> None:
        self.asked += 1
        await super().check()


async def test_a_service_that_cannot_work_gets_no_requests_until_it_can(before: Callable[..., httpx2.Client]) -> None:
    service = SmallService()
    service.trouble = RuntimeError("no database")
    async with serving(service.application("payment")) as (address, _):
        client = before(address.removeprefix("http://"))

        def until(status: int) -> None:
            wait_until(lambda: client.get("/payment", headers=bearer()).status_code == status, 10, f"not {status}")

        await asyncio.to_thread(until, 503)
        service.trouble = None
        await asyncio.to_thread(until, 200)


# --- keys ---------------------------------------------------------------------------------------------------------


@get("/payment", sync_to_thread=False, **public())
def anybody() -> None:
    """Answer whoever gets as far as this."""


async def test_while_keys_rotate_the_old_and_the_new_one_are_good(tmp_path: Path) -> None:
    """And a reload with the new one loses no request."""
    new_key, settings = generate_private_key(SECP256R1()), Settings(port=free_port(), rate_per_user=0)
    with_new_key = {"Authorization": f"Bearer {sign(claims(), new_key, 'key-2')}"}
    service = service_application(
        name="payment",
        routes=[anybody],
        verifier=verifier(),
        internal_secret=INTERNAL_SECRET,
        ready=SmallService().check,
    )
    async with AsyncExitStack() as cleanup:
        address, _ = await cleanup.enter_async_context(serving(service))
        servers = NOBODY | {"payment": [address.removeprefix("http://")]}
        haproxy = cleanup.enter_context(running_haproxy(written(tmp_path, settings, servers, {KEY_ID: OLD})))
        url = f"http://127.0.0.1:{settings.port}/payment"
        client = await cleanup.enter_async_context(httpx2.AsyncClient(trust_env=False))
        assert (await client.get(url, headers=with_new_key)).status_code == 401

        written(tmp_path, settings, servers, {KEY_ID: OLD, "key-2": new_key.public_key()})
        haproxy.send_signal(signal.SIGUSR2)
        statuses = []
        async with asyncio.timeout(20):
            while (await client.get(url, headers=with_new_key)).status_code == 401:
                statuses.append((await client.get(url, headers=bearer())).status_code)
        statuses.append((await client.get(url, headers=bearer())).status_code)

    assert set(statuses) == {200}
