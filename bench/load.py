"""Load: one client in sequence, wrk with many connections, and arrivals at a fixed rate whatever the answers take."""

import asyncio
import json
import secrets
import statistics
import subprocess
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import httptools
import httpx2
import uvloop

LUA = Path(__file__).with_name("requests.lua")
CREATED = 201
UNAVAILABLE = 503
LATE_SECONDS = 15
"""How long after the last arrival an open loop waits for answers."""


class Latency(NamedTuple):
    """Milliseconds."""

    p50: float
    p90: float
    p99: float
    maximum: float


class Load(NamedTuple):
    """What a run under load gave."""

    requests: int
    per_second: float
    latency: Latency


class Overload(NamedTuple):
    """What became of more than can be carried: what was done per second, how late, and what was turned away."""

    done: Load
    turned_away: Load
    recovered_seconds: float


class Request(NamedTuple):
    """One request that is sent again and again; with a body, under a new idempotency key every time."""

    method: str
    path: str
    token: str
    body: str = ""

    def message(self, host: str, key: str) -> bytes:
        """As it goes over the wire."""
        head = f"{self.method} {self.path} HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {self.token}\r\n"
        if self.body:
            head += f"Content-Type: application/json\r\nIdempotency-Key: {key}\r\nContent-Length: {len(self.body)}\r\n"
        return f"{head}\r\n{self.body}".encode("ascii")


def in_sequence(base_url: str, request: Request, *, payments: int) -> Latency:
    """One client sends one request again and again over one connection."""
    milliseconds = []
    run = secrets.token_hex(8)
    headers = {"Authorization": f"Bearer {request.token}", "Content-Type": "application/json"}
    with httpx2.Client(base_url=base_url, headers=headers, trust_env=False) as client:
        for number in range(payments):
            started = time.perf_counter()
            key = {"Idempotency-Key": f"{run}{number}"}
            response = client.request(request.method, request.path, content=request.body, headers=key)
            milliseconds.append((time.perf_counter() - started) * 1000)
            response.raise_for_status()
    return latency_of(milliseconds)


def in_bulk(base_url: str, requests: Sequence[Request], *, each: int, seconds: float) -> Load:
    """One call after the other, of many payments each; latencies are those of calls, everything else of payments."""
    milliseconds: list[float] = []
    run, started = secrets.token_hex(8), time.perf_counter()
    with httpx2.Client(base_url=base_url, timeout=60, trust_env=False) as client:
        while time.perf_counter() < started + seconds or len(milliseconds) < 2:
            number = len(milliseconds)
            request = requests[number % len(requests)]
            call = _call_of_many(request, f"{run}{number}", each)
            headers = {"Authorization": f"Bearer {request.token}", "Content-Type": "application/json"}
            began = time.perf_counter()
            response = client.post("/payment/bulk", content=call, headers=headers)
            milliseconds.append((time.perf_counter() - began) * 1000)
            _require_all_paid(response)
    paid = each * len(milliseconds)
    return Load(paid, paid / (time.perf_counter() - started), latency_of(milliseconds))


def _call_of_many(request: Request, key: str, payments: int) -> str:
    order = json.loads(request.body)
    return json.dumps({"payments": [{**order, "idempotencyKey": f"{key}-{number}"} for number in range(payments)]})


def _require_all_paid(response: httpx2.Response) -> None:
    response.raise_for_status()
    statuses = Counter(item["status"] for item in response.json()["items"])
    if statuses.keys() != {CREATED}:
        raise SystemExit(f"payments of one call ended with {statuses}: this run counts for nothing")


def with_wrk(base_url: str, requests: Sequence[Request], folder: Path, *, connections: int, seconds: int) -> Load:
    """``connections`` clients at once; refuses a run in which any request was not answered with success."""
    file = folder / "requests.txt"
    file.write_text("".join("\t".join(request) + "\n" for request in requests), encoding="ascii")
    command = ["wrk", "-t", "1", "-c", str(connections), "-d", f"{seconds}s", "--timeout", "10s", "-s", str(LUA)]
    arguments = [base_url, "--", str(file), secrets.token_hex(8)]
    finished = subprocess.run([*command, *arguments], capture_output=True, text=True, check=True)
    line = next(line for line in finished.stdout.splitlines() if line.startswith("RESULT "))
    result = json.loads(line.removeprefix("RESULT "))
    if result["bad"]:
        raise SystemExit(f"{result['bad']} of {result['requests']} requests failed: this run counts for nothing")
    latency = Latency(*(result[name] / 1000 for name in ("p50", "p90", "p99", "max")))
    return Load(result["requests"], result["requests"] * 1_000_000 / result["microseconds"], latency)


def at_rate(base_url: str, requests: Sequence[Request], *, per_second: float, seconds: float, connections: int) -> Load:
    """Send requests at fixed moments, whatever the answers take; latencies run from the moment one was due.

    Refuses a run in which any request was not answered with success.
    """
    return uvloop.run(arriving(base_url, requests, per_second=per_second, seconds=seconds, connections=connections))


async def arriving(
    base_url: str,
    requests: Sequence[Request],
    *,
    per_second: float,
    seconds: float,
    connections: int,
    on_body: Callable[[bytes], None] | None = None,
) -> Load:
    """See :func:`at_rate`; ``on_body`` is given the body of each answer."""
    run, elapsed = await _arrive(
        base_url, requests, per_second=per_second, seconds=seconds, connections=connections, on_body=on_body
    )
    if run.failed or run.turned_away:
        raise SystemExit(
            f"{len(run.turned_away)} requests turned away, failed {run.failed}: this run counts for nothing"
        )
    return _load(run.milliseconds, elapsed)


def beyond(
    base_url: str, requests: Sequence[Request], *, per_second: float, seconds: float, connections: int
) -> Overload:
    """Like :func:`at_rate`, with more than can be carried; then how long it takes until a payment is made again."""
    run, elapsed = uvloop.run(
        _arrive(base_url, requests, per_second=per_second, seconds=seconds, connections=connections)
    )
    if run.failed:
        raise SystemExit(f"requests failed ({run.failed}): this run counts for nothing")
    ended = time.perf_counter()
    while not _is_paid(base_url, requests[0]):
        if time.perf_counter() - ended > LATE_SECONDS:
            raise SystemExit("nothing is paid any more: this run counts for nothing")
    late_seconds = elapsed - seconds
    recovered_seconds = late_seconds + time.perf_counter() - ended
    return Overload(_load(run.milliseconds, elapsed), _load(run.turned_away, elapsed), recovered_seconds)


def _is_paid(base_url: str, request: Request) -> bool:
    headers = {"Authorization": f"Bearer {request.token}", "Content-Type": "application/json"}
    return httpx2.post(base_url + request.path, content=request.body, headers=headers).status_code == CREATED


def _load(milliseconds: Sequence[float], elapsed: float) -> Load:
    return Load(len(milliseconds), len(milliseconds) / elapsed, latency_of(milliseconds))


class _Connection(asyncio.Protocol):
    """One connection with at most one request under way."""

    def __init__(self, run: "_OpenLoop", on_body: Callable[[bytes], None] | None) -> None:
        self._run = run
        if on_body is not None:
            self.on_body = on_body  # httptools calls what is there, in one piece for a short answer
        self._due = 0.0
        self._parser = httptools.HttpResponseParser(self)
        self._transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def send(self, message: bytes, due: float) -> None:
        self._due = due
        self._transport.write(message)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_message_complete(self) -> None:
        self._run.answered(self, self._parser.get_status_code(), self._due)
        self._parser = httptools.HttpResponseParser(self)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._run.finished:
            raise SystemExit(f"the server closed a connection ({exc}): this run counts for nothing")


class _OpenLoop:
    """The requests that are due and the connections that are free."""

    def __init__(self) -> None:
        self.finished = False
        self.all_answered = asyncio.Event()
        self.milliseconds: list[float] = []
        self.turned_away: list[float] = []
        self.failed: Counter[int] = Counter()
        self._under_way = 0
        self._free: deque[_Connection] = deque()
        self._waiting: deque[tuple[bytes, float]] = deque()
        self._now = asyncio.get_running_loop().time

    def add(self, connection: _Connection) -> None:
        self._free.append(connection)

    def due(self, message: bytes, moment: float) -> None:
        self._under_way += 1
        if self._free:
            # The one that has been idle longest: the server closes those that are for five seconds.
            self._free.popleft().send(message, moment)
        else:
            self._waiting.append((message, moment))

    def answered(self, connection: _Connection, status: int, due: float) -> None:
        self._under_way -= 1
        milliseconds = (self._now() - due) * 1000
        if status == CREATED:
            self.milliseconds.append(milliseconds)
        elif status == UNAVAILABLE:
            self.turned_away.append(milliseconds)
        else:
            self.failed[status] += 1
        if self._waiting:
            connection.send(*self._waiting.popleft())
        else:
            self._free.append(connection)
        if self.finished and not self._under_way:
            self.all_answered.set()

    async def finish(self) -> None:
        """Wait for the answers that are still to come."""
        self.finished = True
        if self._under_way:
            async with asyncio.timeout(LATE_SECONDS):
                await self.all_answered.wait()


async def _arrive(
    base_url: str,
    requests: Sequence[Request],
    *,
    per_second: float,
    seconds: float,
    connections: int,
    on_body: Callable[[bytes], None] | None = None,
) -> tuple[_OpenLoop, float]:
    """The run, and the seconds until everything was answered."""
    loop, run = asyncio.get_running_loop(), _OpenLoop()
    host, _, port = base_url.removeprefix("http://").partition(":")
    for _ in range(connections):
        _, connection = await loop.create_connection(lambda: _Connection(run, on_body), host, int(port))
        run.add(connection)
    started, key = loop.time(), secrets.token_hex(8)
    for number in range(int(per_second * seconds)):
        due = started + number / per_second
        if (early := due - loop.time()) > 0:
            await asyncio.sleep(early)
        elif number % 64 == 0:
            await asyncio.sleep(0)
        run.due(requests[number % len(requests)].message(host, f"{key}{number}"), due)
    await run.finish()
    return run, loop.time() - started


def latency_of(milliseconds: Sequence[float]) -> Latency:
    cuts = statistics.quantiles(milliseconds, n=100, method="inclusive")
    return Latency(cuts[49], cuts[89], cuts[98], max(milliseconds))
