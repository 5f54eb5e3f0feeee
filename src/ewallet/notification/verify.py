"""Whether notification's books are in order: its audit. What else it keeps tells of money and decides about none."""

from collections.abc import Iterator

from sqlalchemy import Connection

from ewallet.notification.store import audit
from ewallet.plumbing.verifying import Seen


def faults(tx: Connection, seen: Seen = lambda _count: None) -> Iterator[str]:
    """A sentence for the first fault of the audit's chain. ``tx`` must see one snapshot."""
    if broken := audit.first_fault(tx, seen):
        yield broken
