"""The outermost layer of an application: request id, bounds on headers, one log line and the metrics of a request.

The gateway and every service that runs alone have one. Where the gateway calls a service in its own process, the
inner edge lets the request pass as it is.
"""

import re
import time
from collections.abc import Iterable, Mapping
from functools import lru_cache
from http import HTTPStatus
from types import MappingProxyType
from typing import Any

import structlog
from litestar.enums import ScopeType
from litestar.types import ASGIApp, Message, Receive, Scope, Send
from opentelemetry.trace import Span
from prometheus_client import Counter, Histogram

from ewallet.kernel.clock import Clock
from ewallet.kernel.errors import Reason, Refusal
from ewallet.kernel.ids import new_id
from ewallet.plumbing import tracing
from ewallet.plumbing.deadlines import TIME_LEFT_HEADER, ends_at, request_ends_at
from ewallet.plumbing.http.problems import (
    MEDIA_TYPE,
    REFUSED_SCOPE_KEY,
    REQUEST_ID_SCOPE_KEY,
    problem,
    problem_headers,
    refusal_of,
)
from ewallet.plumbing.json import encode
from ewallet.plumbing.telemetry import REFUSALS, REQUEST_SECONDS, REQUESTS, REQUESTS_UNDER_WAY, request_in_hand

log = structlog.get_logger()

MAXIMUM_BODY_BYTES = 64 * 1024
MAXIMUM_HEADER_BYTES = 16 * 1024
MAXIMUM_URI_BYTES = 8 * 1024

SLOW_SECONDS = 1.0
"""A request that waits longer for its answer is a warning in the log: a payment takes some hundredths of it."""

_TIME_LEFT = TIME_LEFT_HEADER.lower().encode("ascii")
_REQUEST_ID = re.compile(rb"^[\x21-\x7e]{1,128}$")


class Edge:
    """ASGI middleware; see the module."""

    def __init__(
        self, app: ASGIApp, *, service: str, clock: Clock, large_bodies: Mapping[str, int] = MappingProxyType({})
    ) -> None:
        """``large_bodies`` are the paths that take more than the usual body, with the bytes that they take."""
        self._app = app
        self._large_bodies = large_bodies
        self._service = service
        self._clock = clock
        self._under_way = 0
        REQUESTS_UNDER_WAY.labels(service).set_function(lambda: self._under_way)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        state: dict[str, Any] = scope  # type: ignore[assignment]  # our own keys stand beside ASGI's
        if scope["type"] != ScopeType.HTTP or REQUEST_ID_SCOPE_KEY in state:
            await self._app(scope, receive, send)
            return
        state[REQUEST_ID_SCOPE_KEY] = request_id(state["headers"], self._clock)
        with tracing.serving(self._service, state["method"], state["headers"]) as span:
            await self._serve(state, receive, send, span)

    async def _serve(self, state: dict[str, Any], receive: Receive, send: Send, span: Span | None) -> None:
        request_in_hand.set(state[REQUEST_ID_SCOPE_KEY])
        request_ends_at.set(_ends_at(state["headers"]))
        answer = _Answer(send, state[REQUEST_ID_SCOPE_KEY])
        started = time.perf_counter()
        self._under_way += 1
        try:
            refusal = out_of_bounds(state, self._large_bodies.get(state["path"], MAXIMUM_BODY_BYTES))
            if refusal is not None:
                await send_problem(state, answer.send, refusal)
            else:
                await self._app(state, receive, answer.send)  # type: ignore[arg-type]  # the scope, as above
        except Exception as error:
            log.exception("request.failed")
            if not answer.status:
                await send_problem(state, answer.send, refusal_of(error))
        finally:
            self._under_way -= 1
            self._report(state, answer, started, span)
            request_in_hand.set(None)
            request_ends_at.set(None)

    def _report(self, state: dict[str, Any], answer: "_Answer", started: float, span: Span | None) -> None:
        ended = time.perf_counter()
        waited = (answer.began or ended) - started
        route = state.get("path_template") or "unmatched"
        answered, duration = _metrics(self._service, state["method"], route, answer.status)
        answered.inc()
        duration.observe(waited)
        fields = {"status": answer.status, "milliseconds": round((ended - started) * 1000, 2)}
        if (reason := state.get(REFUSED_SCOPE_KEY)) is not None:
            REFUSALS.labels(self._service, reason).inc()
            fields["reason"] = reason
        if span is not None:
            tracing.answered(
                span,
                method=state["method"],
                route=route,
                status=answer.status,
                request_id=state[REQUEST_ID_SCOPE_KEY],
            )
        tell = log.warning if _needs_a_look(state["path"], answer.status, waited) else log.info
        tell("request", service=self._service, method=state["method"], path=state["path"], **fields)


def request_id(headers: Iterable[tuple[bytes, bytes]], clock: Clock) -> str:
    """The id of a request: the client's own where that is a good one, else a new one."""
    given = [value for name, value in headers if name == b"x-request-id"]
    if len(given) == 1 and _REQUEST_ID.match(given[0]):
        return given[0].decode("ascii")
    return new_id("req", clock())


def _ends_at(headers: Iterable[tuple[bytes, bytes]]) -> float | None:
    given = [value for name, value in headers if name == _TIME_LEFT]
    return ends_at(given[0]) if given else None


def _needs_a_look(path: str, status: int, waited_seconds: float) -> bool:
    """Whether a request is for who looks for trouble; that nobody answered (0) is the client's leaving.

    Of "not ready", asked for every second or two, there is a line with the reason already.
    """
    failed = status >= HTTPStatus.INTERNAL_SERVER_ERROR and not path.startswith("/health/")
    return failed or waited_seconds > SLOW_SECONDS


@lru_cache(maxsize=2048)
def _metrics(service: str, method: str, route: str, status: int) -> tuple[Counter, Histogram]:
    """The series of one kind of request; looking them up by their labels is slower than counting."""
    return REQUESTS.labels(service, method, route, str(status)), REQUEST_SECONDS.labels(service, route)


class _Answer:
    """Puts our headers on an answer and remembers its status, and when it began."""

    def __init__(self, send: Send, id_of_request: str) -> None:
        self._send = send
        self._headers = headers_of_answer(id_of_request)
        self.status = 0
        self.began = 0.0

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.began = time.perf_counter()
            given = {name.lower() for name, _ in message["headers"]}
            message["headers"] = [
                *message["headers"],
                *(header for header in self._headers if header[0] not in given),
            ]
        await self._send(message)


def headers_of_answer(id_of_request: str) -> list[tuple[bytes, bytes]]:
    """What every answer says."""
    return [
        (b"x-request-id", id_of_request.encode("ascii")),
        (b"x-content-type-options", b"nosniff"),
        (b"cache-control", b"no-store"),
    ]


def out_of_bounds(state: dict[str, Any], maximum_body_bytes: int) -> Refusal | None:
    """Whether a request's head is larger than we read, or announces a body that is."""
    headers = state["headers"]
    if sum(len(name) + len(value) for name, value in headers) > MAXIMUM_HEADER_BYTES:
        return headers_too_large()
    if len(state["raw_path"]) + len(state["query_string"]) > MAXIMUM_URI_BYTES:
        return uri_too_long()
    length = next((value for name, value in headers if name == b"content-length"), b"0")
    if not length.isdigit():
        return Refusal(Reason.MALFORMED_REQUEST, "Content-Length is not a number.")
    if int(length) > maximum_body_bytes:
        return too_large(maximum_body_bytes)
    return None


def headers_too_large() -> Refusal:
    """Headers over the bound."""
    return Refusal(Reason.HEADER_TOO_LARGE, f"The headers are over {MAXIMUM_HEADER_BYTES} bytes.")


def uri_too_long() -> Refusal:
    """An address over the bound."""
    return Refusal(Reason.URI_TOO_LONG, f"The address is over {MAXIMUM_URI_BYTES} bytes.")


def too_large(maximum_bytes: int = MAXIMUM_BODY_BYTES) -> Refusal:
    """A body over the bound."""
    return Refusal(Reason.CONTENT_TOO_LARGE, f"The body is over {maximum_bytes} bytes.")


async def send_problem(state: dict[str, Any], send: Send, refusal: Refusal) -> None:
    """Answer with a problem without a framework at hand."""
    state[REFUSED_SCOPE_KEY] = refusal.reason.value
    headers, body = rendered(refusal, instance=state["path"], id_of_request=state[REQUEST_ID_SCOPE_KEY])
    await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})


def rendered(refusal: Refusal, *, instance: str, id_of_request: str) -> tuple[list[tuple[bytes, bytes]], bytes]:
    """A problem as headers and body."""
    body = encode(problem(refusal, instance=instance, request_id=id_of_request))
    headers = [
        (b"content-type", MEDIA_TYPE.encode("ascii")),
        (b"content-length", str(len(body)).encode("ascii")),
        *((name.lower().encode("ascii"), value.encode("ascii")) for name, value in problem_headers(refusal).items()),
    ]
    return headers, body
