"""What an operator is told about a database that cannot be used, and that migrating is safe to repeat."""

import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.engine import make_url

from ewallet.cli.databases import migrate_all
from ewallet.cli.terminal import Stopped
from ewallet.plumbing.database import open_database
from ewallet.plumbing.settings import SERVICES, Settings, load_settings, variable
from tests.cli.conftest import Run
from tests.conftest import Backend
from tests.servers.mariadb import MariaDB, running_mariadb
from tests.support.ports import free_port

BACKENDS = pytest.mark.parametrize("backend", ["sqlite", "mariadb"])


def wallet_in(url: str) -> Settings:
    return Settings(wallet_database_url=url)


def databases_in(urls: dict[str, str]) -> Settings:
    return load_settings({variable(f"{service}_database_url"): url for service, url in urls.items()})


def complaint(settings: Settings) -> str:
    with pytest.raises(Stopped) as stopped:
        migrate_all(settings, ["wallet"])
    return str(stopped.value)


@BACKENDS
def test_migrating_twice_does_nothing_the_second_time(
    fresh_databases: Callable[[Backend], dict[str, str]], backend: Backend
) -> None:
    settings = databases_in(fresh_databases(backend))

    assert migrate_all(settings, SERVICES) == list(SERVICES)
    assert migrate_all(settings, SERVICES) == []


@BACKENDS
def test_all_services_may_share_one_database(fresh_database: Callable[[Backend], str], backend: Backend) -> None:
    settings = databases_in(dict.fromkeys(SERVICES, fresh_database(backend)))

    assert migrate_all(settings, SERVICES) == list(SERVICES)


def test_processes_that_start_at_once_migrate_once(database_url: str) -> None:
    with ThreadPoolExecutor(4) as pool:
        changed = list(pool.map(lambda _: migrate_all(wallet_in(database_url), ["wallet"]), range(4)))

    assert sorted(changed) == [[], [], [], ["wallet"]]


def test_a_schema_of_a_newer_program_is_left_alone(database_url: str) -> None:
    settings = wallet_in(database_url)
    migrate_all(settings, ["wallet"])
    database = open_database(database_url, "wallet")
    database.transact(lambda tx: tx.execute(text("UPDATE wallet_schema_version SET version_num = '9999'")))
    database.close()

    assert "start the newer version" in complaint(settings)


def test_a_wrong_password_is_named_and_not_shown(mariadb_url: str) -> None:
    wrong = make_url(mariadb_url).set(password="not-the-password")

    said = complaint(wallet_in(wrong.render_as_string(hide_password=False)))

    assert "user or password are wrong" in said
    assert "EWALLET_WALLET_DATABASE_URL" in said
    assert "not-the-password" not in said


def test_a_missing_database_is_named(mariadb: MariaDB, mariadb_url: str) -> None:
    mariadb.execute_as_root("CREATE USER IF NOT EXISTS nobody@'127.0.0.1' IDENTIFIED BY 'nobody'")
    missing = make_url(mariadb_url).set(database="ewallet_missing")

    assert "CREATE DATABASE" in complaint(wallet_in(missing.render_as_string(hide_password=False)))


def test_a_server_that_is_not_there_is_named() -> None:
    said = complaint(wallet_in(f"mysql://user:password@127.0.0.1:{free_port()}/wallet"))

    assert "start the server" in said


def test_a_user_without_rights_is_told_to_grant_them(mariadb: MariaDB, mariadb_url: str) -> None:
    url = make_url(mariadb_url)
    mariadb.execute_as_root("CREATE OR REPLACE USER reader@'127.0.0.1' IDENTIFIED BY 'reader'")
    mariadb.execute_as_root(f"GRANT SELECT ON {url.database}.* TO reader@'127.0.0.1'")
    reader = url.set(username="reader", password="reader")

    assert "GRANT ALL" in complaint(wallet_in(reader.render_as_string(hide_password=False)))


def test_a_read_only_server_is_named(mariadb: MariaDB, mariadb_url: str) -> None:
    mariadb.execute_as_root("SET GLOBAL read_only = ON")
    try:
        assert "read-only" in complaint(wallet_in(mariadb_url))
    finally:
        mariadb.execute_as_root("SET GLOBAL read_only = OFF")


def test_a_server_whose_binary_log_forbids_triggers_is_told_what_to_set(tmp_path: Path) -> None:
    with running_mariadb(tmp_path, "--log-bin") as server, server.database() as url:
        assert "log_bin_trust_function_creators = 1" in complaint(wallet_in(url))


def test_settings_of_a_server_that_can_lose_money_are_named_once_with_the_databases_concerned(
    fresh_databases: Callable[[Backend], dict[str, str]], run: Run
) -> None:
    """The servers of the tests are such: they need not survive a power cut."""
    urls = {f"{service.upper()}_DATABASE_URL": url for service, url in fresh_databases("mariadb").items()}

    migrated = run("migrate", **urls)

    assert migrated.status == 0
    warned = [line for line in migrated.out.splitlines() if "innodb_flush_log_at_trx_commit is 0" in line]
    assert len(warned) == 1
    assert warned[0].startswith("WARNING")
    assert warned[0].endswith("(auth, wallet, payment, notification)")


def test_a_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    file = tmp_path / "wallet.sqlite3"
    file.write_text("shopping list\n" * 100)

    said = complaint(Settings(data=str(tmp_path)))

    assert str(file) in said
    assert "not a SQLite database" in said
    assert "EWALLET_DATA" in said


def test_a_data_folder_that_is_a_file_is_named(tmp_path: Path) -> None:
    file = tmp_path / "data"
    file.touch()

    assert str(file) in complaint(Settings(data=str(file)))


def test_a_database_that_another_program_locks_is_named(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "wallet.sqlite3") as other:
        other.execute("PRAGMA journal_mode=WAL")
        other.execute("BEGIN IMMEDIATE")

        assert "holds a lock" in complaint(Settings(data=str(tmp_path)))
    other.close()


def test_a_data_folder_that_cannot_be_made_is_named() -> None:
    said = complaint(Settings(data="/proc/ewallet"))  # where not even root can make a folder

    assert "/proc/ewallet" in said
    assert "EWALLET_DATA" in said
