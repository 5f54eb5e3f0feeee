"""The gateway over HTTP: the front through which every request passes, and the gateway's own pages."""

from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

from litestar import Litestar, MediaType, Request, Response, get
from litestar.enums import ScopeType
from litestar.handlers import HTTPRouteHandler
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import FromPath
from litestar.types import HTTPScope, LifeSpanScope, Message, Receive, Scope, Send

from ewallet.gateway.client import Backend
from ewallet.gateway.domain import NOTHING_HERE, forwarded_headers, route_of, too_late, too_slow
from ewallet.gateway.messages import ProblemPage, Readiness
from ewallet.gateway.service import GatewayService
from ewallet.kernel.errors import OutcomeUnknown, Overloaded, Reason, Refusal, Refused, kind_of, status_of
from ewallet.plumbing.deadlines import TimeLimit, request_ends_at
from ewallet.plumbing.http.addresses import TrustedProxies, address_of, came_by_a_stranger, forwarded_chain, peer_of
from ewallet.plumbing.http.bodies import read_body
from ewallet.plumbing.http.contract import accepts, public
from ewallet.plumbing.http.edge import MAXIMUM_BODY_BYTES, send_problem
from ewallet.plumbing.http.operations import Live, is_stopping, metrics_page, status_of_state
from ewallet.plumbing.http.problems import EXPLANATIONS, REQUEST_ID_SCOPE_KEY, TITLES, refusal_of

# --- the front ----------------------------------------------------------------------------------------------------


class Front:
    """Passes every request on to its service, or answers why not.

    Written against ASGI itself, because it is in front of every payment: a framework would double its cost.
    """

    def __init__(
        self,
        service: GatewayService,
        *,
        own: Litestar,
        backends: Mapping[str, Backend],
        trusted: TrustedProxies,
        request_seconds: int,
    ) -> None:
        self._service = service
        self._own = own
        self._backends = backends
        self._trusted = trusted
        self._seconds = request_seconds
        self._limit = TimeLimit(request_seconds)

    async def __call__(self, scope: Scope | LifeSpanScope, receive: Receive, send: Send) -> None:
        """Serve one request, or the lifespan."""
        if scope["type"] == "lifespan":
            await self._own(scope, receive, send)
        elif scope["type"] == ScopeType.WEBSOCKET:
            # Nothing here speaks WebSocket. Closing before accepting is answered by the server with a 403.
            await send({"type": "websocket.close", "code": 1000, "reason": None})
        else:
            await self._serve(scope, receive, send)

    async def _serve(self, scope: HTTPScope, receive: Receive, send: Send) -> None:
        answer = _Answer(send, head_only=scope["method"] == "HEAD")
        try:
            refusal = await self._forward(scope, receive, answer)
        except (OutcomeUnknown, Overloaded, Refused) as error:
            if answer.started:
                raise
            refusal = refusal_of(error)
        if refusal is not None:
            await send_problem(_state(scope), answer.send, refusal)

    async def _forward(self, scope: HTTPScope, receive: Receive, answer: "_Answer") -> Refusal | None:
        """Pass a request on and its answer back. A refusal: it is not to be, or there was no answer in time."""
        route = route_of(scope["method"], scope["path"])
        if route is None or (route.secret and came_by_a_stranger(scope, self._trusted)):
            return NOTHING_HERE
        address = address_of(scope, self._trusted)
        body_bytes = 0 if route.body_bytes is None else _announced_bytes(scope, route.body_bytes)
        if refusal := await self._service.admit(
            route, address=address, authorization=_authorization(scope), body_bytes=body_bytes
        ):
            return refusal
        body, deadline = None, self._limit.begin()
        try:
            with deadline:
                body = await read_body(
                    receive, route.body_bytes or MAXIMUM_BODY_BYTES
                )  # so that a service never waits for a slow client
                if route.stream:
                    deadline.lift()
                else:
                    request_ends_at.set(deadline.at)
                await self._backends[route.service].forward(self._rewritten(scope, body), body, receive, answer.send)
        except TimeoutError:
            if answer.started or not deadline.expired:
                raise
            return too_slow(self._seconds) if body is None else too_late(self._seconds)
        return None

    def _rewritten(self, scope: HTTPScope, body: bytes) -> HTTPScope:
        """The scope that the service sees: the same object, so that it can leave its route there for the metrics."""
        peer = peer_of(scope)
        chain = [*forwarded_chain(scope), peer] if peer in self._trusted else [peer]
        scope["headers"] = forwarded_headers(
            list(scope["headers"]),
            request_id=_state(scope)[REQUEST_ID_SCOPE_KEY],
            body_bytes=len(body),
            addresses=", ".join(chain),
        )
        if scope["method"] == "HEAD":
            return {**scope, "method": "GET"}
        return scope


class _Answer:
    """Remembers whether an answer has begun; of the answer to HEAD, sends the head only."""

    def __init__(self, send: Send, *, head_only: bool) -> None:
        self._send = send
        self._head_only = head_only
        self.started = False

    async def send(self, message: Message) -> None:
        if not self.started:
            self.started = True
            await self._send(message)
            if self._head_only:
                await self._send({"type": "http.response.body", "body": b"", "more_body": False})
        elif not self._head_only:
            await self._send(message)


def _state(scope: HTTPScope) -> dict[str, Any]:
    """The scope as a plain dictionary, in which our own keys stand beside ASGI's."""
    return scope  # type: ignore[return-value]  # a TypedDict is one


def _announced_bytes(scope: HTTPScope, maximum: int) -> int:
    """How large a body is that may be large; one that does not say so may be as large as can be."""
    return next((int(value) for name, value in scope["headers"] if name == b"content-length"), maximum)


def _authorization(scope: HTTPScope) -> list[str]:
    return [value.decode("latin-1") for name, value in scope["headers"] if name == b"authorization"]


# --- the gateway's own pages --------------------------------------------------------------------------------------

_STATIC = Path(__file__).parent / "static"

_FILES = {
    "docs.css": "text/css",
    "docs.js": "text/javascript",
    "swagger-ui.css": "text/css",
    "swagger-ui-bundle.js": "text/javascript",
}
"""What the pages load, with its media type. Nothing comes from anywhere else."""

_DAY_SECONDS = 24 * 3600

# Swagger UI sets styles on elements and draws its icons from data: addresses; it needs nothing else that is unsafe.
_CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_PAGE_HEADERS = {"Content-Security-Policy": _CONTENT_SECURITY_POLICY, "Referrer-Policy": "no-referrer"}


_PAGE_OR_JSON = ("text/html", "application/json")

_NOT_READY = ResponseSpec(Readiness, description="at least one service is not ready", generate_examples=False)
_READY_RESPONSES = {**public()["responses"], 503: _NOT_READY}


def routes(service: GatewayService) -> list[HTTPRouteHandler]:
    """The gateway's own pages; all are for anyone."""

    @get("/health/live", sync_to_thread=False, **public())
    def health_live() -> Live:
        """Whether the gateway answers at all."""
        return Live()

    @get("/health/ready", **{**public(), "responses": _READY_RESPONSES})
    async def health_ready(request: Request[Any, Any, Any]) -> Response[Readiness]:
        """Whether the platform can work, and which service stands in the way; 503 where one does."""
        readiness = await service.readiness(stopping=is_stopping(request))
        return Response(readiness, status_code=status_of_state(readiness.status))

    @get("/metrics", media_type=MediaType.TEXT, sync_to_thread=False, **public())
    def metrics(request: Request[Any, Any, Any]) -> Response[bytes]:
        """What this process counts, for Prometheus; a public address finds nothing here."""
        return metrics_page(request)

    @get("/openapi.json", **public())
    async def openapi() -> dict[str, Any]:
        """This document: every call of every service."""
        return await service.document()

    @get("/docs", media_type=MediaType.HTML, sync_to_thread=False, **public())
    def docs() -> Response[bytes]:
        """A page that shows this document and sends calls."""
        return Response((_STATIC / "docs.html").read_bytes(), headers=_PAGE_HEADERS)

    @get("/docs/{file_name:str}", include_in_schema=False, sync_to_thread=True, **public())
    def docs_file(file_name: FromPath[str]) -> Response[bytes]:
        media_type = _FILES.get(file_name)
        if media_type is None:
            raise Refused(NOTHING_HERE)
        headers = {"Cache-Control": f"public, max-age={_DAY_SECONDS}"}
        return Response((_STATIC / file_name).read_bytes(), media_type=media_type, headers=headers)

    @get("/problems/{slug:str}", media_type=MediaType.HTML, sync_to_thread=False, **public(produces=_PAGE_OR_JSON))
    def problem_page(request: Request[Any, Any, Any], slug: FromPath[str]) -> Response[Any]:
        """What a problem means and what to do about it, as HTML or, where that is preferred, as JSON."""
        page = _explanation(slug)
        if accepts(request.headers.get("accept", "*/*"), MediaType.HTML):
            return Response(_as_html(page), media_type=MediaType.HTML, headers=_PAGE_HEADERS)
        return Response(page, media_type=MediaType.JSON)

    return [health_live, health_ready, metrics, openapi, docs, docs_file, problem_page]


def _explanation(slug: str) -> ProblemPage:
    try:
        reason = Reason(slug)
    except ValueError as error:
        raise Refused(NOTHING_HERE) from error
    return ProblemPage(
        type=f"/problems/{slug}",
        title=TITLES[reason],
        status=status_of(kind_of(reason)),
        meaning=EXPLANATIONS[reason].meaning,
        advice=EXPLANATIONS[reason].advice,
    )


def _as_html(page: ProblemPage) -> str:
    title, meaning, advice = escape(page.title), escape(page.meaning), escape(page.advice)
    return f"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<link rel="stylesheet" href="/docs/docs.css">
<main>
  <p class="status">{page.status}</p>
  <h1>{title}</h1>
  <p>{meaning}</p>
  <h2>What to do</h2>
  <p>{advice}</p>
  <p class="type"><code>{escape(page.type)}</code></p>
</main>
</html>
"""
