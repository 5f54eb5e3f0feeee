"""The command `notifications`: what could not be delivered outside, and sending it again."""

from typing import Any

from sqlalchemy import Row

from ewallet.cli.databases import opened
from ewallet.cli.terminal import columns, standard_output
from ewallet.kernel.clock import rfc3339, system_clock
from ewallet.notification import store
from ewallet.plumbing.settings import Settings

SHOWN = 100


def dead_letters(settings: Settings, *, again: bool) -> None:
    """Show the latest deliveries that were given up; with ``again``, have all of them sent again."""
    output = standard_output()
    with opened(settings, "notification") as database:
        rows = database.read(lambda tx: store.dead_letters(tx, limit=SHOWN))
        revived = database.transact(lambda tx: store.revive(tx, system_clock())) if again else 0
    if not rows:
        output.print("[green]✓[/] there are no dead letters")
        return
    table = columns("delivery", "event", "receiver", "attempts", "given up", "because", right=("attempts",))
    for row in rows:
        table.add_row(*_cells(row))
    output.print(table)
    if again:
        output.print(f"{revived} of them will be sent again by the running platform, or by the next one")


def _cells(row: Row[Any]) -> tuple[str, ...]:
    return row.id, row.event, row.receiver, str(row.attempts), rfc3339(row.updated_at), row.last_error or ""
