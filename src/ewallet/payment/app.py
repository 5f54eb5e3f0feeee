"""Payment put together: its database, its use cases, its recovery, its comparisons, its outbox relay, its HTTP side."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing

from litestar import Litestar

from ewallet.kernel.clock import Clock, system_clock
from ewallet.kernel.ids import new_id
from ewallet.notification.client import NotificationClient
from ewallet.payment import store
from ewallet.payment.api import routes
from ewallet.payment.domain.fees import FeeSchedule, FeesWrong
from ewallet.payment.reconcile import Reconciliation
from ewallet.payment.service import PaymentService
from ewallet.payment.worker import PAUSE_SECONDS, Reconciling, Recovery
from ewallet.plumbing.database import open_database
from ewallet.plumbing.figures import Figures
from ewallet.plumbing.http.application import House, service_application
from ewallet.plumbing.outbox import Relay
from ewallet.plumbing.settings import Settings, SettingsError
from ewallet.plumbing.tokens import Verifier
from ewallet.plumbing.worker import run_forever, working
from ewallet.wallet.client import WalletBooks


def create_app(
    settings: Settings,
    *,
    verifier: Verifier,
    internal_secret: str,
    wallet: WalletBooks,
    notification: NotificationClient,
    clock: Clock = system_clock,
) -> House[PaymentService]:
    """Payment on its migrated database, which closes with the application's lifespan.

    SettingsError: the fee schedule cannot be.
    """
    fees = _fee_schedule(settings)
    database = open_database(settings.database_url("payment"), "payment")
    owner = new_id("own", clock())
    relay = Relay(database, store.outbox, store.leases, notification.deliver, owner=owner, clock=clock)
    service = PaymentService(
        database,
        wallet,
        fees=fees,
        hold_seconds=settings.hold_seconds,
        clock=clock,
        events_added=relay.wake.set,
    )
    recovery = Recovery(service.saga)
    reconciling = Reconciling(
        database,
        Reconciliation(database, wallet, service.saga, receiver=notification, clock=clock),
        owner=owner,
        clock=clock,
        every_seconds=settings.reconcile_seconds,
    )
    figures = Figures(database, store.figures, clock)

    @asynccontextmanager
    async def lifespan(_application: Litestar) -> AsyncIterator[None]:
        loops = [
            relay.run_forever(),
            figures.run_forever(),
            run_forever("payment-recovery", recovery.run_once, pause_seconds=PAUSE_SECONDS),
        ]
        if settings.reconcile_seconds:
            pause_seconds = reconciling.pause_seconds
            loops.append(run_forever("payment-reconciliation", reconciling.run_once, pause_seconds=pause_seconds))
        with closing(database):
            async with working(*loops):
                try:
                    yield
                finally:
                    await service.saga.drain()

    application = service_application(
        name="payment",
        routes=routes(service),
        verifier=verifier,
        internal_secret=internal_secret,
        lifespan=[lifespan],
        ready=database.ping,
    )
    return House("payment", service, application)


def _fee_schedule(settings: Settings) -> FeeSchedule:
    try:
        return FeeSchedule.parse(settings.fees, default_basis_points=settings.fee_basis_points)
    except FeesWrong as error:
        raise SettingsError(f"EWALLET_FEES is wrong: {error}") from error
