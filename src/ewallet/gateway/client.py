"""The gateway's doors to the services: a call in this process, or HTTP to another one."""

import asyncio
import time
from collections.abc import Coroutine
from http import HTTPStatus
from typing import Any, Protocol

import httpx2
import msgspec
from litestar.types import ASGIApp, HTTPScope, Receive, ReceiveMessage, Send
from opentelemetry.trace import SpanKind

from ewallet.kernel.errors import OutcomeUnknown, Overloaded, Reason, Refusal, Refused
from ewallet.plumbing import tracing
from ewallet.plumbing.deadlines import TIME_LEFT_HEADER, request_ends_at
from ewallet.plumbing.http.contract import BADGE_HEADER
from ewallet.plumbing.http.doors import KEEP_ALIVE_SECONDS
from ewallet.plumbing.http.problems import REQUEST_ID_SCOPE_KEY
from ewallet.plumbing.http.replicas import Replicas
from ewallet.plumbing.tokens import Badge

CONNECTIONS = 1000
"""To one service. Streams keep theirs, so this bounds the people who look at their inbox through one gateway."""

CONNECT_SECONDS = 2

_NOT_ABOUT_THE_ANSWER = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
        b"date",
        b"server",
    }
)
"""A service's headers about its connection to us (RFC 9110, section 7.6.1) and about its server; we have our own."""

EVENT_STREAM = "text/event-stream"


class Backend(Protocol):
    """A service as the gateway sees it."""

    async def forward(self, scope: HTTPScope, body: bytes, receive: Receive, send: Send) -> None:
        """Pass a request on, with the headers in ``scope``, and its answer back.

        ``receive`` tells when the client leaves. Where nothing has been sent yet: Overloaded (the service did not get
        the request), OutcomeUnknown (it may have acted on it).
        """

    async def get(self, path: str) -> tuple[int, Any]:
        """Status and JSON of a page that the service shows to its operators. Raises where it cannot be had."""

    async def close(self) -> None:
        """Close what is open."""


class DirectBackend:
    """A service in this process, called as the ASGI application that it is.

    It gets the same scope object, in which it leaves the path's template for the gateway's metrics.
    """

    def __init__(self, application: ASGIApp) -> None:
        self._application = application
        self._client = httpx2.AsyncClient(transport=httpx2.ASGITransport(self._as_operator), base_url="http://direct")

    async def forward(self, scope: HTTPScope, body: bytes, receive: Receive, send: Send) -> None:
        await self._application(scope, _after_body(body, receive), send)

    async def get(self, path: str) -> tuple[int, Any]:
        return await _get(self._client, path)

    async def close(self) -> None:
        await self._client.aclose()

    async def _as_operator(self, scope: Any, receive: Any, send: Any) -> None:
        """No client's request, so it has no id, no log line, and does not count in the metrics."""
        scope[REQUEST_ID_SCOPE_KEY] = "operator"
        await self._application(scope, receive, send)


class HttpBackend:
    """A service in other processes, reached at ``urls``; the ``badge`` shows them that we are its gateway."""

    def __init__(self, service: str, *urls: str, badge: Badge) -> None:
        self._service = service
        self._badge = badge
        # No time limit here: the gateway limits the whole request, and streams have none.
        self._client = httpx2.AsyncClient(
            timeout=httpx2.Timeout(None, connect=CONNECT_SECONDS, pool=CONNECT_SECONDS),
            limits=httpx2.Limits(max_connections=CONNECTIONS, keepalive_expiry=KEEP_ALIVE_SECONDS),
            trust_env=False,
        )
        self._replicas = Replicas(urls, self._client)

    async def forward(self, scope: HTTPScope, body: bytes, receive: Receive, send: Send) -> None:
        route = scope["path_template"] = f"/{self._service}/*"
        with tracing.span("gateway", f"{scope['method']} {route}", kind=SpanKind.CLIENT):
            response = await self._send(scope, body)
        try:
            headers = [
                (name.lower(), value)
                for name, value in response.headers.raw
                if name.lower() not in _NOT_ABOUT_THE_ANSWER
            ]
            await send({"type": "http.response.start", "status": response.status_code, "headers": headers})
            if response.headers.get("content-type", "").startswith(EVENT_STREAM):
                await _until_left(receive, _pass_body(response, send))
            else:
                await _pass_body(response, send)
        finally:
            await response.aclose()

    async def get(self, path: str) -> tuple[int, Any]:
        """Of several processes, the first that answers well speaks for the service."""
        asking = [asyncio.create_task(_get(self._client, replica.url + path)) for replica in self._replicas]
        answer: tuple[int, Any] | None = None
        failure: Exception = Overloaded(f"{self._service} cannot be reached")
        try:
            for answering in asyncio.as_completed(asking):
                try:
                    answer = await answering
                except httpx2.HTTPError as error:
                    failure = error
                    continue
                if answer[0] == HTTPStatus.OK:
                    break
        finally:
            for task in asking:
                task.cancel()
            await asyncio.gather(*asking, return_exceptions=True)
        if answer is None:
            raise failure
        return answer

    async def close(self) -> None:
        self._replicas.close()
        await self._client.aclose()

    async def _send(self, scope: HTTPScope, body: bytes) -> httpx2.Response:
        """The service's answer, with its body still to be read.

        Overloaded: no process of it got the request. OutcomeUnknown: one got it and did not answer. Refused: it cannot
        be sent.
        """
        headers = [*tracing.onward(list(scope["headers"])), *self._own_headers()]
        for _ in self._replicas:
            replica = self._replicas.take()
            request = httpx2.Request(scope["method"], _url(replica.url, scope), headers=headers, content=body)
            try:
                response = await self._client.send(request, stream=True)
            except (httpx2.ConnectError, httpx2.ConnectTimeout):
                replica.went_away()
                continue  # to the next one: this one has not heard of it
            except httpx2.PoolTimeout as error:
                raise Overloaded(f"{self._service}: all connections are in use") from error
            except httpx2.LocalProtocolError as error:  # nothing was sent, and no replica is to blame
                raise Refused(Refusal(Reason.MALFORMED_REQUEST, "The headers are not valid HTTP/1.1.")) from error
            except httpx2.HTTPError as error:
                replica.failed()
                raise OutcomeUnknown(f"{self._service}: {type(error).__name__}") from error
            except asyncio.CancelledError:  # the time is over, as a rule
                replica.failed()
                raise
            replica.answered(response)
            return response
        raise Overloaded(f"{self._service} cannot be reached")

    def _own_headers(self) -> list[tuple[bytes, bytes]]:
        """What a service gets to know from the gateway alone."""
        own = [(BADGE_HEADER, self._badge.token().encode("ascii"))]
        if (ends_at := request_ends_at.get()) is not None:
            milliseconds = max(0, int((ends_at - time.monotonic()) * 1000))
            own.append((TIME_LEFT_HEADER.encode("ascii"), b"%d" % milliseconds))
        return own


def _url(base: str, scope: HTTPScope) -> httpx2.URL:
    """The same address, byte by byte: decoding and encoding again could change what it means.

    Refused: it has bytes that no address may have.
    """
    query = b"?" + scope["query_string"] if scope["query_string"] else b""
    try:
        return httpx2.URL(base).copy_with(raw_path=scope["raw_path"] + query)
    except (httpx2.InvalidURL, UnicodeDecodeError) as error:
        raise Refused(Refusal(Reason.MALFORMED_REQUEST, "The address has characters that must be encoded.")) from error


async def _get(client: httpx2.AsyncClient, url: str) -> tuple[int, Any]:
    response = await client.get(url)
    return response.status_code, msgspec.json.decode(response.content)


def _after_body(body: bytes, receive: Receive) -> Receive:
    """The client's messages as a service sees them: the whole body, then what happens to the connection."""
    messages: list[ReceiveMessage] = [{"type": "http.request", "body": body, "more_body": False}]

    async def next_message() -> ReceiveMessage:
        return messages.pop() if messages else await receive()

    return next_message


async def _pass_body(response: httpx2.Response, send: Send) -> None:
    async for chunk in response.aiter_raw():
        await send({"type": "http.response.body", "body": chunk, "more_body": True})
    await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _until_left(receive: Receive, passing: Coroutine[Any, Any, None]) -> None:
    """Pass a stream on for as long as the client is there: a server does not stop an answer that nobody reads."""
    async with asyncio.TaskGroup() as tasks:
        working = tasks.create_task(passing)
        leaving = tasks.create_task(_left(receive))
        working.add_done_callback(lambda _: leaving.cancel())
        leaving.add_done_callback(lambda _: working.cancel())


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
