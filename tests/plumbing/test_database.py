"""A transaction happens whole or not at all, and is done again when the database asks for it."""

import asyncio
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pymysql
import pytest
import stamina
from prometheus_client import REGISTRY
from sqlalchemy import Column, Connection, MetaData, func, insert, select, text, update
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError

from ewallet.kernel.errors import Overloaded
from ewallet.plumbing import statements
from ewallet.plumbing.database import (
    MAXIMUM_ATTEMPTS,
    Database,
    DatabaseUnavailable,
    StorageUnavailable,
    is_transient,
    open_database,
    transaction_open,
)
from ewallet.plumbing.schema import IDENTIFIER, INTEGER, insert_rows, table, version_table
from tests.conftest import Backend
from tests.servers.mariadb import DURABLE, MariaDB, running_mariadb
from tests.support.plumbing import make_tables, opened, set_pragma

metadata = MetaData()
counters = table(
    "test_counters",
    metadata,
    Column("name", IDENTIFIER, primary_key=True),
    Column("value", INTEGER, nullable=False),
)
ReadOnly = tuple[Database, Callable[..., None]]
version = table(version_table("test"), metadata, Column("version_num", IDENTIFIER, primary_key=True))


@pytest.fixture
def url(database_url: str) -> str:
    make_tables(database_url, metadata)
    return database_url


@pytest.fixture
def database(url: str) -> Iterator[Database]:
    with opened(url) as database:
        yield database


@pytest.fixture
def no_waiting() -> Iterator[None]:
    """Attempts follow each other at once."""
    with stamina.set_testing(testing=True, attempts=MAXIMUM_ATTEMPTS - 1):
        yield


def put(name: str, value: int = 0) -> Callable[[Connection], None]:
    def work(tx: Connection) -> None:
        tx.execute(insert(counters).values(name=name, value=value))

    return work


def values(database: Database) -> dict[str, int]:
    def read(tx: Connection) -> dict[str, int]:
        return {row.name: row.value for row in tx.execute(select(counters))}

    return database.read(read)


def deadlock() -> OperationalError:
    return OperationalError("UPDATE", None, pymysql.OperationalError(1213, "Deadlock found"))


def test_leaving_without_an_error_commits(database: Database) -> None:
    database.transact(put("a"))

    assert values(database) == {"a": 0}


def test_any_error_rolls_everything_back_and_passes_through(database: Database) -> None:
    def work(tx: Connection) -> None:
        put("a")(tx)
        raise KeyError("a bug")

    with pytest.raises(KeyError, match="a bug"):
        database.transact(work)
    assert values(database) == {}


def retries() -> float:
    return REGISTRY.get_sample_value("ewallet_transaction_retries_total", {"database": "test"}) or 0


def test_a_transient_error_does_the_whole_function_again(database: Database) -> None:
    attempts = []

    def work(tx: Connection) -> str:
        put("a")(tx)
        attempts.append(1)
        if len(attempts) < 3:
            raise deadlock()
        return "done"

    before = retries()

    assert database.transact(work) == "done"

    assert (len(attempts), values(database)) == (3, {"a": 0})
    assert retries() == before + 2


def test_an_error_that_will_not_go_away_is_not_tried_again(database: Database) -> None:
    database.transact(put("a"))
    attempts = []

    def work(tx: Connection) -> None:
        attempts.append(1)
        put("b")(tx)
        put("a")(tx)

    with pytest.raises(IntegrityError):
        database.transact(work)
    assert (len(attempts), values(database)) == (1, {"a": 0})


@pytest.mark.usefixtures("no_waiting")
def test_redoing_stops_and_says_that_the_outcome_is_unknown(database: Database) -> None:
    attempts = []

    def work(_tx: Connection) -> None:
        attempts.append(1)
        raise deadlock()

    with pytest.raises(DatabaseUnavailable):
        database.transact(work)
    assert len(attempts) == MAXIMUM_ATTEMPTS


def failing_commits(database: Database, count: int, *, after: bool) -> None:
    """Make the next commits fail: before they reach the database, or after, when only the confirmation is lost."""
    left = [count]
    engine = database._writer

    def do_commit(connection: Any) -> None:
        fails = left[0] > 0
        left[0] -= 1
        if fails and not after:
            raise pymysql.OperationalError(2013, "Lost connection to server during query")
        connection.commit()
        if fails:
            raise pymysql.OperationalError(2013, "Lost connection to server during query")

    engine.dialect.do_commit = do_commit  # type: ignore[assignment]  # the one place that every commit passes


def test_a_commit_that_fails_writes_nothing_and_is_done_again(mariadb_url: str) -> None:
    make_tables(mariadb_url, metadata)
    with opened(mariadb_url) as database:
        failing_commits(database, 2, after=False)
        database.transact(put("a"))

        assert values(database) == {"a": 0}


def test_a_commit_whose_confirmation_is_lost_is_found_by_its_ids_when_done_again(mariadb_url: str) -> None:
    """The reason why every write must find its own earlier effects."""
    make_tables(mariadb_url, metadata)
    with opened(mariadb_url) as database:
        failing_commits(database, 1, after=True)

        def once(tx: Connection) -> str:
            if tx.execute(select(counters.c.value).where(counters.c.name == "a")).first():
                return "it exists"
            put("a")(tx)
            return "it is new"

        assert database.transact(once) == "it exists"
        assert values(database) == {"a": 0}


def test_a_commit_that_sqlite_refuses_leaves_nothing_and_no_open_transaction(sqlite_url: str) -> None:
    """A deferred foreign key is checked by COMMIT itself."""
    with opened(sqlite_url) as database:
        database.transact(lambda tx: tx.execute(text("CREATE TABLE parent (id INTEGER PRIMARY KEY)")))
        database.transact(
            lambda tx: tx.execute(
                text("CREATE TABLE child (id INTEGER REFERENCES parent (id) DEFERRABLE INITIALLY DEFERRED)")
            )
        )

        with pytest.raises(IntegrityError, match="FOREIGN KEY"):
            database.transact(lambda tx: tx.execute(text("INSERT INTO child VALUES (1)")))

        assert database.read(lambda tx: tx.execute(text("SELECT count(*) FROM child")).scalar()) == 0
        database.transact(lambda tx: tx.execute(text("INSERT INTO parent VALUES (1)")))


def test_a_connection_that_the_server_has_cut_is_replaced_in_the_middle_of_a_transaction(mariadb_url: str) -> None:
    make_tables(mariadb_url, metadata)
    with opened(mariadb_url) as database:
        attempts = []

        def work(tx: Connection) -> None:
            attempts.append(1)
            if len(attempts) == 1:
                kill(mariadb_url, tx.execute(text("SELECT connection_id()")).scalar_one())
            put("a")(tx)

        database.transact(work)

        assert (len(attempts), values(database)) == (2, {"a": 0})


def kill(url: str, connection_id: int) -> None:
    address = make_url(url)
    with pymysql.connect(
        host=address.host, port=address.port or 0, user=address.username, password=str(address.password)
    ) as connection:
        connection.cursor().execute(f"KILL CONNECTION {connection_id}")


def test_increments_of_two_processes_are_never_lost(url: str) -> None:
    with opened(url) as one, opened(url) as other:
        one.transact(put("a"))

        def increment(tx: Connection) -> None:
            mine = counters.c.name == "a"
            value = tx.execute(select(counters.c.value).where(mine).with_for_update()).scalar_one()
            tx.execute(update(counters).where(mine).values(value=value + 1))

        def many(database: Database) -> None:
            for _ in range(100):
                database.transact(increment)

        with ThreadPoolExecutor(2) as threads:
            for done in [threads.submit(many, database) for database in (one, other)]:
                done.result()

        assert values(one) == {"a": 200}


def test_a_real_deadlock_is_solved_by_doing_the_loser_again(mariadb_url: str) -> None:
    make_tables(mariadb_url, metadata)
    both_hold_one = threading.Barrier(2)
    attempts = []
    with opened(mariadb_url) as one, opened(mariadb_url) as other:
        one.transact(put("a"))
        one.transact(put("b"))

        def lock_both(database: Database, first: str, second: str) -> None:
            tries = []

            def work(tx: Connection) -> None:
                tries.append(1)
                attempts.append(1)
                increment(tx, first)
                if len(tries) == 1:
                    both_hold_one.wait(timeout=10)
                increment(tx, second)

            database.transact(work)

        def increment(tx: Connection, name: str) -> None:
            tx.execute(update(counters).where(counters.c.name == name).values(value=counters.c.value + 1))

        with ThreadPoolExecutor(2) as threads:
            for done in [threads.submit(lock_both, one, "a", "b"), threads.submit(lock_both, other, "b", "a")]:
                done.result()

        assert values(one) == {"a": 2, "b": 2}
        assert len(attempts) == 3


def test_a_locked_sqlite_file_is_waited_for(sqlite_url: str) -> None:
    make_tables(sqlite_url, metadata)
    blocker = sqlite3.connect(sqlite_url.removeprefix("sqlite:///"), isolation_level=None, check_same_thread=False)
    try:
        blocker.execute("BEGIN IMMEDIATE")
        with opened(sqlite_url) as database, ThreadPoolExecutor(1) as threads:
            done = threads.submit(database.transact, put("a"))
            with pytest.raises(TimeoutError):
                done.result(timeout=0.1)
            blocker.execute("COMMIT")
            done.result(timeout=10)

            assert values(database) == {"a": 0}
    finally:
        blocker.close()


def test_readers_see_what_is_committed_and_never_wait_for_a_writer(database: Database) -> None:
    def write_and_look(tx: Connection) -> dict[str, int]:
        put("a")(tx)
        return values(database)

    assert database.transact(write_and_look) == {}
    assert values(database) == {"a": 0}


def test_a_read_on_sqlite_cannot_write(sqlite_url: str) -> None:
    make_tables(sqlite_url, metadata)
    with opened(sqlite_url) as database, pytest.raises(OperationalError, match="readonly"):
        database.read(put("a"))


def test_a_thread_knows_that_it_is_inside_a_transaction(database: Database) -> None:
    """The hook by which tests see a remote call in a transaction."""
    assert not transaction_open()
    assert database.transact(lambda _tx: transaction_open())
    assert not database.read(lambda _tx: transaction_open())

    def fail(_tx: Connection) -> None:
        raise KeyError

    with pytest.raises(KeyError):
        database.transact(fail)
    assert not transaction_open()


def test_every_session_of_mariadb_is_strict_and_reads_what_is_committed(mariadb_url: str) -> None:
    with opened(mariadb_url) as database:
        isolation, mode, wait = database.read(
            lambda tx: tx.execute(text("SELECT @@tx_isolation, @@sql_mode, @@innodb_lock_wait_timeout")).one()
        )

    assert (isolation, wait) == ("READ-COMMITTED", 3)
    assert "STRICT_ALL_TABLES" in mode


def test_every_commit_of_sqlite_is_on_disk_before_it_answers(sqlite_url: str) -> None:
    with opened(sqlite_url) as database:
        assert database.transact(lambda tx: tx.execute(text("PRAGMA synchronous")).scalar()) == 2
        assert database.transact(lambda tx: tx.execute(text("PRAGMA journal_mode")).scalar()) == "wal"


@pytest.mark.usefixtures("no_waiting")
def test_a_server_that_is_not_there_is_unavailable_and_not_a_bug() -> None:
    database = open_database("mysql://nobody:nothing@127.0.0.1:1/none", "test")
    try:
        with pytest.raises(DatabaseUnavailable):
            database.read(lambda tx: tx.execute(text("SELECT 1")))
    finally:
        database.close()


def test_a_server_that_stays_away_is_waited_for_once_and_found_again_at_once(tmp_path: Path) -> None:
    """Who comes while it is away is told at once, and need not wait behind those who have waited."""
    with running_mariadb(tmp_path, *DURABLE) as server, server.database() as url, opened(url) as database:
        make_tables(url, metadata)
        database.transact(put("a"))
        server.kill()
        with pytest.raises(DatabaseUnavailable):
            database.transact(put("b"))

        started = time.monotonic()
        with pytest.raises(DatabaseUnavailable):
            database.transact(put("c"))
        with pytest.raises(DatabaseUnavailable):
            values(database)
        assert time.monotonic() - started < 1

        server.start()
        database.transact(put("d"))
        assert values(database) == {"a": 0, "d": 0}


def test_a_password_that_is_changed_meanwhile_makes_a_database_unavailable_and_is_no_bug(mariadb: MariaDB) -> None:
    with mariadb.database() as url, opened(url) as database:
        make_tables(url, metadata)
        user = make_url(url).username
        change = f"SET PASSWORD FOR {user}@'127.0.0.1' = PASSWORD('{{}}')"
        mariadb.execute_as_root(change.format("another"))
        try:
            with pytest.raises(DatabaseUnavailable):
                database.transact(put("a"))
        finally:
            mariadb.execute_as_root(change.format(make_url(url).password))
        database.transact(put("a"))


@pytest.mark.parametrize(
    "code", [1020, 1040, 1047, 1053, 1180, 1203, 1205, 1206, 1213, 1317, 1927, 2003, 2006, 2013, 2055, 4031]
)
def test_errors_of_locks_and_connections_are_transient(code: int) -> None:
    assert is_transient(OperationalError("", None, pymysql.OperationalError(code, "")))


@pytest.mark.parametrize("code", [1045, 1062, 1064, 1146, 1406, 3819])
def test_errors_of_statements_and_data_are_not_transient(code: int) -> None:
    assert not is_transient(OperationalError("", None, pymysql.OperationalError(code, "")))


def failing_with(error: Exception) -> Callable[[Connection], None]:
    def work(_tx: Connection) -> None:
        raise OperationalError("", None, error)

    return work


def sqlite_error(code: int) -> sqlite3.OperationalError:
    error = sqlite3.OperationalError(f"result code {code}")
    error.sqlite_errorcode = code
    return error


@pytest.mark.parametrize(
    "error",
    [
        *(pymysql.OperationalError(code, "") for code in (3, 1021, 1026, 1030, 1114, 1290, 1836)),
        sqlite_error(sqlite3.SQLITE_FULL),
        sqlite_error(sqlite3.SQLITE_IOERR_FSYNC),
        sqlite_error(sqlite3.SQLITE_CANTOPEN),
        sqlite_error(sqlite3.SQLITE_READONLY_DBMOVED),
    ],
    ids=repr,
)
def test_errors_of_disks_are_told_apart_and_not_waited_for(database: Database, error: Exception) -> None:
    with pytest.raises(StorageUnavailable):
        database.transact(failing_with(error))


def test_errors_of_our_own_code_are_not_transient() -> None:
    assert not is_transient(ValueError("1213"))


async def test_the_event_loop_goes_on_while_the_database_works(database: Database) -> None:
    loop_went_on = threading.Event()

    def wait_for_the_loop(tx: Connection) -> int:
        if not loop_went_on.wait(timeout=10):
            raise TimeoutError("the event loop stood still")
        return int(tx.execute(select(func.count()).select_from(counters)).scalar_one())

    asyncio.get_running_loop().call_later(0.01, loop_went_on.set)
    assert await database.writing(wait_for_the_loop) == 0

    loop_went_on.clear()
    asyncio.get_running_loop().call_later(0.01, loop_went_on.set)
    assert await database.reading(wait_for_the_loop) == 0


async def test_a_ping_is_answered_by_a_database_that_is_there(database: Database) -> None:
    await database.ping()


@pytest.fixture(params=["sqlite", "mariadb"])
def read_only(request: pytest.FixtureRequest, fresh_database: Callable[[Backend], str]) -> Iterator[ReadOnly]:
    """Give a database and a function that makes its writer's side read-only, or writable again."""
    url = fresh_database(request.param)
    make_tables(url, metadata)

    def switch(*, on: bool) -> None:
        if request.param == "sqlite":
            set_pragma(opened_database, f"query_only = {on}")
        else:
            server: MariaDB = request.getfixturevalue("mariadb")
            server.execute_as_root(f"SET GLOBAL read_only = {on}")

    with opened(url) as opened_database:
        opened_database.transact(put("a"))
        opened_database.transact(lambda tx: tx.execute(insert(version).values(version_num="0001")))
        switch(on=True)
        yield opened_database, switch
        switch(on=False)


async def test_read_only_storage_refuses_writes_at_once_and_reads_go_on(read_only: ReadOnly) -> None:
    database, _ = read_only
    attempts = []

    def work(tx: Connection) -> None:
        attempts.append(1)
        put("b")(tx)

    with pytest.raises(StorageUnavailable):
        database.transact(work)

    assert len(attempts) <= 1  # SQLite does not even begin
    assert values(database) == {"a": 0}


async def test_a_ping_notices_by_itself_when_storage_takes_writes_again(read_only: ReadOnly) -> None:
    """A process that is not ready gets no requests, so no request would ever find out."""
    database, switch = read_only
    await database.ping()
    with pytest.raises(StorageUnavailable):
        database.transact(put("b"))

    with pytest.raises(StorageUnavailable):
        await database.ping()
    switch(on=False)
    await database.ping()

    database.transact(put("b"))
    assert values(database) == {"a": 0, "b": 0}


def fill(tx: Connection) -> None:
    insert_rows(tx, counters, [(f"{number:060}", number) for number in range(1000)])


async def test_a_ping_tries_what_was_refused_because_something_smaller_may_pass(sqlite_url: str) -> None:
    """A process that says it is ready and refuses every payment is worse than one that is not."""
    make_tables(sqlite_url, metadata)
    with opened(sqlite_url) as database:
        set_pragma(database, "max_page_count = 10")
        with pytest.raises(StorageUnavailable):
            database.transact(fill)
        database.transact(put("a"))

        with pytest.raises(StorageUnavailable):
            await database.ping()
        set_pragma(database, "max_page_count = 1000")
        await database.ping()

        assert values(database) == {"a": 0}


def test_a_file_that_cannot_grow_keeps_what_it_has_and_goes_on_when_there_is_room(sqlite_url: str) -> None:
    """SQLite's own limit of a file's size gives the error of a full disk."""
    make_tables(sqlite_url, metadata)
    with opened(sqlite_url) as database:
        database.transact(put("a"))
        set_pragma(database, "max_page_count = 10")

        with pytest.raises(StorageUnavailable, match="full"):
            database.transact(fill)

        assert values(database) == {"a": 0}
        set_pragma(database, "max_page_count = 1000")
        database.transact(fill)
        assert len(values(database)) == 1001


def test_an_error_of_the_database_does_not_repeat_the_values_that_it_was_given(database: Database) -> None:
    """Errors are logged, and private keys and password hashes are among the values."""
    with pytest.raises(DBAPIError) as built:
        database.transact(
            lambda tx: tx.execute(text("SELECT nothing FROM nowhere WHERE name = :name"), {"name": "hush"})
        )
    with pytest.raises(DBAPIError) as plain:
        database.transact(lambda tx: statements.run(tx, "SELECT nothing FROM nowhere WHERE name = ?", ("hush",)))

    assert "hush" not in str(built.value)
    assert "hush" not in str(plain.value)


async def test_more_reads_than_can_be_done_soon_are_refused_at_once(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever waits for its turn for ever reads nothing either, and the process holds all of them in memory."""
    monkeypatch.setattr("ewallet.plumbing.database.MAXIMUM_READS", 2)
    go_on = threading.Event()
    with opened(sqlite_url) as database:
        waiting = [asyncio.create_task(database.reading(lambda _tx: go_on.wait(10))) for _ in range(2)]
        await asyncio.sleep(0)

        with pytest.raises(Overloaded):
            await database.reading(lambda _tx: None)

        go_on.set()
        assert await asyncio.gather(*waiting) == [True, True]
        assert await database.reading(lambda _tx: "room again") == "room again"
