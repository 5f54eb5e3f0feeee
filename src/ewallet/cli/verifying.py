"""The command `verify`: whether the books are in order, read from the databases alone, running platform or not."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from sqlalchemy import Connection, Table

import ewallet.auth.store as auth
import ewallet.auth.verify
import ewallet.notification.store as notification
import ewallet.notification.verify
import ewallet.payment.store as payment
import ewallet.payment.verify
import ewallet.wallet.store as wallet
import ewallet.wallet.verify
from ewallet.cli.databases import opened
from ewallet.cli.terminal import Stopped, standard_output
from ewallet.plumbing.settings import Settings
from ewallet.plumbing.verifying import Seen, count

FAULTS_NAMED = 100
"""Of one service; more would scroll the first ones away, and one change by hand can cause several."""


@dataclass(frozen=True, slots=True)
class Books:
    """What one service has to show; ``faults`` finds what is wrong, a sentence each."""

    service: str
    checked: str
    counted: Sequence[tuple[Table, str]]
    faults: Callable[[Connection, Seen], Iterator[str]]


BOOKS = (
    Books(
        "wallet",
        "every transfer is as it was written, every balance equals its transfers, every currency sums to zero, "
        "the audit chain is whole",
        ((wallet.accounts, "accounts"), (wallet.transfers, "transfers"), (wallet.audit.records, "audit records")),
        ewallet.wallet.verify.faults,
    ),
    Books(
        "payment",
        "every payment and every operation on one is as it was written, the audit chain is whole",
        (
            (payment.payments, "payments"),
            (payment.operations, "operations"),
            (payment.audit.records, "audit records"),
        ),
        ewallet.payment.verify.faults,
    ),
    Books(
        "auth",
        "the audit chain is whole",
        ((auth.audit.records, "audit records"),),
        ewallet.auth.verify.faults,
    ),
    Books(
        "notification",
        "the audit chain is whole",
        ((notification.audit.records, "audit records"),),
        ewallet.notification.verify.faults,
    ),
)


def verify(settings: Settings) -> None:
    """Check everything and show it all; Stopped where there is any fault."""
    faults = sum(_verify(settings, books) for books in BOOKS)
    if faults:
        raise Stopped(f"{faults} fault{'s' if faults > 1 else ''} found. Nothing was changed.")


def _verify(settings: Settings, books: Books) -> int:
    """Check one service's books as they are at one moment; returns the number of faults."""
    output, read = standard_output(), 0

    # On a terminal, whoever waits sees that it goes on; in a pipe a status shows nothing.
    with opened(settings, books.service) as database, output.status(f"{books.service} …") as status:

        def seen(rows: int) -> None:
            nonlocal read
            read += rows
            status.update(f"{books.service}: {read:,} rows read …")

        def look(tx: Connection) -> tuple[list[str], list[str]]:
            found = list(islice(books.faults(tx, seen), FAULTS_NAMED))
            return found, [f"{count(tx, table):,} {noun}" for table, noun in books.counted]

        faults, counts = database.snapshot(look)
    mark = "[red]✗[/]" if faults else "[green]✓[/]"
    output.print(f"{mark} {books.service:<12} {books.checked} ({', '.join(counts)})", soft_wrap=True)
    for fault in faults:
        output.print(f"    {fault}", style="red", markup=False, soft_wrap=True)
    return len(faults)
