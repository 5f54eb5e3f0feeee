"""Changing a SQLite file by hand, as somebody could who has the file and a shell."""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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

from ewallet.plumbing.database import Database
from ewallet.plumbing.verifying import Seen

Faults = Callable[[Connection, Seen], Iterator[str]]

Row = dict[str, Any]


class Tampered:
    """A database that can be changed past all rules. After each look at it, it is again as it was."""

    def __init__(self, url: str) -> None:
        self._engine = create_engine(url)
        with self._engine.begin() as tx:
            for (trigger,) in tx.exec_driver_sql("SELECT name FROM sqlite_schema WHERE type = 'trigger'").fetchall():
                tx.exec_driver_sql(f"DROP TRIGGER {trigger}")

    def close(self) -> None:
        self._engine.dispose()

    def rows(self, table: Table) -> list[Row]:
        """All rows in the order of the primary key."""
        with self._engine.connect() as tx:
            return [dict(row) for row in tx.execute(table.select().order_by(*table.primary_key)).mappings()]

    @contextmanager
    def changing(self) -> Iterator[Connection]:
        """A transaction that no trigger and no constraint on values stops, rolled back at its end."""
        with self._engine.connect() as tx:
            tx.exec_driver_sql("PRAGMA ignore_check_constraints = ON")
            yield tx
            tx.rollback()


def found(database: Database, find: Faults) -> str:
    """What is found wrong in a database, a line each."""
    return database.snapshot(lambda tx: found_in(tx, find))


def found_in(tx: Connection, find: Faults) -> str:
    """What a transaction finds wrong, a line each."""
    return "\n".join(find(tx, lambda _count: None))


def change(tx: Connection, table: Table, row: Row, column: Column[Any], value: Any) -> Row:
    """Give one value of a row another one; the row as it is then."""
    tx.execute(table.update().where(_is(table, row)).values({column.name: value}))
    return row | {column.name: value}


def remove(tx: Connection, table: Table, *rows: Row) -> None:
    for row in rows:
        tx.execute(table.delete().where(_is(table, row)))


def swap(tx: Connection, table: Table, first: Row, second: Row) -> None:
    """Let two rows change places: each gets the primary key of the other."""
    names = [column.name for column in table.primary_key]
    remove(tx, table, first, second)
    swapped = [one | {name: two[name] for name in names} for one, two in ((first, second), (second, first))]
    tx.execute(table.insert(), swapped)


def other_values(value: Any, column: Column[Any], chance: random.Random) -> Iterator[Any]:
    """What the column's type allows instead of a value: a little more, one byte different, much more, nothing."""
    if value is None:
        yield from (0, 1) if column.type.python_type is int else ("", "x")
    elif isinstance(value, int):
        yield from {value + 1, value ^ 1 << chance.randrange(40), -value} - {value}
    else:
        place = chance.randrange(len(value))
        yield from {value[:-1] + _other(value[-1]), value[:place] + _other(value[place]) + value[place + 1 :]}
        yield from (f"{value} ", value[:-1])
    if column.nullable and value is not None:
        yield None


def _other(character: str) -> str:
    """The character with its lowest bit changed: still one that could stand there."""
    return chr(ord(character) ^ 1)


def copied(table: Table, row: Row) -> Row:
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


def _is(table: Table, row: Row) -> ColumnElement[bool]:
    return and_(*(column == row[column.name] for column in table.primary_key))
