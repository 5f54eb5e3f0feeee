"""A database is brought to this program's schema once, whoever starts first, and never back."""

from concurrent.futures import Future, ThreadPoolExecutor

import pytest
from sqlalchemy import Connection, inspect, text

from ewallet.plumbing import migrations
from ewallet.plumbing.migrations import SchemaIsNewer, _one_at_a_time, migrate
from ewallet.plumbing.schema import version_table
from tests.support.plumbing import opened

SERVICE = "notification"
"""Any service would do; this one has the smallest schema."""


def tables(url: str) -> set[str]:
    with opened(url) as database:
        return set(database.read(lambda tx: inspect(tx).get_table_names()))


def test_the_first_start_makes_the_tables_and_the_second_finds_them(database_url: str) -> None:
    assert migrate(SERVICE, database_url)
    made = tables(database_url)

    assert not migrate(SERVICE, database_url)
    assert tables(database_url) == made
    assert version_table(SERVICE) in made


def test_all_tables_of_a_service_bear_its_name_because_services_may_share_a_database(database_url: str) -> None:
    migrate(SERVICE, database_url)

    assert {name.split("_")[0] for name in tables(database_url)} == {SERVICE}


def test_processes_that_start_at_the_same_time_migrate_once(database_url: str) -> None:
    with ThreadPoolExecutor(4) as threads:
        outcomes = [done.result() for done in [threads.submit(migrate, SERVICE, database_url) for _ in range(4)]]

    assert sorted(outcomes) == [False, False, False, True]


def test_who_finds_another_migrating_waits_for_it(mariadb_url: str) -> None:
    with opened(mariadb_url) as other, ThreadPoolExecutor(1) as threads:

        def migrating(tx: Connection) -> None:
            with _one_at_a_time(tx, SERVICE):
                waiting.append(threads.submit(migrate, SERVICE, mariadb_url))
                with pytest.raises(TimeoutError):
                    waiting[0].result(timeout=0.5)

        waiting: list[Future[bool]] = []
        other.transact(migrating)

        assert waiting[0].result(timeout=10)


def test_a_change_of_a_schema_may_take_longer_than_any_other_statement(
    mariadb_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To change a large table takes hours, and a connection that was given up would be no help."""
    patience: list[int] = []

    def note(tx: Connection, _service: str) -> bool:
        patience.append(tx.connection.driver_connection._read_timeout)  # type: ignore[union-attr]  # PyMySQL's own
        return False

    monkeypatch.setattr(migrations, "_upgrade_alone", note)
    migrate(SERVICE, mariadb_url)

    assert patience == [migrations.STATEMENT_SECONDS]


def test_a_database_of_a_newer_program_is_left_alone(database_url: str) -> None:
    migrate(SERVICE, database_url)

    def pretend(tx: Connection) -> None:
        tx.execute(text("UPDATE notification_schema_version SET version_num = 'from-the-future'"))

    with opened(database_url) as database:
        database.transact(pretend)

    with pytest.raises(SchemaIsNewer, match="from-the-future"):
        migrate(SERVICE, database_url)
