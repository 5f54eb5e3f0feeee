"""Multi-row writes of any size, columns and triggers that mean the same on every database."""

from collections.abc import Iterator

import pytest
from sqlalchemy import Column, Connection, MetaData, delete, select, text
from sqlalchemy.exc import DBAPIError, IntegrityError

from ewallet.plumbing.database import Database
from ewallet.plumbing.schema import (
    IDENTIFIER,
    INTEGER,
    LONG_TEXT,
    SHORT_TEXT,
    insert_rows,
    make_append_only,
    table,
    upsert_rows,
)
from tests.support.plumbing import before_each_statement, make_tables, opened

metadata = MetaData()
things = table(
    "test_things",
    metadata,
    Column("id", IDENTIFIER, primary_key=True),
    Column("number", INTEGER, nullable=False),
    Column("name", SHORT_TEXT, nullable=True),
    Column("story", LONG_TEXT, nullable=True),
)

numbered = table(
    "test_numbered",
    metadata,
    Column("sequence", INTEGER, primary_key=True, autoincrement=True),
    Column("name", IDENTIFIER, nullable=False),
)

Thing = tuple[str, int, str | None, str | None]


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    make_tables(database_url, metadata)
    with opened(database_url) as database:
        yield database


def rows(count: int, *, number: int = 0) -> list[Thing]:
    return [(f"thing-{position:04}", number + position, "a name", None) for position in range(count)]


def stored(database: Database) -> list[Thing]:
    def read(tx: Connection) -> list[Thing]:
        return [(row.id, row.number, row.name, row.story) for row in tx.execute(select(things).order_by(things.c.id))]

    return database.read(read)


@pytest.mark.parametrize("count", [0, 1, 2, 3, 255, 256, 257, 511, 512, 513, 1000])
def test_any_number_of_rows_is_inserted_once_each(database: Database, count: int) -> None:
    database.transact(lambda tx: insert_rows(tx, things, rows(count)))

    assert stored(database) == rows(count)


@pytest.mark.parametrize("count", [0, 1, 3, 257, 1000])
def test_any_number_of_rows_is_inserted_or_updated(database: Database, count: int) -> None:
    database.transact(lambda tx: insert_rows(tx, things, rows(count // 2)))

    database.transact(lambda tx: upsert_rows(tx, things, rows(count, number=7), update=("number",)))

    assert stored(database) == rows(count, number=7)


def test_an_upsert_leaves_the_columns_alone_that_it_does_not_name(database: Database) -> None:
    database.transact(lambda tx: insert_rows(tx, things, [("a", 1, "before", "kept")]))

    database.transact(lambda tx: upsert_rows(tx, things, [("a", 2, "after", "lost")], update=("number", "name")))

    assert stored(database) == [("a", 2, "after", "kept")]


def test_columns_that_are_not_named_get_their_defaults(database: Database) -> None:
    database.transact(lambda tx: insert_rows(tx, things, [(1, "a"), (2, "b")], columns=("number", "id")))

    assert stored(database) == [("a", 1, None, None), ("b", 2, None, None)]


def test_a_batch_is_a_handful_of_statements_whatever_its_size(database: Database) -> None:
    statements: list[str] = []
    with before_each_statement(database, lambda statement, _parameters: statements.append(statement)):
        database.transact(lambda tx: insert_rows(tx, things, rows(256)))

    assert sum(statement.startswith("INSERT") for statement in statements) == 1


def test_one_row_too_many_leaves_none_of_the_batch(database: Database) -> None:
    with pytest.raises(IntegrityError):
        database.transact(lambda tx: insert_rows(tx, things, [*rows(300), rows(1)[0]]))

    assert stored(database) == []


def test_any_text_comes_back_as_it_was(database: Database) -> None:
    awkward = "ünï¢ödé 😀 %s ? \\ ' \" \n\t"

    database.transact(lambda tx: insert_rows(tx, things, [("a", 1, awkward, awkward * 1000)]))

    assert stored(database) == [("a", 1, awkward, awkward * 1000)]


def test_many_long_texts_are_more_than_one_statement_may_carry(database: Database) -> None:
    """A server refuses a statement of more than `max_allowed_packet`: 16 MB unless it was told otherwise."""
    many = [(f"{number}", number, None, "\U0001f600" * 70_000) for number in range(64)]

    database.transact(lambda tx: insert_rows(tx, things, many))

    assert [len(row[3] or "") for row in stored(database)] == [70_000] * 64


def test_identifiers_and_names_that_differ_in_case_are_different(database: Database) -> None:
    database.transact(lambda tx: insert_rows(tx, things, [("a", 1, "Ä", None), ("A", 2, "ä", None)]))

    found = database.read(lambda tx: tx.execute(select(things.c.number).where(things.c.name == "ä")).scalars().all())
    assert list(found) == [2]


@pytest.mark.parametrize("number", [0, -1, 2**63 - 1, -(2**63)])
def test_integers_of_64_bits_are_kept_exactly(database: Database, number: int) -> None:
    database.transact(lambda tx: insert_rows(tx, things, [("a", number, None, None)]))

    assert stored(database) == [("a", number, None, None)]


def test_a_value_of_another_type_is_refused_and_not_turned_into_something(database: Database) -> None:
    with pytest.raises(DBAPIError):
        database.transact(lambda tx: insert_rows(tx, things, [("a", "twelve", None, None)]))


@pytest.mark.parametrize("statement", ["UPDATE test_things SET number = 0", "DELETE FROM test_things"])
def test_the_database_itself_refuses_to_change_what_is_append_only(database: Database, statement: str) -> None:
    for _ in range(2):  # what is there stays
        database.transact(lambda tx: make_append_only(tx, "test_things"))
    database.transact(lambda tx: insert_rows(tx, things, rows(2)))

    with pytest.raises(DBAPIError, match="test_things is append-only"):
        database.transact(lambda tx: tx.execute(text(statement)))
    assert stored(database) == rows(2)


def test_a_number_that_the_database_gave_is_never_given_again(database: Database) -> None:
    def numbers(tx: Connection) -> list[int]:
        return list(tx.execute(select(numbered.c.sequence).order_by(numbered.c.sequence)).scalars())

    database.transact(lambda tx: insert_rows(tx, numbered, [("a",), ("b",)], columns=("name",)))
    before = database.read(numbers)
    database.transact(lambda tx: tx.execute(delete(numbered)))
    database.transact(lambda tx: insert_rows(tx, numbered, [("c",)], columns=("name",)))

    assert database.read(numbers)[0] > max(before)
