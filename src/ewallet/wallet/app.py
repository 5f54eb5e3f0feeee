"""The wallet put together: its database, its use cases, its hold expiry, its outbox relay, its HTTP side."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from litestar import Litestar

from ewallet.kernel.clock import Clock, system_clock
from ewallet.kernel.ids import new_id
from ewallet.notification.client import NotificationClient
from ewallet.plumbing.database import open_database
from ewallet.plumbing.http.application import House, service_application
from ewallet.plumbing.outbox import Relay
from ewallet.plumbing.settings import Settings, SettingsError
from ewallet.plumbing.tokens import Verifier
from ewallet.plumbing.worker import run_forever
from ewallet.wallet import store
from ewallet.wallet.api import routes
from ewallet.wallet.domain.limits import LimitSchedule, LimitsWrong
from ewallet.wallet.service import WalletService
from ewallet.wallet.worker import PAUSE_SECONDS, HoldExpiry

RELAY_PAUSE_SECONDS = 1.0
"""How late an event may be that another process stored; this process wakes its relay at once."""

RELAY_REST_SECONDS = 0.05
"""Between rounds under load: a quarter of the time that a notification may take, and far fewer commits."""


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
    service = WalletService(database, clock=clock, limits=limits, events_added=relay.wake.set)
    expiry = HoldExpiry(service)

    @asynccontextmanager
    async def lifespan(_application: Litestar) -> AsyncIterator[None]:
        workers = [
            asyncio.create_task(
                run_forever(
                    "wallet-relay",
                    relay.run_once,
                    pause_seconds=RELAY_PAUSE_SECONDS,
                    rest_seconds=RELAY_REST_SECONDS,
                    wake=relay.wake,
                )
            ),
            asyncio.create_task(run_forever("wallet-expiry", expiry.run_once, pause_seconds=PAUSE_SECONDS)),
        ]
        try:
            yield
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)
            await relay.release()
            database.close()

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
