"""The gateway in front of small services of the tests, and clients that may say what no decent client says."""

import asyncio
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from itertools import count
from pathlib import Path
from typing import Any, Literal, TypeAlias

import httpx2
import msgspec
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from litestar import Litestar, Request, get, post
from litestar.handlers import HTTPRouteHandler
from litestar.params import JSONBody
from litestar.response import Stream
from litestar.types import ASGIApp, Message

from ewallet.gateway.app import create_app
from ewallet.gateway.client import Backend, DirectBackend, HttpBackend
from ewallet.gateway.domain import GATEWAY, LARGE_BODIES, SERVICES
from ewallet.kernel.caller import Role
from ewallet.kernel.clock import system_clock
from ewallet.plumbing.http.application import service_application
from ewallet.plumbing.http.contract import EVERYONE, caller_of, internal, protected, public
from ewallet.plumbing.settings import Settings
from ewallet.plumbing.tokens import AUDIENCE, ISSUER, Badge, PublicKeys, Verifier, sign
from tests.servers.haproxy import running_haproxy, written
from tests.support.notification import serving
from tests.support.ports import free_port

KEY = generate_private_key(SECP256R1())
KEY_ID = "key-1"
INTERNAL_SECRET = "a secret that only the services of this test know"

_numbers = count(1)


A_DAY_SECONDS = 24 * 3600
"""Longer than any run: tokens that are wrong in one way, made while tests are collected, shall not expire as well."""


def claims(subject: str = "usr_ann", role: str = Role.CUSTOMER, *, seconds: int = A_DAY_SECONDS) -> dict[str, Any]:
    now = int(time.time())
    return {
        "iss": ISSUER,
        "sub": subject,
        "aud": AUDIENCE,
        "exp": now + seconds,
        "iat": now,
        "jti": f"jti-{next(_numbers)}",
        "role": role,
    }


def bearer(subject: str = "usr_ann", role: Role = Role.CUSTOMER, *, seconds: int = A_DAY_SECONDS) -> dict[str, str]:
    return {"Authorization": f"Bearer {sign(claims(subject, role, seconds=seconds), KEY, KEY_ID)}"}


def verifier() -> Verifier:
    async def fetch_keys() -> PublicKeys:
        return {KEY_ID: KEY.public_key()}

    return Verifier(fetch_keys, system_clock)


class Order(msgspec.Struct, forbid_unknown_fields=True):
    """The body of the small services' one POST."""

    amount: int


class Orders(msgspec.Struct, forbid_unknown_fields=True):
    """The body of their large one."""

    orders: list[Order]


class SmallService:
    """Answers with what it was told, so that a test sees what the gateway let through."""

    def __init__(self) -> None:
        self.entered = asyncio.Event()
        """Set when the slow call is being answered."""
        self.go_on = asyncio.Event()
        """Set for the slow call's answer and for the stream's second event."""
        self.stream_ended = asyncio.Event()
        self.trouble: Exception | None = None

    async def check(self) -> None:
        if self.trouble is not None:
            raise self.trouble

    def application(self, name: str) -> Litestar:
        return service_application(
            name=name,
            routes=self._routes(name),
            verifier=verifier(),
            internal_secret=INTERNAL_SECRET,
            ready=self.check,
        )

    def _routes(self, name: str) -> Sequence[HTTPRouteHandler]:
        match name:
            case "auth":
                return _auth_routes()
            case "payment":
                return self._payment_routes()
            case "notification":
                return self._notification_routes()
            case _:
                return []

    def _payment_routes(self) -> Sequence[HTTPRouteHandler]:
        @post("/payment/initiate", **protected(EVERYONE))
        async def initiate(request: Request[Any, Any, Any], data: JSONBody[Order]) -> dict[str, Any]:
            return {**_heard(request), "amount": data.amount}

        @post("/payment/bulk", **protected(EVERYONE, body_bytes=LARGE_BODIES["/payment/bulk"]))
        async def bulk(data: JSONBody[Orders]) -> int:
            return len(data.orders)

        @get("/payment", **protected(EVERYONE))
        async def listing(request: Request[Any, Any, Any]) -> dict[str, Any]:
            return _heard(request)

        @get("/payment/slow", **protected(EVERYONE))
        async def slow() -> dict[str, Any]:
            self.entered.set()
            await self.go_on.wait()
            return {}

        @post("/internal/payment/orders", **internal())
        async def order() -> dict[str, Any]:
            raise AssertionError("the gateway led somebody in")

        return [initiate, bulk, listing, slow, order]

    def _notification_routes(self) -> Sequence[HTTPRouteHandler]:
        @get("/notification/stream", media_type="text/event-stream", **protected(EVERYONE))
        async def stream() -> Stream:
            return Stream(self._events())

        return [stream]

    async def _events(self) -> AsyncIterator[bytes]:
        try:
            yield b"data: first\n\n"
            await self.go_on.wait()
            yield b"data: second\n\n"
            await asyncio.Event().wait()
        finally:
            self.stream_ended.set()


def _auth_routes() -> Sequence[HTTPRouteHandler]:
    @post("/auth/login", status_code=200, **public())
    async def login(request: Request[Any, Any, Any]) -> dict[str, Any]:
        return {"headers": _headers(request)}

    return [login]


def _heard(request: Request[Any, Any, Any]) -> dict[str, Any]:
    caller = caller_of(request)
    return {"subject": caller.subject, "requestId": caller.request_id, "headers": _headers(request)}


def _headers(request: Request[Any, Any, Any]) -> dict[str, list[str]]:
    return {name: request.headers.getall(name) for name in request.headers}


def direct_backends(service: SmallService) -> dict[str, Backend]:
    return {name: DirectBackend(service.application(name)) for name in SERVICES}


def new_gateway(backends: Mapping[str, Backend], **settings: Any) -> ASGIApp:
    return create_app(
        _settings(**settings),
        verifier=verifier(),
        internal_secret=INTERNAL_SECRET,
        backends=backends,
    )


def _settings(**settings: Any) -> Settings:
    return Settings(**{"rate_per_user": 0, "rate_per_address": 0, **settings})


def client_of(application: ASGIApp, address: str = "192.0.2.7") -> httpx2.AsyncClient:
    """A client at an address, without a socket between."""
    transport = httpx2.ASGITransport(application, client=(address, 4711))  # type: ignore[arg-type]  # its types know no WebSocket
    return httpx2.AsyncClient(transport=transport, base_url="http://gateway", trust_env=False)


# --- two gateways, one behaviour ----------------------------------------------------------------------------------

Front: TypeAlias = Literal["python", "haproxy"]
FRONTS: tuple[Front, ...] = ("python", "haproxy")

NewClient: TypeAlias = Callable[..., httpx2.AsyncClient]
"""Makes a client of a gateway, at an address of the loopback network: ``new_client("127.0.0.8")``."""

CLIENT_ADDRESS = "127.0.0.7"


def opened(
    front: Front, service: SmallService, scratch: Path, **settings: Any
) -> AbstractAsyncContextManager[NewClient]:
    """A gateway of either kind in front of the small services."""
    if front == "python":
        return _python(service, **settings)
    return _haproxy(service, scratch, **settings)


@asynccontextmanager
async def _python(service: SmallService, **settings: Any) -> AsyncIterator[NewClient]:
    gateway = new_gateway(direct_backends(service), **settings)

    def new_client(address: str = CLIENT_ADDRESS) -> httpx2.AsyncClient:
        return client_of(gateway, address)

    yield new_client


@asynccontextmanager
async def _haproxy(service: SmallService, scratch: Path, **settings: Any) -> AsyncIterator[NewClient]:
    async with AsyncExitStack() as cleanup:
        urls = {}
        for name in SERVICES:
            urls[name], _ = await cleanup.enter_async_context(serving(service.application(name)))
        cleanup.callback(service.go_on.set)  # a server waits for its answers, and nobody waits for the slow one
        badge = Badge(GATEWAY, INTERNAL_SECRET, system_clock)
        own = new_gateway({name: HttpBackend(name, url, badge=badge) for name, url in urls.items()})
        urls[GATEWAY], _ = await cleanup.enter_async_context(serving(own))
        folder = Path(cleanup.enter_context(tempfile.TemporaryDirectory(dir=scratch)))
        made = _settings(port=free_port(), **settings)
        servers = {name: [url.removeprefix("http://")] for name, url in urls.items()}
        file = written(folder, made, servers, {KEY_ID: KEY.public_key()})
        cleanup.enter_context(running_haproxy(file))

        def new_client(address: str = CLIENT_ADDRESS) -> httpx2.AsyncClient:
            transport = httpx2.AsyncHTTPTransport(local_address=address)
            base_url = f"http://127.0.0.1:{made.port}"
            return httpx2.AsyncClient(transport=transport, base_url=base_url, headers={"Host": "gateway"})

        yield new_client


async def ask(
    application: ASGIApp,
    method: str,
    path: str,
    *,
    headers: Mapping[str, str],
    receive: Callable[[], Any],
) -> tuple[int, dict[str, Any]]:
    """One request whose body comes as ``receive`` says; status and problem."""
    scope: Any = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(name.lower().encode(), value.encode()) for name, value in headers.items()],
        "client": ("192.0.2.7", 4711),
        "server": ("gateway", 80),
    }
    sent: list[Any] = []

    async def send(message: Message) -> None:
        sent.append(message)

    await application(scope, receive, send)
    start, *bodies = sent
    return start["status"], msgspec.json.decode(b"".join(message["body"] for message in bodies))
