"""Notification put together: its database, its use cases, its watch over other processes, its HTTP side."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing

from litestar import Litestar

from ewallet.kernel.clock import Clock, system_clock
from ewallet.notification.api import routes
from ewallet.notification.service import NotificationService
from ewallet.notification.worker import PAUSE_SECONDS, Watch
from ewallet.plumbing.database import open_database
from ewallet.plumbing.http.application import House, service_application
from ewallet.plumbing.settings import Settings
from ewallet.plumbing.tokens import Verifier
from ewallet.plumbing.worker import run_forever, working


def create_app(
    settings: Settings, *, verifier: Verifier, internal_secret: str, clock: Clock = system_clock
) -> House[NotificationService]:
    """Notification on its migrated database, which closes with the application's lifespan."""
    database = open_database(settings.database_url("notification"), "notification")
    service = NotificationService(database, clock=clock)
    watch = Watch(database, service.listeners)

    @asynccontextmanager
    async def lifespan(_application: Litestar) -> AsyncIterator[None]:
        with closing(database):
            async with working(run_forever("notification-watch", watch.run_once, pause_seconds=PAUSE_SECONDS)):
                yield

    application = service_application(
        name="notification",
        routes=routes(service),
        verifier=verifier,
        internal_secret=internal_secret,
        lifespan=[lifespan],
        ready=database.ping,
    )
    return House("notification", service, application)
