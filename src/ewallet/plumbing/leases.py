"""Leases: work that one process at a time should do, claimed by compare-and-set and given up by time alone.

A lease saves work, it does not guard correctness: its holder may be stopped past the lease and wake up while another
one works. Everything done under a lease is therefore harmless when done twice.
"""

from sqlalchemy import Column, Connection, MetaData, insert, or_, update

from ewallet.kernel.clock import MICROSECONDS_PER_SECOND
from ewallet.plumbing.schema import IDENTIFIER, INTEGER, table


class Leases:
    """The lease table of one service; its rows, one a name, are made by the first migration."""

    def __init__(self, metadata: MetaData, service: str) -> None:
        self.table = table(
            f"{service}_leases",
            metadata,
            Column("name", IDENTIFIER, primary_key=True),
            Column("owner", IDENTIFIER, nullable=False),
            Column("until", INTEGER, nullable=False),
        )

    def introduce(self, tx: Connection, name: str) -> None:
        """Make the row of a lease; part of a migration."""
        tx.execute(insert(self.table).values(name=name, owner="", until=0))

    def claim(self, tx: Connection, name: str, owner: str, *, now: int, seconds: int) -> bool:
        """Take or prolong a lease; False while another owner's has not run out."""
        leases = self.table.c
        claimed = tx.execute(
            update(self.table)
            .where(leases.name == name, or_(leases.owner == owner, leases.until < now))
            .values(owner=owner, until=now + seconds * MICROSECONDS_PER_SECOND)
        )
        return claimed.rowcount == 1

    def release(self, tx: Connection, name: str, owner: str) -> None:
        """Give a lease back, if it is the owner's, so that nobody has to wait until it runs out."""
        tx.execute(update(self.table).where(self.table.c.name == name, self.table.c.owner == owner).values(until=0))
