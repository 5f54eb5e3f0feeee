"""A database of either kind with tables that belong to no service."""

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import MetaData

from ewallet.plumbing.database import Database, open_database


@contextmanager
def opened(url: str) -> Iterator[Database]:
    """The connections of one process to a database; two of these are what two processes are to it."""
    database = open_database(url, "test")
    try:
        yield database
    finally:
        database.close()


def make_tables(url: str, metadata: MetaData) -> None:
    with opened(url) as database:
        database.transact(metadata.create_all)


class ManualClock:
    """A clock that the test moves, in microseconds."""

    def __init__(self, now: int) -> None:
        self.now = now

    def __call__(self) -> int:
        return self.now

    def pass_seconds(self, seconds: int) -> None:
        self.now += seconds * 1_000_000
