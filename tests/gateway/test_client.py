"""Both ways to a service keep the same promises; over HTTP there are more ways to fail."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Any
from urllib.parse import urlsplit

import httpx2
import pytest

from ewallet.gateway.client import Backend, HttpBackend
from ewallet.gateway.domain import SERVICES, STREAMS
from ewallet.kernel.clock import system_clock
from ewallet.plumbing.http.replicas import FAILURES_IN_A_ROW
from ewallet.plumbing.http.streams import EndingStreams
from ewallet.plumbing.tokens import Badge, verify_internal
from tests.support.gateway import SmallService, ask, bearer, client_of, direct_backends, new_gateway
from tests.support.notification import serving
from tests.support.ports import free_port

SECRET = "a secret that only the services of this test know"
BADGE = Badge("gateway", SECRET, system_clock)


@pytest.fixture
def small_service() -> SmallService:
    return SmallService()


@pytest.fixture(params=["direct", "http"])
async def backends(request: pytest.FixtureRequest, small_service: SmallService) -> AsyncIterator[Mapping[str, Backend]]:
    """Give the doors to the same small services, in this process and through sockets."""
    if request.param == "direct":
        yield direct_backends(small_service)
        return
    async with AsyncExitStack() as servers:
        doors = {}
        for name in SERVICES:
            address, _ = await servers.enter_async_context(serving(small_service.application(name)))
            doors[name] = HttpBackend(name, address, badge=BADGE)
        yield doors
        for door in doors.values():
            await door.close()


@pytest.fixture
async def client(backends: Mapping[str, Backend]) -> AsyncIterator[httpx2.AsyncClient]:
    async with client_of(new_gateway(backends)) as client:
        yield client


async def test_a_request_arrives_as_it_was_sent(client: httpx2.AsyncClient) -> None:
    answer = await client.post("/payment/initiate", json={"amount": 7}, headers=bearer() | {"Idempotency-Key": "k-1"})

    heard = answer.json()
    assert (answer.status_code, heard["amount"], heard["subject"]) == (201, 7, "usr_ann")
    assert heard["headers"]["idempotency-key"] == ["k-1"]
    assert heard["headers"]["content-length"] == [str(len(b'{"amount":7}'))]
    assert heard["headers"]["host"] == ["gateway"]
    assert heard["headers"]["x-forwarded-for"] == ["192.0.2.7"]


async def test_one_request_has_one_id_in_the_gateway_and_in_the_service(client: httpx2.AsyncClient) -> None:
    made = await client.get("/payment", headers=bearer())
    taken = await client.get("/payment", headers=bearer() | {"X-Request-Id": "order-17"})

    assert made.headers.get_list("x-request-id") == [made.json()["requestId"]]
    assert taken.headers.get_list("x-request-id") == [taken.json()["requestId"]] == ["order-17"]


async def test_a_service_s_refusal_comes_back_as_it_is(client: httpx2.AsyncClient) -> None:
    answer = await client.post("/payment/initiate", json={"amount": 7, "extra": 1}, headers=bearer())

    assert (answer.status_code, answer.headers["content-type"]) == (422, "application/problem+json")
    assert answer.json()["errors"] == [{"pointer": "/extra", "detail": "Object contains unknown field `extra`"}]
    assert answer.headers.get_list("x-content-type-options") == ["nosniff"]


async def test_head_of_a_service_s_page_has_no_body(client: httpx2.AsyncClient) -> None:
    answer = await client.head("/payment", headers=bearer())

    assert (answer.status_code, answer.content) == (200, b"")


async def test_services_tell_how_they_are_and_what_they_can(client: httpx2.AsyncClient) -> None:
    ready, document = await client.get("/health/ready"), await client.get("/openapi.json")

    assert ready.json()["services"] == dict.fromkeys(SERVICES, "ready")
    assert {"/auth/login", "/payment/initiate", "/health/ready"} <= document.json()["paths"].keys()


async def test_a_stream_outlives_the_time_limit_and_ends_when_the_client_leaves(
    backends: Mapping[str, Backend], small_service: SmallService
) -> None:
    gateway = new_gateway(backends, request_seconds=1)
    async with (
        serving(gateway) as (address, _),
        httpx2.AsyncClient(base_url=address, trust_env=False) as client,
        client.stream("GET", "/notification/stream", headers=bearer()) as answer,
    ):
        lines = answer.aiter_lines()
        assert await anext(lines) == "data: first"
        asyncio.get_running_loop().call_later(1.2, small_service.go_on.set)  # longer than the time limit
        assert [await anext(lines), await anext(lines)] == ["", "data: second"]

    await asyncio.wait_for(small_service.stream_ended.wait(), 5)


@pytest.mark.parametrize("path", ["/notification/stream", "/notification/stream/"])
async def test_a_stream_ends_properly_when_the_server_is_about_to_stop(
    backends: Mapping[str, Backend], small_service: SmallService, path: str
) -> None:
    stopping = asyncio.Event()
    gateway = EndingStreams(new_gateway(backends), paths=STREAMS, stopping=stopping)
    async with (
        serving(gateway) as (address, _),
        httpx2.AsyncClient(base_url=address, trust_env=False) as client,
        client.stream("GET", path, headers=bearer()) as answer,
    ):
        lines = answer.aiter_lines()
        assert await anext(lines) == "data: first"
        stopping.set()
        assert [line async for line in lines] == [""]  # an end, not a broken connection

    await asyncio.wait_for(small_service.stream_ended.wait(), 5)


# --- over HTTP only -----------------------------------------------------------------------------------------------


async def _through(*urls: str, path: str = "/payment") -> httpx2.Response:
    door = HttpBackend("payment", *urls, badge=BADGE)
    backends = dict(direct_backends(SmallService())) | {"payment": door}
    async with client_of(new_gateway(backends, request_seconds=1)) as client:
        answer = await client.get(path, headers=bearer())
    await door.close()
    return answer


async def test_a_service_that_cannot_be_reached_is_unavailable() -> None:
    answer = await _through(f"http://127.0.0.1:{free_port()}")

    assert (answer.status_code, answer.json()["type"]) == (503, "/problems/service-unavailable")
    assert answer.headers["retry-after"] == "1"


async def test_a_connection_that_breaks_before_the_answer_leaves_the_outcome_unknown() -> None:
    """The service may have acted: this is never told as a failure (DESIGN section 5, rule 3)."""

    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(hang_up, "127.0.0.1", 0) as server:
        answer = await _through(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")

    assert (answer.status_code, answer.json()["type"]) == (504, "/problems/timeout")
    assert answer.headers["retry-after"] == "1"


@pytest.mark.parametrize("path", ["/payment", "/health/ready"])
async def test_of_several_processes_one_that_is_there_is_enough(small_service: SmallService, path: str) -> None:
    async with serving(small_service.application("payment")) as (address, _):
        answer = await _through(f"http://127.0.0.1:{free_port()}", address, path=path)

    assert answer.status_code == 200


async def test_a_service_learns_whose_gateway_asks_and_how_long_it_waits(small_service: SmallService) -> None:
    async with serving(small_service.application("payment")) as (address, _):
        heard = (await _through(address)).json()["headers"]

    assert verify_internal(heard["x-internal-badge"][0], SECRET) == "service:gateway"
    assert 0 < int(heard["x-time-left"][0]) <= 1000


async def test_a_request_that_cannot_be_sent_on_is_the_client_s_mistake_and_spoil_nothing_for_others(
    small_service: SmallService,
) -> None:
    """A service that was given up because of them would be out of reach for everybody."""
    async with serving(small_service.application("payment")) as (address, _):
        door = HttpBackend("payment", address, badge=BADGE)
        backends = dict(direct_backends(SmallService())) | {"payment": door}
        async with serving(new_gateway(backends)) as (gateway, _):
            refused = [await _asked(gateway, hosts=("x", "y")) for _ in range(FAILURES_IN_A_ROW + 1)]
            afterwards = await _asked(gateway, hosts=("x",))
        await door.close()

    assert {answer.partition(b"\r\n")[0] for answer in refused} == {b"HTTP/1.1 400 Bad Request"}
    assert b"/problems/malformed-request" in refused[0]
    assert afterwards.startswith(b"HTTP/1.1 200 OK")


async def _asked(address: str, *, hosts: Sequence[str]) -> bytes:
    """The answer to a request that says so often where it goes; no library would send that."""
    parts = urlsplit(address)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    headers = [*(("Host", host) for host in hosts), ("Connection", "close"), *bearer().items()]
    lines = ["GET /payment HTTP/1.1", *(f"{name}: {value}" for name, value in headers)]
    writer.write("\r\n".join([*lines, "", ""]).encode())
    answer = await reader.read()
    writer.close()
    return answer


async def test_a_service_that_is_silent_is_a_timeout(small_service: SmallService) -> None:
    async with serving(small_service.application("payment")) as (address, _):
        answer = await _through(address, path="/payment/slow")
        small_service.go_on.set()

    assert (answer.status_code, answer.json()["type"]) == (504, "/problems/timeout")


@pytest.mark.parametrize("path", ["/payment/\x7f", "/payment/é", "/payment/#a"])
async def test_an_address_that_is_none_is_the_client_s_mistake(path: str) -> None:
    """Most servers refuse it before; not every one does."""
    door = HttpBackend("payment", "http://127.0.0.1:1", badge=BADGE)
    gateway = new_gateway(dict(direct_backends(SmallService())) | {"payment": door})

    async def empty_body() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    status, problem = await ask(gateway, "GET", path, headers=bearer(), receive=empty_body)

    assert (status, problem["type"]) == (400, "/problems/malformed-request")
    await door.close()


async def test_the_document_waits_for_services_that_are_down() -> None:
    answer = await _through(f"http://127.0.0.1:{free_port()}", path="/openapi.json")

    assert (answer.status_code, answer.json()["type"]) == (503, "/problems/service-unavailable")
