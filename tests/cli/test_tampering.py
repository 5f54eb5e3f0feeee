"""Whatever somebody changes by hand in the books, `ewallet verify` names it: every column of every table."""

import asyncio
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Column, Table

from ewallet.plumbing import verifying
from tests.support.books import BOOKS, Books
from tests.support.tampering import Tampered, copied

TABLES = [pytest.param(books, table, id=table.name) for books in BOOKS for table in books.tables]
COLUMNS = [
    pytest.param(books, table, column, id=f"{table.name}.{column.name}")
    for books in BOOKS
    for table in books.tables
    for column in table.columns
]

Copy = Callable[[Books], Tampered]


@pytest.fixture(scope="module")
def originals(scratch: Path) -> Iterator[dict[str, Path]]:
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        for books in BOOKS:
            asyncio.run(_fill(books, f"sqlite:///{folder}/{books.service}"))
        yield {books.service: Path(folder, books.service) for books in BOOKS}


async def _fill(books: Books, url: str) -> None:
    await books.fill(url)


@pytest.fixture
def copy(originals: dict[str, Path], scratch: Path) -> Iterator[Copy]:
    """Give a function that makes a fresh copy of a service's books."""
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        numbers = iter(range(1_000))
        yield lambda books: Tampered(originals[books.service], Path(folder, f"{next(numbers)}"), books.service)


@pytest.mark.parametrize("books", BOOKS, ids=lambda books: books.service)
@pytest.mark.parametrize("at_once", [verifying.AT_ONCE, 7, 1])
def test_books_that_nobody_touched_are_whole(
    books: Books, at_once: int, copy: Copy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many pages they have."""
    monkeypatch.setattr(verifying, "AT_ONCE", at_once)

    assert copy(books).faults(books.faults) == ""


@pytest.mark.parametrize(("books", "table"), TABLES)
def test_every_table_has_rows_to_change(books: Books, table: Table, copy: Copy) -> None:
    assert copy(books).rows(table)


@pytest.mark.parametrize(("books", "table", "column"), COLUMNS)
def test_a_value_that_was_changed_is_named(books: Books, table: Table, column: Column[Any], copy: Copy) -> None:
    for row in _some_of(copy(books).rows(table)):
        tampered = copy(books)
        if is_running_lease(column, row):
            continue
        after = row | {column.name: tampered.change(table, row, column)}

        shown = tampered.faults(books.faults)

        assert books.name_of(table, row) in shown or books.name_of(table, after) in shown, (row, after, shown)


def _some_of(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [rows[number] for number in sorted({0, len(rows) // 3, len(rows) // 2, len(rows) - 1})]


def is_running_lease(column: Column[Any], row: dict[str, Any]) -> bool:
    """Whoever takes a lease has nothing else of the row to write, and it guards nothing."""
    return column.name == "lease_until" and row["status"] == "PENDING"


KEPT = [
    parameters
    for parameters in TABLES
    # A key without its row is forgotten, no more: its reference still keeps money from moving twice.
    if parameters.id != "wallet_keys"
]


@pytest.mark.parametrize(("books", "table"), KEPT)
def test_a_row_that_was_removed_is_named(books: Books, table: Table, copy: Copy) -> None:
    for row in copy(books).rows(table):
        if is_intent_only(table, row):
            continue
        tampered = copy(books)
        tampered.remove(table, row)

        assert books.name_of_removed(table, row) in tampered.faults(books.faults), row


def is_intent_only(table: Table, row: dict[str, Any]) -> bool:
    """An operation without a verdict has left no trace here but its row; the wallet knows whether money moved."""
    return table.name == "payment_operations" and row["status"] == "PENDING" and row["kind"] != "EXPIRY"


@pytest.mark.parametrize(("books", "table"), KEPT)
def test_the_end_of_a_table_that_was_cut_off_is_found(books: Books, table: Table, copy: Copy) -> None:
    tampered = copy(books)
    tail = [row for row in tampered.rows(table) if not is_intent_only(table, row)][-2:]
    tampered.remove(table, *tail)

    shown = tampered.faults(books.faults)

    assert any(books.name_of_removed(table, row) in shown for row in tail)


@pytest.mark.parametrize(("books", "table"), TABLES)
def test_a_row_that_was_copied_is_named(books: Books, table: Table, copy: Copy) -> None:
    tampered = copy(books)
    row = copied(table, tampered.rows(table)[-1])
    tampered.insert(table, row)

    assert books.name_of(table, row) in tampered.faults(books.faults)


@pytest.mark.parametrize(("books", "table"), [each for each in TABLES if not str(each.id).endswith("_head")])
def test_two_rows_that_changed_places_are_named(books: Books, table: Table, copy: Copy) -> None:
    tampered = copy(books)
    first, *_, last = tampered.rows(table)
    tampered.swap(table, first, last)

    assert books.name_of(table, first) in tampered.faults(books.faults)
