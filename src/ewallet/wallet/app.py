"""The wallet put together: its database, its use cases, its hold expiry, its outbox relay, its HTTP side."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing

from litestar import Litestar

from ewallet.kernel.clock import Clock, system_clock
from ewallet.kernel.ids import new_id
from ewallet.notification.client import NotificationClient
from ewallet.plumbing.database import open_database
from ewallet.plumbing.figures import Figures
from ewallet.plumbing.http.application import House, service_application
from ewallet.plumbing.outbox import Relay
from ewallet.plumbing.settings import Settings, SettingsError
from ewallet.plumbing.tokens import Verifier
from ewallet.plumbing.worker import run_forever, working
from ewallet.wallet import store
from ewallet.wallet.api import routes
from ewallet.wallet.domain.limits import LimitSchedule, LimitsWrong
from ewallet.wallet.service import WalletService
from ewallet.wallet.worker import PAUSE_SECONDS, HoldExpiry


def create_app(
    settings: Settings,
    *,
    verifier: Verifier,
    internal_secret: str,
    notification: NotificationClient,
    clock: Clock = system_clock,
) -> House[WalletService]:
    """The wallet on its migrated database, which closes with the application's lifespan.

    SettingsError: the limits cannot be.
    """
    limits = _limit_schedule(settings)
    database = open_database(settings.database_url("wallet"), "wallet")
    owner = new_id("own", clock())
    relay = Relay(database, store.outbox, store.leases, notification.deliver, owner=owner, clock=clock)
    service = WalletService(database, clock=clock, limits=limits, events_added=relay.wake.set, receiver=notification)
    expiry = HoldExpiry(service)
    figures = Figures(database, store.figures, clock)

    @asynccontextmanager
    async def lifespan(_application: Litestar) -> AsyncIterator[None]:
        expiring = run_forever("wallet-expiry", expiry.run_once, pause_seconds=PAUSE_SECONDS)
        with closing(database):
            async with working(relay.run_forever(), figures.run_forever(), expiring):
                yield

    application = service_application(
        name="wallet",
        routes=routes(service),
        verifier=verifier,
        internal_secret=internal_secret,
        lifespan=[lifespan],
        ready=database.ping,
    )
    return House("wallet", service, application)


def _limit_schedule(settings: Settings) -> LimitSchedule:
    try:
        return LimitSchedule.parse(settings.limits)
    except LimitsWrong as error:
        raise SettingsError(f"EWALLET_LIMITS is wrong: {error}") from error
