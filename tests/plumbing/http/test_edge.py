"""Whatever happens inside, a request gets one answer, one log line and its metrics; a stream ends with the server."""

import asyncio
import time
from typing import Any

import msgspec
import pytest
from litestar.types import Message, Receive, Scope, Send
from prometheus_client import REGISTRY

from ewallet.kernel.clock import system_clock
from ewallet.kernel.errors import Reason, Refusal
from ewallet.plumbing.deadlines import ends_at, request_ends_at
from ewallet.plumbing.http.edge import Edge, send_problem
from ewallet.plumbing.http.streams import EndingStreams

PATIENCE_SECONDS = 10


def scope(path: str = "/things", headers: list[tuple[bytes, bytes]] | None = None) -> Any:
    return {
        "type": "http",
        "method": "GET",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": headers or [],
        "client": ("192.0.2.1", 1234),
    }


class Client:
    """The other end of one request: what it was sent, and whether it has left."""

    def __init__(self) -> None:
        self.messages: list[Any] = []
        self.left = asyncio.Event()
        self.got_something = asyncio.Event()

    async def receive(self) -> Any:
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        self.messages.append(message)
        self.got_something.set()

    @property
    def status(self) -> int:
        return int(self.messages[0]["status"])

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.messages[1:])


async def broken(_scope: Scope, _receive: Receive, _send: Send) -> None:
    raise KeyError("a secret detail")


async def broken_midway(_scope: Scope, _receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    raise KeyError("a secret detail")


async def call(app: Any, request: Any) -> Client:
    client = Client()
    await app(request, client.receive, client.send)
    return client


def edge(app: Any) -> Edge:
    return Edge(app, service="test-edge", clock=system_clock)


async def test_an_application_that_breaks_is_an_internal_error_without_detail() -> None:
    client = await call(edge(broken), scope(headers=[(b"x-request-id", b"mine")]))

    assert client.status == 500
    problem = msgspec.json.decode(client.body)
    assert (problem["type"], problem["requestId"]) == ("/problems/internal-error", "mine")
    assert b"secret" not in client.body


async def test_an_answer_that_breaks_midway_is_not_answered_twice() -> None:
    client = await call(edge(broken_midway), scope())

    assert [message["type"] for message in client.messages] == ["http.response.start"]


async def test_the_outermost_edge_names_the_request_and_an_inner_one_lets_it_pass() -> None:
    client = await call(edge(edge(broken)), scope(headers=[(b"x-request-id", b"mine")]))

    names = [name for name, _ in client.messages[0]["headers"]]
    assert names.count(b"x-request-id") == 1


@pytest.mark.parametrize(
    ("path", "announced", "status"),
    [("/things", 65_537, 413), ("/many", 65_537, 500), ("/many", 1_000_000, 500), ("/many", 1_000_001, 413)],
)
async def test_only_some_paths_take_a_large_body_and_it_is_bounded_too(path: str, announced: int, status: int) -> None:
    """What gets through meets an application that breaks."""
    outermost = Edge(broken, service="test-edge", clock=system_clock, large_bodies={"/many": 1_000_000})

    client = await call(outermost, scope(path, headers=[(b"content-length", b"%d" % announced)]))

    assert client.status == status


async def test_two_request_ids_are_none() -> None:
    client = await call(edge(broken), scope(headers=[(b"x-request-id", b"a"), (b"x-request-id", b"b")]))

    assert msgspec.json.decode(client.body)["requestId"].startswith("req_")


async def test_a_request_is_counted_by_its_route_and_never_by_what_a_client_wrote(
    capsys: pytest.CaptureFixture[str],
) -> None:
    labels = {"service": "test-edge", "method": "GET", "route": "unmatched", "status": "500"}
    before = REGISTRY.get_sample_value("ewallet_requests_total", labels) or 0

    await call(edge(broken), scope("/made-up-by-a-client"))

    assert REGISTRY.get_sample_value("ewallet_requests_total", labels) == before + 1
    assert capsys.readouterr().out.count("path=/made-up-by-a-client") == 1


async def refusing(scope: Any, _receive: Receive, send: Send) -> None:
    await send_problem(scope, send, Refusal(Reason.LIMIT_EXCEEDED, "too much"))


async def test_a_refusal_is_counted_and_logged_with_its_reason(capsys: pytest.CaptureFixture[str]) -> None:
    labels = {"service": "test-edge", "reason": "limit-exceeded"}
    before = REGISTRY.get_sample_value("ewallet_refusals_total", labels) or 0

    await call(edge(refusing), scope())

    assert REGISTRY.get_sample_value("ewallet_refusals_total", labels) == before + 1
    (line,) = capsys.readouterr().out.splitlines()
    assert "reason=limit-exceeded" in line
    assert "[info" in line


async def slow(_scope: Scope, _receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})


async def test_a_slow_request_is_a_warning(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("ewallet.plumbing.http.edge.SLOW_SECONDS", -1.0)

    await call(edge(slow), scope())

    assert "[warning" in capsys.readouterr().out


@pytest.mark.parametrize(("path", "level"), [("/payment", "warning"), ("/health/ready", "info")])
async def test_an_answer_of_5xx_is_a_warning_but_that_a_process_is_not_ready_is_told_elsewhere(
    capsys: pytest.CaptureFixture[str], path: str, level: str
) -> None:
    async def unavailable(scope: Any, _receive: Receive, send: Send) -> None:
        await send_problem(scope, send, Refusal(Reason.SERVICE_UNAVAILABLE, "not now"))

    await call(edge(unavailable), scope(path))

    assert f"[{level}" in capsys.readouterr().out


async def test_requests_under_way_are_known() -> None:
    labels = {"service": "test-edge"}
    seen: list[float | None] = []

    async def look(_scope: Scope, _receive: Receive, send: Send) -> None:
        seen.append(REGISTRY.get_sample_value("ewallet_requests_under_way", labels))
        await slow(_scope, _receive, send)

    await call(edge(look), scope())

    assert seen == [1]
    assert REGISTRY.get_sample_value("ewallet_requests_under_way", labels) == 0


# --- streams --------------------------------------------------------------------------------------------------------


async def stream(_scope: Scope, receive: Receive, send: Send) -> None:
    """Tell something, and then nothing until the client leaves."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"news", "more_body": True})
    while (await receive())["type"] != "http.disconnect":
        pass


async def begin(stopping: asyncio.Event, path: str = "/stream") -> tuple[Client, asyncio.Task[None]]:
    client = Client()
    app = EndingStreams(stream, paths={"/stream"}, stopping=stopping)
    task: asyncio.Task[None] = asyncio.create_task(app(scope(path), client.receive, client.send))
    await client.got_something.wait()
    return client, task


async def test_a_stream_ends_completely_when_the_server_stops() -> None:
    stopping = asyncio.Event()
    client, task = await begin(stopping)

    stopping.set()
    await asyncio.wait_for(task, PATIENCE_SECONDS)

    assert client.body == b"news"
    assert client.messages[-1]["more_body"] is False


async def test_a_stream_ends_when_its_client_leaves() -> None:
    client, task = await begin(asyncio.Event())

    client.left.set()

    await asyncio.wait_for(task, PATIENCE_SECONDS)


async def test_other_answers_are_left_to_finish_by_themselves() -> None:
    stopping = asyncio.Event()
    client, task = await begin(stopping, path="/payment/initiate")
    stopping.set()
    await asyncio.sleep(0)
    assert not task.done()

    client.left.set()
    await asyncio.wait_for(task, PATIENCE_SECONDS)


@pytest.mark.parametrize(("given", "seconds"), [(b"1500", 1.5), (b"0", 0.0)])
async def test_a_service_learns_how_long_its_answer_is_waited_for(given: bytes, seconds: float) -> None:
    ends: list[float | None] = []

    async def service(_scope: Scope, _receive: Receive, _send: Send) -> None:
        ends.append(request_ends_at.get())

    now, client = time.monotonic(), Client()
    edge = Edge(service, service="test-edge", clock=system_clock)
    await edge(scope(headers=[(b"x-time-left", given)]), client.receive, client.send)

    [end] = ends
    assert end is not None
    assert seconds <= end - now < seconds + 1
    assert request_ends_at.get() is None


@pytest.mark.parametrize("given", [b"soon", b"-1", b"9" * 40, "²".encode()])
def test_a_time_that_is_none_is_no_time_limit(given: bytes) -> None:
    assert ends_at(given) is None
