"""Statements past SQLAlchemy mean, and fail like, the same ones through it."""

from collections.abc import Iterator

import pymysql
import pytest
from sqlalchemy import Column, Connection, MetaData, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import IntegrityError, OperationalError, ProgrammingError

from ewallet.plumbing import statements
from ewallet.plumbing.database import Database, is_transient
from ewallet.plumbing.schema import IDENTIFIER, INTEGER, insert_rows, table
from tests.support.plumbing import make_tables, opened

metadata = MetaData()
things = table(
    "test_things",
    metadata,
    Column("id", IDENTIFIER, primary_key=True),
    Column("number", INTEGER, nullable=False),
)


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    make_tables(database_url, metadata)
    with opened(database_url) as database:
        yield database


def put(tx: Connection, *ids: str) -> None:
    insert_rows(tx, things, [(each, 0) for each in ids])


def ids_in(database: Database, *wanted: str, lock: bool = False) -> list[str]:
    def read(tx: Connection) -> list[str]:
        return [row[0] for row in statements.rows_in(tx, things, "id", wanted, columns=("id",), lock=lock)]

    return database.transact(read)


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 5, 63, 64, 65, 1000])
def test_any_number_of_rows_is_found_once_each(database: Database, count: int) -> None:
    ids = [f"thing-{number:04}" for number in range(count)]
    database.transact(lambda tx: put(tx, "another", *ids))

    assert sorted(ids_in(database, *ids, "unknown")) == ids


def test_locked_rows_come_in_the_order_of_their_keys(database: Database) -> None:
    database.transact(lambda tx: put(tx, "b", "c", "a"))

    assert ids_in(database, "c", "a", "b", lock=True) == ["a", "b", "c"]


def test_a_key_that_is_not_ascii_is_nobodys(database: Database) -> None:
    database.transact(lambda tx: put(tx, "a"))

    assert ids_in(database, "ä", "a", "\N{SNOWMAN}") == ["a"]


def test_rows_have_all_columns_in_the_tables_order_where_none_are_named(database: Database) -> None:
    database.transact(lambda tx: put(tx, "a"))

    assert list(database.transact(lambda tx: statements.rows_in(tx, things, "id", ["a"]))) == [("a", 0)]


def test_a_statement_tells_how_many_rows_it_has_changed_or_found_unchanged(database: Database) -> None:
    """Compare-and-set counts rows: one that has the value already must count on MariaDB too."""
    database.transact(lambda tx: put(tx, "a", "b"))

    def change(tx: Connection) -> int:
        return statements.run(tx, "UPDATE test_things SET number = ? WHERE id IN (?, ?, ?)", (0, "a", "b", "c")).changed

    assert database.transact(change) == 2


def test_the_head_is_the_row_that_was_set(database: Database) -> None:
    database.transact(lambda tx: put(tx, "a"))
    database.transact(lambda tx: statements.set_head(tx, things, id="b", number=7))

    assert database.transact(lambda tx: statements.lock_head(tx, things, "number", "id")) == (7, "b")


def test_a_key_that_is_taken_is_an_integrity_error_and_the_transaction_can_go_on(database: Database) -> None:
    def twice(tx: Connection) -> None:
        put(tx, "a")
        with pytest.raises(IntegrityError) as caught:
            put(tx, "a")
        assert not is_transient(caught.value)
        put(tx, "b")

    database.transact(twice)

    assert ids_in(database, "a", "b") == ["a", "b"]


def test_a_statement_that_is_none_is_an_error_with_its_text(database: Database) -> None:
    with pytest.raises((OperationalError, ProgrammingError), match="SELEKT"):
        database.transact(lambda tx: statements.run(tx, "SELEKT ?", (1,)))


def test_a_connection_that_the_server_has_cut_is_replaced(mariadb_url: str) -> None:
    """The second attempt gets a new connection at once, though others lie idle that were cut as well."""
    make_tables(mariadb_url, metadata)
    with opened(mariadb_url) as database:
        idle = [database._writer.connect() for _ in range(3)]
        cut = [connection.execute(text("SELECT connection_id()")).scalar_one() for connection in idle]
        for connection in idle:
            connection.close()
        _kill(mariadb_url, *cut)
        attempts = []

        def work(tx: Connection) -> None:
            attempts.append(1)
            put(tx, "a")

        database.transact(work)

        assert len(attempts) == 2
        assert ids_in(database, "a") == ["a"]


def _kill(url: str, *connection_ids: int) -> None:
    address = make_url(url)
    with pymysql.connect(
        host=address.host, port=address.port or 0, user=address.username, password=str(address.password)
    ) as connection:
        for connection_id in connection_ids:
            connection.cursor().execute(f"KILL {connection_id}")
