"""Whether auth's books are in order: its audit. What else auth keeps, its people may change as they like."""

from collections.abc import Iterator

from sqlalchemy import Connection

from ewallet.auth.store import audit
from ewallet.plumbing.verifying import Seen


def faults(tx: Connection, seen: Seen = lambda _count: None) -> Iterator[str]:
    """A sentence for the first fault of the audit's chain. ``tx`` must see one snapshot."""
    if broken := audit.first_fault(tx, seen):
        yield broken
