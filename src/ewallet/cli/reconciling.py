"""The command `reconcile`: payments, postings and events compared, and put right; running platform or not."""

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack

from ewallet.auth.reconcile import reopen_wallets
from ewallet.cli.databases import opened
from ewallet.cli.terminal import Stopped, columns, standard_output
from ewallet.kernel.clock import system_clock
from ewallet.kernel.errors import OutcomeUnknown, Overloaded, Refused
from ewallet.kernel.money import Money
from ewallet.notification.client import HttpNotification
from ewallet.notification.senders.apprise import apprise_urls
from ewallet.notification.service import NotificationService
from ewallet.notification.store import EMAIL
from ewallet.notification.templates import load_languages
from ewallet.payment.reconcile import Reconciliation
from ewallet.payment.saga import REQUEST_SECONDS, Saga
from ewallet.plumbing.http.doors import Door
from ewallet.plumbing.reconciling import Case, Receiver
from ewallet.plumbing.secrets import internal_secret
from ewallet.plumbing.settings import Settings
from ewallet.wallet.client import HttpWallet, WalletBooks
from ewallet.wallet.service import WalletService


def reconcile(settings: Settings) -> None:
    """Compare, put right and show every case; Stopped where something is left for a person."""
    try:
        cases = asyncio.run(_cases(settings))
    except (OutcomeUnknown, Overloaded, Refused) as error:
        raise Stopped(f"The comparison broke off: {error}. What was put right stays; run it again.") from error
    _show(cases)
    if left := [case for case in cases if not case.settled]:
        raise Stopped(f"{len(left)} of {len(cases)} disagreements are left: they need a person.")


async def _cases(settings: Settings) -> list[Case]:
    """Payment's and auth's side on their databases; wallet and notification over HTTP where they have an address."""
    async with AsyncExitStack() as stack:
        receiver = await _notification(settings, stack)
        wallet = await _wallet(settings, receiver, stack)
        people = stack.enter_context(opened(settings, "auth"))
        database = stack.enter_context(opened(settings, "payment"))
        saga = Saga(database, wallet, clock=system_clock, events_added=lambda: None, request_seconds=REQUEST_SECONDS)
        reconciliation = Reconciliation(database, wallet, saga, receiver=receiver, clock=system_clock)
        return await reopen_wallets(people, wallet) + await reconciliation.run()


async def _notification(settings: Settings, stack: AsyncExitStack) -> Receiver:
    if settings.notification_url:
        return HttpNotification(await _door(settings, "notification", stack))
    database = stack.enter_context(opened(settings, "notification"))
    languages = load_languages(settings.templates, settings.locale)
    channels = (*apprise_urls(settings.apprise_urls), *([EMAIL] if settings.smtp_url else []))
    return NotificationService(database, languages=languages, clock=system_clock, channels=channels)


async def _wallet(settings: Settings, receiver: Receiver, stack: AsyncExitStack) -> WalletBooks:
    if settings.wallet_url:
        return HttpWallet(await _door(settings, "wallet", stack))
    database = stack.enter_context(opened(settings, "wallet"))
    return WalletService(database, clock=system_clock, receiver=receiver)


async def _door(settings: Settings, service: str, stack: AsyncExitStack) -> Door:
    secret = internal_secret(settings)
    door = Door(*settings.service_urls(service), caller="payment", secret=secret, clock=system_clock)
    stack.push_async_callback(door.close)
    return door


def _show(cases: Sequence[Case]) -> None:
    output = standard_output()
    if not cases:
        output.print("[green]✓[/] payments, postings and events agree")
        return
    table = columns("", "about", "amount", "what", "done", right=("amount",))
    for case in cases:
        mark = "[green]✓[/]" if case.settled else "[red]✗[/]"
        table.add_row(
            mark, case.id, str(Money(case.amount, case.currency)) if case.currency else "", case.what, case.done
        )
    output.print(table)
