"""A migration that is cut off anywhere is finished by whoever comes next.

MySQL commits each change of a schema by itself, so every statement leaves another part of a schema behind.
"""

import os
import signal
from collections.abc import Callable
from itertools import count
from multiprocessing import get_context
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, MetaData, Table, event, inspect, select, text
from sqlalchemy.sql.ddl import CreateIndex, CreateTable

from ewallet.plumbing.migrations import migrate
from ewallet.plumbing.settings import SERVICES
from tests.conftest import Backend
from tests.support.plumbing import opened

PROCESSES = get_context("forkserver")
PROCESSES.set_forkserver_preload(["alembic.command", "pymysql", __name__])


def migrate_until_killed(service: str, url: str, changes: int) -> None:
    """Migrate, and be killed when so many changes are made and one more is about to be."""
    numbers = count()

    def die(_connection: Any, _cursor: Any, statement: str, *_arguments: Any) -> None:
        if statement.lstrip().startswith(("CREATE", "INSERT", "COMMIT")) and next(numbers) == changes:
            os.kill(os.getpid(), signal.SIGKILL)

    event.listen(Engine, "before_cursor_execute", die)
    migrate(service, url)


def is_killed_after(service: str, url: str, changes: int) -> bool:
    """Whether a process that migrates has more changes to make."""
    process = PROCESSES.Process(target=migrate_until_killed, args=(service, url, changes))
    process.start()
    process.join()
    assert process.exitcode in (0, -signal.SIGKILL)
    return process.exitcode != 0


def schema(url: str) -> dict[str, Any]:
    """Everything that is there: tables with their columns, checks and indexes, triggers, and rows."""

    def read(tx: Connection) -> dict[str, Any]:
        metadata = MetaData()
        metadata.reflect(tx)
        triggers = (
            "SELECT name FROM sqlite_schema WHERE type = 'trigger'"
            if tx.dialect.name == "sqlite"
            else "SELECT trigger_name FROM information_schema.triggers WHERE trigger_schema = DATABASE()"
        )
        return {
            **{each.name: described(tx, each) for each in metadata.sorted_tables},
            "triggers": sorted(tx.execute(text(triggers)).scalars()),
        }

    with opened(url) as database:
        return database.read(read)


def described(tx: Connection, each: Table) -> list[Any]:
    indexes = sorted(str(CreateIndex(index).compile(dialect=tx.dialect)) for index in each.indexes)
    checks = sorted(str(check["name"]) for check in inspect(tx).get_check_constraints(each.name))
    rows = tx.execute(select(each).order_by(*each.primary_key)).all()
    return [str(CreateTable(each).compile(dialect=tx.dialect)), indexes, checks, [tuple(row) for row in rows]]


@pytest.mark.parametrize("backend", ["sqlite", "mariadb"])
@pytest.mark.parametrize("service", SERVICES)
def test_a_migration_that_is_killed_behind_any_of_its_changes_is_finished_by_those_that_follow(
    service: str, backend: Backend, fresh_database: Callable[[Backend], str]
) -> None:
    """Each process may make one change more than those before it have left behind."""
    url, whole = fresh_database(backend), fresh_database(backend)
    migrate(service, whole)
    wanted, found, changes, kills = schema(whole), schema(url), 1, 0

    while is_killed_after(service, url, changes):
        before, found = found, schema(url)
        changes += found == before  # some changes are rolled back with the process
        kills += 1

    assert schema(url) == wanted
    assert kills > len(wanted)
    assert not migrate(service, url)


def test_a_migration_whose_connection_is_lost_goes_on_with_another(mariadb_url: str) -> None:
    numbers = count()

    def cut(_connection: Any, cursor: Any, *_arguments: Any) -> None:
        if next(numbers) == 14:
            cursor.connection._force_close()

    event.listen(Engine, "before_cursor_execute", cut)
    try:
        assert migrate("notification", mariadb_url)
    finally:
        event.remove(Engine, "before_cursor_execute", cut)
    assert next(numbers) > 14
    assert not migrate("notification", mariadb_url)
