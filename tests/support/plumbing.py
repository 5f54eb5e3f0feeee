"""A database of either kind with tables that belong to no service."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import Connection, MetaData

from ewallet.plumbing import statements
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


@contextmanager
def before_each_statement(database: Database, call: Callable[[str, Sequence[Any]], None]) -> Iterator[None]:
    """Call with the text and the values of each statement that the writer runs past SQLAlchemy, just before it does."""
    run = statements.run

    def call_first(tx: Connection, statement: str, parameters: Sequence[Any] = ()) -> statements.Outcome:
        if tx.engine is database._writer:
            call(statement, parameters)
        return run(tx, statement, parameters)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(statements, "run", call_first)
        yield


@contextmanager
def before_each_read(call: Callable[[str, Sequence[Any]], None]) -> Iterator[None]:
    """Call with the text and the values of each SELECT that anybody runs past SQLAlchemy, just before it is run."""
    run = statements.run

    def call_first(tx: Connection, statement: str, parameters: Sequence[Any] = ()) -> statements.Outcome:
        if statement.startswith("SELECT"):
            call(statement, parameters)
        return run(tx, statement, parameters)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(statements, "run", call_first)
        yield


def set_pragma(database: Database, pragma: str) -> None:
    """Set a pragma of the writer's connection, outside any transaction: `query_only = ON` is a read-only disk to it."""
    connection = database._writer.raw_connection()
    connection.cursor().execute(f"PRAGMA {pragma}")
    connection.close()


class ManualClock:
    """A clock that the test moves, in microseconds."""

    def __init__(self, now: int) -> None:
        self.now = now

    def __call__(self) -> int:
        return self.now

    def pass_seconds(self, seconds: int) -> None:
        self.now += seconds * 1_000_000
