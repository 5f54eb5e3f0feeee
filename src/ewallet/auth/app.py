"""Auth put together: its database, its use cases, its background work, its HTTP side."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing

from litestar import Litestar

from ewallet.auth.api import routes
from ewallet.auth.service import AuthService
from ewallet.auth.worker import FORGETTING_PAUSE_SECONDS, RECOVERY_PAUSE_SECONDS, Forgetting, Recovery
from ewallet.kernel.clock import Clock, system_clock
from ewallet.plumbing.database import open_database
from ewallet.plumbing.http.addresses import trusted_proxies
from ewallet.plumbing.http.application import House, service_application
from ewallet.plumbing.settings import Settings
from ewallet.plumbing.tokens import Verifier
from ewallet.plumbing.worker import run_forever, working
from ewallet.wallet.client import WalletClient


def create_app(
    settings: Settings,
    *,
    verifier: Verifier,
    internal_secret: str,
    wallet: WalletClient,
    clock: Clock = system_clock,
) -> House[AuthService]:
    """Auth on its migrated database, which closes with the application's lifespan."""
    database = open_database(settings.database_url("auth"), "auth")
    service = AuthService(database, settings=settings, wallet=wallet, verifier=verifier, clock=clock)
    recovery, forgetting = Recovery(service), Forgetting(service)

    @asynccontextmanager
    async def lifespan(_application: Litestar) -> AsyncIterator[None]:
        with closing(database), closing(service):
            await service.make_first_key()
            async with working(
                run_forever("auth-recovery", recovery.run_once, pause_seconds=RECOVERY_PAUSE_SECONDS),
                run_forever("auth-forgetting", forgetting.run_once, pause_seconds=FORGETTING_PAUSE_SECONDS),
            ):
                yield

    application = service_application(
        name="auth",
        routes=routes(service),
        verifier=verifier,
        internal_secret=internal_secret,
        lifespan=[lifespan],
        trusted_proxies=trusted_proxies(settings.trusted_proxies),
        ready=database.ping,
    )
    return House("auth", service, application)
