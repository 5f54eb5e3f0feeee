"""What the tables of auth keep by themselves, on both databases."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from ewallet.auth import store
from ewallet.auth.domain import NO_GUESSES, Guesses, User
from ewallet.kernel.caller import Role
from ewallet.plumbing.audit import AuditRecord
from ewallet.plumbing.database import Database, open_database
from ewallet.plumbing.migrations import migrate
from ewallet.plumbing.schema import version_table

NOW = 1_790_000_000_000_000


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    migrate("auth", database_url)
    database = open_database(database_url, "auth")
    yield database
    database.close()


@pytest.fixture
def other_process(database: Database, database_url: str) -> Iterator[Database]:
    """A second set of connections: all that another process has in common with this one is the database."""
    del database  # migrated by now
    other = open_database(database_url, "auth")
    yield other
    other.close()


def user(number: int, *, email: str) -> User:
    return User(f"usr_{number}", email, "hash", "Ada Byron", Role.CUSTOMER, "USD", wallet_opened=False, created_at=NOW)


def test_the_migrations_make_the_tables_of_the_store(database: Database) -> None:
    def differences(tx: Connection) -> list[object]:
        context = MigrationContext.configure(tx, opts={"version_table": version_table("auth"), "compare_type": True})
        return list(compare_metadata(context, store.metadata))

    assert database.read(differences) == []


@pytest.mark.parametrize("statement", ["UPDATE auth_audit SET actor = 'usr_2'", "DELETE FROM auth_audit"])
def test_the_database_itself_refuses_to_change_the_audit(database: Database, statement: str) -> None:
    record = AuditRecord("usr_1", "user.registered", "usr_1", "req", "ok", {})
    database.transact(lambda tx: store.audit.append(tx, NOW, [record]))

    with pytest.raises(DBAPIError, match="append-only"):
        database.transact(lambda tx: tx.execute(text(statement)))
    assert database.read(store.audit.first_fault) is None


def test_the_database_itself_refuses_a_second_owner_of_an_address(database: Database) -> None:
    database.transact(lambda tx: store.add_users(tx, [user(1, email="ada@example.com")]))

    with pytest.raises(DBAPIError):
        database.transact(lambda tx: store.add_users(tx, [user(2, email="ada@example.com")]))


@pytest.mark.parametrize("emails", [("ada@example.com", "Ada@example.com"), ("rené@example.com", "rene@example.com")])
def test_addresses_are_compared_letter_by_letter(database: Database, emails: tuple[str, str]) -> None:
    """MySQL's usual collations would call these equal; what is equal is for the domain to say."""
    database.transact(lambda tx: store.add_users(tx, [user(i, email=email) for i, email in enumerate(emails)]))

    assert set(database.read(lambda tx: store.users_by_email(tx, [emails[0]]))) == {emails[0]}


def test_a_lock_lets_one_transaction_through_at_a_time(database: Database, other_process: Database) -> None:
    inside, order = threading.Event(), []

    def first(tx: Connection) -> None:
        store.lock(tx, store.USERS_LOCK)
        inside.set()
        order.append("first in")
        threading.Event().wait(0.2)  # time for the second to get through, if it could
        order.append("first out")

    def second(tx: Connection) -> None:
        store.lock(tx, store.USERS_LOCK)
        order.append("second in")

    with ThreadPoolExecutor(2) as threads:
        one = threads.submit(database.transact, first)
        assert inside.wait(10)
        threads.submit(other_process.transact, second).result()
        one.result()

    assert order == ["first in", "first out", "second in"]


def test_counts_of_two_processes_add_up(database: Database, other_process: Database) -> None:
    """Each reads, adds one and writes, fifty times, on keys that neither has seen before."""

    def count_one(tx: Connection) -> None:
        guesses = store.locked_guesses(tx, ["b", "a"])
        store.write_guesses(tx, {key: Guesses(NOW, one.count + 1) for key, one in guesses.items()})

    def count_fifty(connections: Database) -> None:
        for _ in range(50):
            connections.transact(count_one)

    with ThreadPoolExecutor(2) as threads:
        list(threads.map(count_fifty, [database, other_process]))

    assert database.transact(lambda tx: store.locked_guesses(tx, ["a", "b", "c"])) == {
        "a": Guesses(NOW, 100),
        "b": Guesses(NOW, 100),
        "c": NO_GUESSES,
    }
