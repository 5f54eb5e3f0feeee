"""Calls to a service that runs in other processes.

What is not a clear answer is :class:`OutcomeUnknown`: a time-out, a reset, a 5xx. Whatever is asked through a door is
harmless when repeated: it names what it wants by ids that are stored with their outcome, or only reads. So a door asks
again at once where a connection could not be made, or broke, and its callers do so later (DESIGN section 5, rule 3).
"""

import asyncio
import random
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import httpx2
import msgspec
from opentelemetry.trace import SpanKind

from ewallet.kernel.clock import Clock
from ewallet.kernel.errors import InvariantBroken, OutcomeUnknown, Overloaded, Reason
from ewallet.plumbing import failpoints, tracing
from ewallet.plumbing.database import StorageUnavailable
from ewallet.plumbing.deadlines import TIME_LEFT_HEADER
from ewallet.plumbing.http.edge import MAXIMUM_BODY_BYTES
from ewallet.plumbing.http.replicas import Replica, Replicas
from ewallet.plumbing.json import encode
from ewallet.plumbing.telemetry import DOOR_SECONDS
from ewallet.plumbing.tokens import Badge

Answer = TypeVar("Answer")

TIMEOUT_SECONDS = 5.0
"""For a call with all its repetitions."""

CONNECT_SECONDS = 1.0
CONNECTIONS = 64

KEEP_ALIVE_SECONDS = 3
"""Shorter than uvicorn's five, so that a connection is not closed by the other side just as a request is written."""

PAUSES_SECONDS = (0.0, 0.02, 0.1)
"""The longest pause before each attempt; it is drawn, so that many who have failed together do not return together."""

ENVELOPE_BYTES = 64
"""Room for what a body has around its list."""


class Door:
    """HTTP calls from one service (``caller``) to another, whose processes are at ``urls``."""

    def __init__(self, *urls: str, caller: str, secret: str, clock: Clock) -> None:
        self._caller = caller
        self._badge = Badge(caller, secret, clock)
        limits = httpx2.Limits(
            max_connections=CONNECTIONS, max_keepalive_connections=CONNECTIONS, keepalive_expiry=KEEP_ALIVE_SECONDS
        )
        self._client = httpx2.AsyncClient(limits=limits, trust_env=False)
        self._replicas = Replicas(urls, self._client)

    async def post(self, path: str, body: Any, answer_type: type[Answer], *, request_id: str) -> Answer:
        """POST a struct to an internal endpoint and decode its answer.

        OutcomeUnknown: no clear answer came; StorageUnavailable: the other side's disk fails. Overloaded: it refused
        before beginning.
        """
        with tracing.span(self._caller, f"POST {path}", kind=SpanKind.CLIENT), _timed(self._caller, path):
            headers = {
                "Authorization": f"Bearer {self._badge.token()}",
                "Content-Type": "application/json",
                "X-Request-Id": request_id,
                **tracing.headers(),
            }
            return await self._answer("POST", path, answer_type, content=encode(body), headers=headers)

    async def get(self, path: str, answer_type: type[Answer]) -> Answer:
        """GET a public document of the other service."""
        return await self._answer("GET", path, answer_type, headers={})

    async def close(self) -> None:
        """Close the connections."""
        self._replicas.close()
        await self._client.aclose()

    async def _answer(self, method: str, path: str, answer_type: type[Answer], **request: Any) -> Answer:
        response = await self._response(method, path, **request)
        if response.status_code == httpx2.codes.SERVICE_UNAVAILABLE:
            if f"/problems/{Reason.STORAGE_UNAVAILABLE.value}" in response.text:
                raise StorageUnavailable(f"{method} {path}: the other side can store nothing")
            raise Overloaded(f"{method} {path}: the service is not available")
        if response.status_code >= httpx2.codes.INTERNAL_SERVER_ERROR:
            raise OutcomeUnknown(f"{method} {path}: status {response.status_code}")
        if not response.is_success:
            raise InvariantBroken(f"{method} {path}: a sister service answered {response.status_code}: {response.text}")
        return msgspec.json.decode(response.content, type=answer_type)

    async def _response(self, method: str, path: str, **request: Any) -> httpx2.Response:
        """The first answer of any process of the service, whatever it is."""
        ends_at = time.monotonic() + TIMEOUT_SECONDS
        unanswered: OutcomeUnknown | Overloaded | None = None
        for pause_seconds in PAUSES_SECONDS:
            if pause_seconds:
                await asyncio.sleep(random.uniform(0, pause_seconds))  # noqa: S311  # jitter needs no secrecy
            try:
                return await self._ask(self._replicas.take(), method, path, ends_at - time.monotonic(), **request)
            except httpx2.TimeoutException as error:
                raise OutcomeUnknown(f"{method} {path}: {type(error).__name__}") from error
            except httpx2.HTTPError as error:
                unanswered = OutcomeUnknown(f"{method} {path}: {type(error).__name__}")
            except Overloaded as error:
                # Of an earlier attempt nobody knows whether it was begun.
                unanswered = unanswered if isinstance(unanswered, OutcomeUnknown) else error
        raise unanswered or Overloaded(f"{method} {path}: no attempt was made")

    async def _ask(
        self, replica: Replica, method: str, path: str, seconds: float, *, headers: dict[str, str], **request: Any
    ) -> httpx2.Response:
        """One attempt. Overloaded: the request was not sent. Errors of httpx2: nobody knows what became of it."""
        timeout = httpx2.Timeout(seconds, connect=min(seconds, CONNECT_SECONDS))
        headers = {**headers, TIME_LEFT_HEADER: str(int(seconds * 1000))}
        try:
            failpoints.reached("door.call.before", path)
            response = await self._client.request(
                method, replica.url + path, timeout=timeout, headers=headers, **request
            )
            failpoints.reached("door.call.after", path)
        except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
            replica.went_away()
            raise Overloaded(f"{replica.url}: no connection") from error
        except httpx2.PoolTimeout as error:
            raise Overloaded(f"{replica.url}: all connections are in use") from error
        except httpx2.HTTPError:
            replica.failed()
            raise
        replica.answered(response)
        return response


@contextmanager
def _timed(caller: str, path: str) -> Iterator[None]:
    started, outcome = time.perf_counter(), "answered"
    try:
        yield
    except Exception as error:
        outcome = type(error).__name__
        raise
    finally:
        DOOR_SECONDS.labels(caller, path, outcome).observe(time.perf_counter() - started)


def chunks(items: Iterable[Any]) -> Iterator[list[msgspec.Raw]]:
    """The items as JSON, in their order, as many at a time as a service takes in one body."""
    chunk: list[msgspec.Raw] = []
    size = ENVELOPE_BYTES
    for item in items:
        encoded = encode(item)
        if chunk and size + len(encoded) + 1 > MAXIMUM_BODY_BYTES:
            yield chunk
            chunk, size = [], ENVELOPE_BYTES
        chunk.append(msgspec.Raw(encoded))
        size += len(encoded) + 1
    if chunk:
        yield chunk
