"""The command `reconcile`: payments and the wallet compared, and put right; running platform or not."""

import asyncio
from collections.abc import Sequence

from ewallet.cli.databases import opened
from ewallet.cli.terminal import Stopped, columns, standard_output
from ewallet.kernel.clock import system_clock
from ewallet.kernel.money import Money
from ewallet.notification.service import NotificationService
from ewallet.payment.reconcile import Reconciliation
from ewallet.payment.saga import REQUEST_SECONDS, Saga
from ewallet.plumbing.reconciling import Case
from ewallet.plumbing.settings import Settings
from ewallet.wallet.service import WalletService


def reconcile(settings: Settings) -> None:
    """Compare, put right and show every case; Stopped where something is left for a person."""
    with (
        opened(settings, "notification") as notification_database,
        opened(settings, "wallet") as wallet_database,
        opened(settings, "payment") as database,
    ):
        notification = NotificationService(notification_database, clock=system_clock)
        wallet = WalletService(wallet_database, clock=system_clock, receiver=notification)
        saga = Saga(database, wallet, clock=system_clock, events_added=lambda: None, request_seconds=REQUEST_SECONDS)
        reconciliation = Reconciliation(database, wallet, saga, receiver=notification, clock=system_clock)
        cases = asyncio.run(reconciliation.run())
    _show(cases)
    if left := [case for case in cases if not case.settled]:
        raise Stopped(f"{len(left)} of {len(cases)} disagreements are left: they need a person.")


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
