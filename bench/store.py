"""The database ceiling: the same transactions of a payment at the same concurrency, without HTTP and tokens.

``python -m bench.store FOLDER CUSTOMERS SECONDS`` prints one JSON object.
"""

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import NamedTuple

import uvloop

import ewallet.notification.app
import ewallet.payment.app
import ewallet.wallet.app
from bench.people import FUNDS
from ewallet.cli.serving import tune_interpreter
from ewallet.kernel.caller import Caller, Role
from ewallet.kernel.clock import system_clock
from ewallet.payment.messages import InitiatePayment
from ewallet.payment.service import PaymentService
from ewallet.plumbing.migrations import migrate
from ewallet.plumbing.settings import SERVICES, Settings
from ewallet.plumbing.telemetry import configure_logging
from ewallet.plumbing.tokens import PublicKeys, Verifier
from ewallet.wallet.messages import MoveMoney, OpenWallet
from ewallet.wallet.service import WalletService

MERCHANTS = 16
STAFF = Caller("bench", Role.ADMIN, "bench")
UNUSED_SECRET = "-" * 32


class Services(NamedTuple):
    """The services that a payment needs, in this process and without HTTP."""

    wallet: WalletService
    payment: PaymentService


@asynccontextmanager
async def services(settings: Settings) -> AsyncIterator[Services]:
    """The services with their workers, on migrated databases."""
    for service in SERVICES:
        migrate(service, settings.database_url(service))
    verifier = Verifier(_no_keys, system_clock)
    notification = ewallet.notification.app.create_app(settings, verifier=verifier, internal_secret=UNUSED_SECRET)
    wallet = ewallet.wallet.app.create_app(
        settings, verifier=verifier, internal_secret=UNUSED_SECRET, notification=notification.service
    )
    payment = ewallet.payment.app.create_app(
        settings,
        verifier=verifier,
        internal_secret=UNUSED_SECRET,
        wallet=wallet.service,
        notification=notification.service,
    )
    async with AsyncExitStack() as stack:
        for application in (notification.application, wallet.application, payment.application):
            await stack.enter_async_context(application.lifespan())
        yield Services(wallet.service, payment.service)


async def payments_per_second(settings: Settings, *, customers: int, seconds: int) -> float:
    """Let every customer pay one payment after the other for some seconds."""
    async with services(settings) as running:
        await _open_wallets(running.wallet, customers)
        started = time.perf_counter()
        counts = await asyncio.gather(*(_pay(running.payment, n, started + seconds) for n in range(customers)))
        return sum(counts) / (time.perf_counter() - started)


async def _no_keys() -> PublicKeys:
    return {}


async def _open_wallets(wallet: WalletService, customers: int) -> None:
    for number in range(MERCHANTS):
        await open_wallet(wallet, f"usr_merchant{number}", Role.MERCHANT)
    for number in range(customers):
        await open_customer(wallet, number)


async def open_customer(wallet: WalletService, number: int) -> None:
    """A customer's wallet with money in it."""
    owner = f"usr_customer{number}"
    await open_wallet(wallet, owner, Role.CUSTOMER)
    funds = MoveMoney(customer_id=owner, amount=FUNDS, currency="USD", reference=f"funds-{number}")
    await wallet.credit(STAFF, funds, None)


async def open_wallet(wallet: WalletService, owner: str, role: Role) -> None:
    """A wallet without money."""
    await wallet.open_wallet(OpenWallet(owner=owner, role=role, currency="USD", actor="bench", request_id="bench"))


async def _pay(payment: PaymentService, number: int, until: float) -> int:
    caller = Caller(f"usr_customer{number}", Role.CUSTOMER, "bench")
    order = InitiatePayment(
        merchant_id=f"usr_merchant{number % MERCHANTS}", amount=1250, currency="USD", reference="bench"
    )
    paid = 0
    while time.perf_counter() < until:
        await payment.initiate(caller, order, None)
        paid += 1
    return paid


def main(folder: str, customers: str, seconds: str) -> None:
    """Run on a fresh folder and print payments per second as JSON."""
    settings = Settings(data=folder)
    configure_logging("error", "json")
    tune_interpreter()
    rate = uvloop.run(payments_per_second(settings, customers=int(customers), seconds=int(seconds)))
    print(json.dumps({"per_second": rate}))


if __name__ == "__main__":
    main(*sys.argv[1:])
