"""The command `verify`: whether the books are in order, read from the databases alone, running platform or not."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, Table, func, select

import ewallet.auth.store as auth
import ewallet.payment.store as payment
import ewallet.wallet.store as wallet
from ewallet.cli.databases import opened
from ewallet.cli.terminal import Stopped, standard_output
from ewallet.plumbing.audit import AuditLog
from ewallet.plumbing.settings import Settings


@dataclass(frozen=True, slots=True)
class Books:
    """What one service has to show; ``faults`` finds what is wrong, a sentence each."""

    service: str
    checked: str
    counted: Sequence[tuple[Table, str]]
    faults: Callable[[Connection], list[str]]


FAULTS_NAMED = 20
"""Of each kind of fault in payments; more would scroll the first ones away."""


def _audit_faults(log: AuditLog, tx: Connection) -> list[str]:
    fault = log.first_fault(tx)
    return [fault] if fault else []


def _payment_faults(tx: Connection) -> list[str]:
    return [*payment.faults(tx, limit=FAULTS_NAMED), *_audit_faults(payment.audit, tx)]


def _auth_faults(tx: Connection) -> list[str]:
    return _audit_faults(auth.audit, tx)


BOOKS = (
    Books(
        "wallet",
        "every balance equals its transfers, every currency sums to zero, the audit chain is whole",
        ((wallet.accounts, "accounts"), (wallet.transfers, "transfers"), (wallet.audit.records, "audit records")),
        wallet.verify,
    ),
    Books(
        "payment",
        "every payment agrees with its history, net and fee make up the amount, the audit chain is whole",
        ((payment.payments, "payments"), (payment.audit.records, "audit records")),
        _payment_faults,
    ),
    Books(
        "auth",
        "the audit chain is whole",
        ((auth.audit.records, "audit records"),),
        _auth_faults,
    ),
)


def verify(settings: Settings) -> None:
    """Check everything and show it all; Stopped where there is any fault."""
    faults = sum(_verify(settings, books) for books in BOOKS)
    if faults:
        raise Stopped(f"{faults} fault{'s' if faults > 1 else ''} found. Nothing was changed.")


def _verify(settings: Settings, books: Books) -> int:
    """Check one service's books as they are at one moment; returns the number of faults."""

    def look(tx: Connection) -> tuple[list[str], list[str]]:
        return books.faults(tx), [f"{_count(tx, table):,} {noun}" for table, noun in books.counted]

    with opened(settings, books.service) as database:
        faults, counts = database.snapshot(look)
    output = standard_output()
    mark = "[red]✗[/]" if faults else "[green]✓[/]"
    output.print(f"{mark} {books.service:<8} {books.checked} ({', '.join(counts)})", soft_wrap=True)
    for fault in faults:
        output.print(f"    {fault}", style="red", markup=False, soft_wrap=True)
    return len(faults)


def _count(tx: Connection, table: Table) -> int:
    return tx.scalar(select(func.count()).select_from(table)) or 0
