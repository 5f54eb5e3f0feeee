"""The two ways to run the very same services: all in one process, or one of them alone.

Together, services call each other's use cases directly and the gateway calls them as ASGI applications. Alone, every
call between services goes over HTTP, by the addresses in the settings.
"""

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from litestar import Litestar
from litestar.types import ASGIApp

import ewallet.auth.app
import ewallet.gateway.app
import ewallet.notification.app
import ewallet.payment.app
import ewallet.wallet.app
from ewallet.auth.client import HttpAuth
from ewallet.auth.service import AuthService
from ewallet.gateway.client import DirectBackend, HttpBackend
from ewallet.gateway.domain import GATEWAY, LARGE_BODIES, STREAMS
from ewallet.kernel.clock import system_clock
from ewallet.kernel.errors import Refusal
from ewallet.notification.client import HttpNotification
from ewallet.plumbing.cores import CAN_BIND, LOOK_SECONDS, OneCore, roam
from ewallet.plumbing.http.application import House
from ewallet.plumbing.http.doors import Door
from ewallet.plumbing.http.edge import Edge
from ewallet.plumbing.http.streams import EndingStreams
from ewallet.plumbing.secrets import internal_secret
from ewallet.plumbing.settings import SERVICES, Settings, SettingsError
from ewallet.plumbing.tokens import Badge, PublicKeys, Verifier
from ewallet.plumbing.worker import run_forever, working
from ewallet.wallet.client import LINKED_PATH, MAXIMUM_LINKED_BYTES, HttpWallet


def create_together(settings: Settings, *, stopping: asyncio.Event | None = None) -> ASGIApp:
    """The whole platform behind its gateway, on migrated databases.

    ``stopping`` is set by a server that is about to stop, so that it need not wait for streams. SettingsError: a
    service cannot work with these settings.
    """
    secret = internal_secret(settings)

    async def fetch_keys() -> PublicKeys:
        return await auth.service.public_keys()

    verifier = Verifier(fetch_keys, system_clock)
    notification = ewallet.notification.app.create_app(settings, verifier=verifier, internal_secret=secret)
    wallet = ewallet.wallet.app.create_app(
        settings, verifier=verifier, internal_secret=secret, notification=notification.service
    )
    auth = ewallet.auth.app.create_app(settings, verifier=verifier, internal_secret=secret, wallet=wallet.service)
    payment = ewallet.payment.app.create_app(
        settings,
        verifier=verifier,
        internal_secret=secret,
        wallet=wallet.service,
        notification=notification.service,
    )
    _make_first_administrator(settings, auth)
    houses: list[House[Any]] = [notification, wallet, auth, payment]
    gateway = ewallet.gateway.app.create_app(
        settings,
        verifier=verifier,
        internal_secret=secret,
        backends={house.name: DirectBackend(house.application) for house in houses},
        lifespan=[partial(_on_one_core, settings), *(house.lifespan for house in houses)],
    )
    return _ending_streams(gateway, stopping)


def create_alone(settings: Settings, service: str, *, stopping: asyncio.Event | None = None) -> ASGIApp:
    """One service on its migrated database, or the gateway, with HTTP doors to the others.

    ``stopping`` as above. SettingsError: the address of a service that this one needs is not configured, or it cannot
    work with these settings.
    """
    doors = _Doors(settings, service)
    if service == GATEWAY:
        return _ending_streams(_gateway_alone(settings, doors), stopping)
    house = _house_alone(settings, service, doors)
    house.application.on_shutdown.append(doors.close)
    large_bodies = LARGE_BODIES | {LINKED_PATH: MAXIMUM_LINKED_BYTES}
    edge = Edge(house.application, service=service, clock=system_clock, large_bodies=large_bodies)
    return _ending_streams(edge, stopping)


class _Doors:
    """The ways of a process that runs one service to the others."""

    def __init__(self, settings: Settings, caller: str) -> None:
        self._settings = settings
        self._caller = caller
        self._open: list[Door] = []
        self.secret = internal_secret(settings)

    def to(self, service: str) -> Door:
        urls = self._settings.service_urls(service)
        door = Door(*urls, caller=self._caller, secret=self.secret, clock=system_clock)
        self._open.append(door)
        return door

    def verifier(self) -> Verifier:
        return Verifier(HttpAuth(self.to("auth")).public_keys, system_clock)

    async def close(self) -> None:
        for door in self._open:
            await door.close()

    @asynccontextmanager
    async def lifespan(self, _application: Litestar) -> AsyncIterator[None]:
        yield
        await self.close()


def _gateway_alone(settings: Settings, doors: _Doors) -> ASGIApp:
    badge = Badge(GATEWAY, doors.secret, system_clock)
    return ewallet.gateway.app.create_app(
        settings,
        verifier=doors.verifier(),
        internal_secret=doors.secret,
        backends={service: HttpBackend(service, *settings.service_urls(service), badge=badge) for service in SERVICES},
        lifespan=[doors.lifespan],
    )


def _house_alone(settings: Settings, service: str, doors: _Doors) -> House[Any]:
    match service:
        case "auth":
            return _auth_alone(settings, doors)
        case "wallet":
            return ewallet.wallet.app.create_app(
                settings,
                verifier=doors.verifier(),
                internal_secret=doors.secret,
                notification=HttpNotification(doors.to("notification")),
            )
        case "payment":
            return ewallet.payment.app.create_app(
                settings,
                verifier=doors.verifier(),
                internal_secret=doors.secret,
                wallet=HttpWallet(doors.to("wallet")),
                notification=HttpNotification(doors.to("notification")),
            )
        case "notification":
            return ewallet.notification.app.create_app(
                settings, verifier=doors.verifier(), internal_secret=doors.secret
            )
    raise SettingsError(f"{service} is no service: {', '.join((*SERVICES, GATEWAY))} are.")


def _auth_alone(settings: Settings, doors: _Doors) -> House[AuthService]:
    """Auth checks tokens with its own keys, not by a call to itself."""

    async def fetch_keys() -> PublicKeys:
        return await auth.service.public_keys()

    auth = ewallet.auth.app.create_app(
        settings,
        verifier=Verifier(fetch_keys, system_clock),
        internal_secret=doors.secret,
        wallet=HttpWallet(doors.to("wallet")),
    )
    _make_first_administrator(settings, auth)
    return auth


def _make_first_administrator(settings: Settings, auth: House[AuthService]) -> None:
    """Have auth make the administrator of the settings when it starts. SettingsError then: it refuses to."""
    if not settings.admin_email:
        return

    async def make() -> None:
        made = await auth.service.ensure_admin(settings.admin_email, settings.admin_password)
        if isinstance(made, Refusal):
            raise SettingsError(f"EWALLET_ADMIN_EMAIL and EWALLET_ADMIN_PASSWORD are refused: {made.detail}")

    auth.application.on_startup.append(make)


@asynccontextmanager
async def _on_one_core(settings: Settings, _gateway: Litestar) -> AsyncIterator[None]:
    """Before any other thread is started, which will then stay with this one."""
    if not (settings.one_core and CAN_BIND):
        yield
        return
    core = OneCore(random_below=secrets.randbelow)
    try:
        async with working(run_forever("one-core", core.run_once, pause_seconds=LOOK_SECONDS)):
            yield
    finally:
        roam()


def _ending_streams(application: ASGIApp, stopping: asyncio.Event | None) -> ASGIApp:
    return EndingStreams(application, paths=STREAMS, stopping=stopping) if stopping else application
