"""The databases that all other tests stand on are real, empty, separate and gone afterwards."""

from collections.abc import Callable
from pathlib import Path

import pymysql
import pytest
from sqlalchemy import Engine, create_engine, inspect, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import OperationalError
from sqlalchemy.pool import NullPool

from tests.conftest import SERVICES, Backend
from tests.servers import mariadb
from tests.servers.mariadb import MariaDB, MariaDBMissingError

BACKENDS = pytest.mark.parametrize("backend", ["sqlite", "mariadb"])


def engine_of(url: str) -> Engine:
    parsed = make_url(url)
    driver = {"sqlite": "sqlite", "mysql": "mysql+pymysql"}[parsed.drivername]
    return create_engine(parsed.set(drivername=driver), poolclass=NullPool)


def test_a_fresh_database_is_empty_and_accepts_tables(database_url: str) -> None:
    engine = engine_of(database_url)

    assert inspect(engine).get_table_names() == []
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE wallet_accounts (id BIGINT PRIMARY KEY)"))
    assert inspect(engine).get_table_names() == ["wallet_accounts"]


def test_each_backend_has_the_url_form_that_operators_write(sqlite_url: str, mariadb_url: str) -> None:
    assert sqlite_url.startswith("sqlite:////")
    parsed = make_url(mariadb_url)
    assert (parsed.drivername, parsed.host) == ("mysql", "127.0.0.1")
    assert all([parsed.username, parsed.password, parsed.port, parsed.database])


@BACKENDS
def test_each_service_gets_a_database_of_its_own(
    fresh_databases: Callable[[Backend], dict[str, str]], backend: Backend
) -> None:
    urls = fresh_databases(backend)

    assert tuple(urls) == SERVICES
    assert len(set(urls.values())) == len(SERVICES)


def test_a_mariadb_database_is_gone_when_its_test_is_over(mariadb: MariaDB) -> None:
    with mariadb.database() as url:
        pass

    with pytest.raises(OperationalError, match="Unknown database"):
        engine_of(url).connect()


def test_a_transaction_left_open_is_reported_at_the_drop(mariadb: MariaDB, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.servers.mariadb.LOCK_WAIT_SECONDS", 0)
    database = mariadb.database()
    connection = engine_of(database.__enter__()).connect()
    connection.execute(text("CREATE TABLE things (id BIGINT PRIMARY KEY)"))
    connection.execute(text("SELECT * FROM things"))

    with connection, pytest.raises(pymysql.OperationalError, match="1205"):
        database.__exit__(None, None, None)


def test_a_missing_server_fails_with_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.servers.mariadb.shutil.which", lambda _name, **_options: None)

    with (
        pytest.raises(MariaDBMissingError, match="apt-get install mariadb-server"),
        mariadb.running_mariadb(tmp_path),
    ):
        pass


def test_a_server_that_dies_shows_its_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.servers.mariadb.SERVER_OPTIONS", ("--no-such-option",))

    with pytest.raises(RuntimeError, match="no-such-option"), mariadb.running_mariadb(tmp_path):
        pass
