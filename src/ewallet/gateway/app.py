"""The gateway put together."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager

from litestar import Litestar
from litestar.types import ASGIApp

from ewallet.gateway.api import Front, routes
from ewallet.gateway.client import Backend, DirectBackend
from ewallet.gateway.domain import GATEWAY, LARGE_BODIES
from ewallet.gateway.service import GatewayService
from ewallet.kernel.clock import Clock, system_clock
from ewallet.plumbing.http.addresses import trusted_proxies
from ewallet.plumbing.http.application import Lifespan, service_application
from ewallet.plumbing.http.edge import Edge
from ewallet.plumbing.settings import Settings
from ewallet.plumbing.tokens import Verifier


def create_app(
    settings: Settings,
    *,
    verifier: Verifier,
    internal_secret: str,
    backends: Mapping[str, Backend],
    lifespan: Sequence[Lifespan] = (),
    clock: Clock = system_clock,
) -> ASGIApp:
    """The gateway before ``backends``, which it closes at its end; ``lifespan`` runs around its own."""
    doors = dict(backends)
    service = GatewayService(settings, verifier=verifier, backends=doors)

    @asynccontextmanager
    async def closing(_application: Litestar) -> AsyncIterator[None]:
        yield
        for backend in doors.values():
            await backend.close()

    own = service_application(
        name=GATEWAY,
        routes=routes(service),
        verifier=verifier,
        internal_secret=internal_secret,
        lifespan=[*lifespan, closing],
        trusted_proxies=trusted_proxies(settings.trusted_proxies),
    )
    doors[GATEWAY] = DirectBackend(own)
    front = Front(
        service,
        own=own,
        backends=doors,
        trusted=trusted_proxies(settings.trusted_proxies),
        request_seconds=settings.request_seconds,
    )
    return Edge(front, service=GATEWAY, clock=clock, large_bodies=LARGE_BODIES)
