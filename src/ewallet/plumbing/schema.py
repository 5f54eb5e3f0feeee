"""Column types, tables and multi-row writes that mean the same on SQLite, MariaDB and MySQL 8.

A batch of any size is written by a handful of statements with many rows each. On SQLite that is also what keeps the
event loop alive: ``executemany`` would give up and take back the interpreter's lock once for every row.
"""

from collections.abc import Sequence
from functools import lru_cache
from itertools import chain, islice
from typing import Any

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    Connection,
    Index,
    MetaData,
    String,
    Table,
    Text,
    insert,
    select,
    text,
)
from sqlalchemy.dialects import mysql
from sqlalchemy.dialects.sqlite import INTEGER as SQLITE_INTEGER
from sqlalchemy.dialects.sqlite import TEXT as SQLITE_TEXT
from sqlalchemy.types import TypeEngine

from ewallet.plumbing import statements

IDENTIFIER_LENGTH = 64

IDENTIFIER: TypeEngine[str] = (
    String(IDENTIFIER_LENGTH)
    .with_variant(SQLITE_TEXT(), "sqlite")
    .with_variant(mysql.VARCHAR(IDENTIFIER_LENGTH, charset="ascii", collation="ascii_bin"), "mysql", "mariadb")
)
"""Ids, states, currency codes, hashes: ASCII, compared byte by byte."""

KEY: TypeEngine[str] = (
    String(255)
    .with_variant(SQLITE_TEXT(), "sqlite")
    .with_variant(mysql.VARCHAR(255, charset="ascii", collation="ascii_bin"), "mysql", "mariadb")
)
"""A client's own key: up to 255 visible ASCII characters, compared byte by byte."""

INTEGER: TypeEngine[int] = BigInteger().with_variant(SQLITE_INTEGER(), "sqlite")
"""Amounts in minor units, times in microseconds since the epoch, counts, flags (0 or 1)."""

SHORT_TEXT: TypeEngine[str] = (
    String(320)
    .with_variant(SQLITE_TEXT(), "sqlite")
    .with_variant(mysql.VARCHAR(320, charset="utf8mb4", collation="utf8mb4_bin"), "mysql", "mariadb")
)
"""People's text of up to 320 characters that may be looked up: addresses, names."""

LONG_TEXT: TypeEngine[str] = (
    Text()
    .with_variant(SQLITE_TEXT(), "sqlite")
    .with_variant(mysql.MEDIUMTEXT(charset="utf8mb4", collation="utf8mb4_bin"), "mysql", "mariadb")
)
"""Anything longer, and JSON."""


def table(name: str, metadata: MetaData, *parts: Column[Any] | CheckConstraint | Index | Any) -> Table:
    """A table with our options: STRICT on SQLite, InnoDB and a binary collation elsewhere.

    Numbers of a column declared ``autoincrement=True`` are never given twice, which SQLite must be told.
    """
    return Table(
        name,
        metadata,
        *parts,
        sqlite_strict=True,
        sqlite_autoincrement=any(isinstance(part, Column) and part.autoincrement is True for part in parts),
        mysql_engine="InnoDB",
        mysql_charset="utf8mb4",
        mysql_collate="utf8mb4_bin",
        mariadb_engine="InnoDB",
        mariadb_charset="utf8mb4",
        mariadb_collate="utf8mb4_bin",
    )


# --- migrations: each step may be found done, because MySQL commits changes of a schema one by one -------------------


def create_missing(tx: Connection, metadata: MetaData) -> None:
    """Create the tables and indexes that are not there."""
    for each in metadata.sorted_tables:
        each.create(tx, checkfirst=True)
        for index in each.indexes:
            index.create(tx, checkfirst=True)  # the table may have been made without it


def insert_missing(tx: Connection, into: Table, **row: Any) -> None:
    """Insert a row, unless one with its primary key is there."""
    same = (column == row[column.name] for column in into.primary_key)
    if tx.execute(select(*into.primary_key).where(*same)).first() is None:
        tx.execute(insert(into).values(row))


def make_append_only(tx: Connection, table_name: str) -> None:
    """Have the database itself refuse UPDATE and DELETE of a table's rows."""
    present = tx.execute(_TRIGGERS[tx.dialect.name], {"table": table_name}).scalars().all()
    for verb in ("UPDATE", "DELETE"):
        trigger = f"{table_name}_no_{verb.lower()}"
        if trigger not in present:
            body = _REFUSAL[tx.dialect.name].format(f"{table_name} is append-only")
            tx.exec_driver_sql(f"CREATE TRIGGER {trigger} BEFORE {verb} ON {table_name} {body}")


_TRIGGERS = {
    "sqlite": text("SELECT name FROM sqlite_schema WHERE type = 'trigger' AND tbl_name = :table"),
    "mysql": text(
        "SELECT trigger_name FROM information_schema.triggers "
        "WHERE trigger_schema = DATABASE() AND event_object_table = :table"
    ),
}
_REFUSAL = {
    "sqlite": "BEGIN SELECT RAISE(ABORT, '{}'); END",
    "mysql": "FOR EACH ROW SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = '{}'",
}


def version_table(service: str) -> str:
    """The table in which Alembic keeps a service's version; all services may share one database."""
    return f"{service}_schema_version"


# --- writes of many rows ------------------------------------------------------------------------------------------

# A few fixed sizes keep the number of different statements small, so that SQLite prepares each one once.
_SQLITE_CHUNKS = (256, 128, 64, 32, 16, 8, 4, 2, 1)
_MYSQL_MAXIMUM_ROWS = 512
_MYSQL_MAXIMUM_CHARACTERS = 2_000_000
"""In one statement: four bytes each at most, or two where they are escaped, so half of the 16 MB that servers take."""


def insert_rows(tx: Connection, into: Table, rows: Sequence[Sequence[Any]], *, columns: tuple[str, ...] = ()) -> None:
    """Insert rows, each a sequence in the order of ``columns`` (all of the table's, where not given)."""
    _write_rows(tx, into, columns or tuple(into.columns.keys()), rows, ())


def upsert_rows(tx: Connection, into: Table, rows: Sequence[Sequence[Any]], *, update: tuple[str, ...]) -> None:
    """Insert rows of all columns; where the primary key exists, set the columns named by ``update`` instead."""
    _write_rows(tx, into, tuple(into.columns.keys()), rows, update)


def _write_rows(
    tx: Connection,
    into: Table,
    columns: tuple[str, ...],
    rows: Sequence[Sequence[Any]],
    update: tuple[str, ...],
) -> None:
    dialect = tx.dialect.name
    start = 0
    while start < len(rows):
        size = _sqlite_chunk(len(rows) - start) if dialect == "sqlite" else _mysql_chunk(rows, start)
        chunk = rows[start : start + size]
        statements.run(tx, _statement(dialect, into, columns, update, size), tuple(chain.from_iterable(chunk)))
        start += size


def _sqlite_chunk(left: int) -> int:
    return next(size for size in _SQLITE_CHUNKS if size <= left)


def _mysql_chunk(rows: Sequence[Sequence[Any]], start: int) -> int:
    """How many rows fit into one statement; one does, however long it is."""
    characters = 0
    for number, row in enumerate(islice(rows, start, start + _MYSQL_MAXIMUM_ROWS)):
        characters += sum(len(value) for value in row if isinstance(value, str))
        if characters > _MYSQL_MAXIMUM_CHARACTERS and number:
            return number
    return min(len(rows) - start, _MYSQL_MAXIMUM_ROWS)


@lru_cache(maxsize=2048)
def _statement(dialect: str, into: Table, columns: tuple[str, ...], update: tuple[str, ...], rows: int) -> str:
    quoted = [f'"{name}"' if dialect == "sqlite" else f"`{name}`" for name in columns]
    into_columns = f"{into.name} ({', '.join(quoted)})"
    new = f"INSERT INTO {into_columns} VALUES {', '.join([statements.marks(len(columns))] * rows)}"  # noqa: S608  # names are ours, values are bound
    if not update:
        return new
    if dialect == "sqlite":
        key = ", ".join(f'"{column.name}"' for column in into.primary_key)
        return f"{new} ON CONFLICT ({key}) DO UPDATE SET " + ", ".join(f'"{c}" = excluded."{c}"' for c in update)
    # VALUES() is what MariaDB and MySQL 8 both understand here; MySQL's newer row alias is unknown to MariaDB.
    return f"{new} ON DUPLICATE KEY UPDATE " + ", ".join(f"`{c}` = VALUES(`{c}`)" for c in update)
