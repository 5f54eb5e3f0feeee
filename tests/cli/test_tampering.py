"""Whatever somebody changes by hand in the books, `ewallet verify` names it."""

import asyncio
import random
import tempfile
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Column, Table
from sqlalchemy.exc import IntegrityError

from ewallet.plumbing import verifying
from tests.support.books import BOOKS, Books
from tests.support.tampering import Row, Tampered, change, copied, found_in, other_values, remove, swap

TABLES = [pytest.param(books, table, id=table.name) for books in BOOKS for table in books.tables]
COLUMNS = [
    pytest.param(books, table, column, id=f"{table.name}.{column.name}")
    for books in BOOKS
    for table in books.tables
    for column in table.columns
]

ROWS = 6
"""Of up to thirty in a table: to look through all books takes some milliseconds for each change."""
PAIRS = 30

Files = dict[str, Tampered]


@pytest.fixture(scope="module")
def files(scratch: Path) -> Iterator[Files]:
    """Give the files of every service's books, by service."""
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        opened = {books.service: _filled(books, f"sqlite:///{folder}/{books.service}") for books in BOOKS}
        yield opened
        for file in opened.values():
            file.close()


def _filled(books: Books, url: str) -> Tampered:
    async def fill() -> None:
        await books.fill(url)

    asyncio.run(fill())
    return Tampered(url)


@pytest.mark.parametrize("books", BOOKS, ids=lambda books: books.service)
@pytest.mark.parametrize("at_once", [verifying.AT_ONCE, 7, 1])
def test_books_that_nobody_touched_are_whole(
    books: Books, at_once: int, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many pages they have."""
    monkeypatch.setattr(verifying, "AT_ONCE", at_once)

    with files[books.service].changing() as tx:
        assert found_in(tx, books.faults) == ""


@pytest.mark.parametrize(("books", "table"), TABLES)
def test_every_table_has_rows_to_change(books: Books, table: Table, files: Files) -> None:
    assert files[books.service].rows(table)


@pytest.mark.parametrize(("books", "table", "column"), COLUMNS)
def test_a_value_that_was_changed_is_named(books: Books, table: Table, column: Column[Any], files: Files) -> None:
    """In several ways; which rows, and which byte, is another choice for every column, and the same in every run."""
    chance, rows = random.Random(str(column)), files[books.service].rows(table)
    for row in chance.sample(rows, min(ROWS, len(rows))):
        for value in () if serves_locking_only(column, row) else other_values(row[column.name], column, chance):
            with files[books.service].changing() as tx:
                try:
                    after = change(tx, table, row, column, value)
                except IntegrityError:
                    continue  # The database has noticed already: another row has this unique value.
                shown = found_in(tx, books.faults)

            assert any(books.name_of(table, each) in shown for each in (row, after)), (row, value, shown)


def serves_locking_only(column: Column[Any], row: Row) -> bool:
    """What is written so that two who want the same row meet: it guards nothing."""
    is_running_lease = column.name == "lease_until" and row["status"] == "PENDING"
    return is_running_lease or column.name == "operations_begun"


@pytest.mark.parametrize(("books", "table"), TABLES)
def test_a_row_that_was_removed_is_named(books: Books, table: Table, files: Files) -> None:
    for row in files[books.service].rows(table):
        with files[books.service].changing() as tx:
            remove(tx, table, row)

            assert books.name_of_removed(table, row) in found_in(tx, books.faults), row


@pytest.mark.parametrize(("books", "table"), TABLES)
def test_the_end_of_a_table_that_was_cut_off_is_found(books: Books, table: Table, files: Files) -> None:
    """However much of it, up to the whole table."""
    rows = files[books.service].rows(table)
    for length in range(len(rows)):
        with files[books.service].changing() as tx:
            remove(tx, table, *rows[length:])
            shown = found_in(tx, books.faults)

        assert any(books.name_of_removed(table, row) in shown for row in rows[length:]), (length, shown)


@pytest.mark.parametrize(("books", "table"), TABLES)
def test_a_row_that_was_copied_is_named(books: Books, table: Table, files: Files) -> None:
    for original in files[books.service].rows(table):
        row = copied(table, original)
        with files[books.service].changing() as tx:
            tx.execute(table.insert(), row)

            assert books.name_of(table, row) in found_in(tx, books.faults), row


@pytest.mark.parametrize(("books", "table"), [each for each in TABLES if not str(each.id).endswith("_head")])
def test_two_rows_that_changed_places_are_named(books: Books, table: Table, files: Files) -> None:
    pairs = [*combinations(files[books.service].rows(table), 2)]
    for first, second in random.Random(table.name).sample(pairs, min(PAIRS, len(pairs))):
        with files[books.service].changing() as tx:
            swap(tx, table, first, second)
            shown = found_in(tx, books.faults)

        assert books.name_of(table, first) in shown or books.name_of(table, second) in shown, (first, second, shown)
