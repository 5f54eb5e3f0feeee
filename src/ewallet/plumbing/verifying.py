"""What every service's ``verify`` stands on: digests of rows, seals, and walks through whole tables.

A digest says what a row held when it was written. Where the audit record of the deed carries it, the audit's hash chain
vouches for the row. A *seal* is a digest in the row itself, for rows that change too often to be audited each time: it
shows a change by hand, though not one by somebody who computes the seal anew.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgspec
from sqlalchemy import Connection, Row, Table, func, select

AT_ONCE = 5_000
"""Rows of one page: some megabytes, however long the table is."""

Seen = Callable[[int], None]
"""Is told how many more rows were read."""

_encode = msgspec.json.Encoder().encode


def digest(row: Sequence[Any]) -> str:
    """BLAKE2b of 16 bytes (RFC 7693), in hexadecimal, over the row's values in JSON."""
    return hashlib.blake2b(_encode(row), digest_size=16).hexdigest()


def sealed(row: tuple[Any, ...]) -> tuple[Any, ...]:
    """The row with its seal as the last value."""
    return (*row, digest(row))


def seal_is_whole(row: Sequence[Any]) -> bool:
    """Whether a row that was written by :func:`sealed` still holds what it held then."""
    *values, seal = row
    return digest(values) == str(seal)


def pages(tx: Connection, table: Table, seen: Seen) -> Iterator[Sequence[Row[Any]]]:
    """All rows of a table in the order of its primary key of one column, page by page."""
    (key,) = table.primary_key
    query = select(table).order_by(key).limit(AT_ONCE)
    page = tx.execute(query).all()
    while page:
        seen(len(page))
        yield page
        page = tx.execute(query.where(key > getattr(page[-1], key.name))).all()


def count(tx: Connection, table: Table) -> int:
    """How many rows a table has."""
    return tx.scalar(select(func.count()).select_from(table)) or 0
