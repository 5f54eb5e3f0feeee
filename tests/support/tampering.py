"""Changing a SQLite file by hand, as somebody could who has the file and a shell."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import (
    Column,
    ColumnElement,
    Connection,
    Table,
    UniqueConstraint,
    and_,
    create_engine,
)

from ewallet.plumbing.database import Database, open_database
from ewallet.plumbing.verifying import Seen

Faults = Callable[[Connection, Seen], Iterator[str]]


class Tampered:
    """A copy of a database that can be changed past all rules, and then verified."""

    def __init__(self, original: Path, copy: Path, service: str) -> None:
        shutil.copy(original, copy)
        self._url, self._service = f"sqlite:///{copy}", service

    @contextmanager
    def opened(self) -> Iterator[Connection]:
        """A transaction that no trigger and no constraint stops."""
        engine = create_engine(self._url)
        with engine.begin() as tx:
            tx.exec_driver_sql("PRAGMA ignore_check_constraints = ON")
            for (trigger,) in tx.exec_driver_sql("SELECT name FROM sqlite_schema WHERE type = 'trigger'").fetchall():
                tx.exec_driver_sql(f"DROP TRIGGER {trigger}")
            yield tx
        engine.dispose()

    def rows(self, table: Table) -> list[dict[str, Any]]:
        """All rows in the order of the primary key."""
        with self.opened() as tx:
            return [dict(row) for row in tx.execute(table.select().order_by(*table.primary_key)).mappings()]

    def change(self, table: Table, row: dict[str, Any], column: Column[Any]) -> Any:
        """Give one value of a row another one, and return it."""
        value = other_value(row[column.name], column)
        with self.opened() as tx:
            tx.execute(table.update().where(_is(table, row)).values({column.name: value}))
        return value

    def remove(self, table: Table, *rows: dict[str, Any]) -> None:
        with self.opened() as tx:
            for row in rows:
                tx.execute(table.delete().where(_is(table, row)))

    def insert(self, table: Table, *rows: dict[str, Any]) -> None:
        with self.opened() as tx:
            tx.execute(table.insert(), list(rows))

    def swap(self, table: Table, first: dict[str, Any], second: dict[str, Any]) -> None:
        """Let two rows change places: each gets the primary key of the other."""
        names = [column.name for column in table.primary_key]
        self.remove(table, first, second)
        self.insert(
            table, *(one | {name: two[name] for name in names} for one, two in ((first, second), (second, first)))
        )

    def faults(self, find: Faults) -> str:
        """What is found wrong now, a line each."""
        database = open_database(self._url, self._service)
        try:
            return found(database, find)
        finally:
            database.close()


def found(database: Database, find: Faults) -> str:
    """What is found wrong in a database, a line each."""
    return "\n".join(database.snapshot(lambda tx: list(find(tx, lambda _count: None))))


def other_value(value: Any, column: Column[Any]) -> Any:
    """The smallest change that the column's type allows."""
    if value is None:
        return 1 if column.type.python_type is int else "x"
    if isinstance(value, int):
        return _unused(value) if column.primary_key else value + 1
    return value[:-1] + ("x" if value[-1:] != "x" else "y")


def copied(table: Table, row: dict[str, Any]) -> dict[str, Any]:
    """The row once more, under other unique values."""
    unique = {column.name for column in table.primary_key} | {
        column.name
        for constraint in table.constraints
        if isinstance(constraint, UniqueConstraint)
        for column in constraint.columns
    }
    return {name: _unused(value) if name in unique else value for name, value in row.items()}


def _unused(value: Any) -> Any:
    return value + 1_000_000 if isinstance(value, int) else f"{value[:-1]}~"


def _is(table: Table, row: dict[str, Any]) -> ColumnElement[bool]:
    return and_(*(column == row[column.name] for column in table.primary_key))
