"""Schema migrations: each service has its own Alembic history, and its own version table, in its own database.

On MySQL every change of a schema commits by itself, so a migration may be cut off behind each of its statements, with
its version not written yet. Who comes next runs it again: a revision therefore leaves what it finds done as it is (see
``create_missing`` and ``insert_missing`` in ``plumbing/schema.py``).

The nodes of a Galera cluster have no lock in common that lasts as long as a change of a schema may. Two who migrate
through two nodes can overtake each other at any statement, and who is overtaken begins again.
"""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

import stamina
import structlog
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, func, select
from sqlalchemy.exc import DBAPIError

from ewallet.plumbing.database import DatabaseUnavailable, open_database
from ewallet.plumbing.schema import version_table

_PACKAGE = Path(__file__).parents[1]

PATIENCE_SECONDS = 600
"""How long to wait for another process that is migrating: the tables may be large."""

STATEMENT_SECONDS = 24 * 3600
"""An ALTER of a large table is silent for hours. The system notices by itself when a connection is dead."""

_LONGEST_NAME = 64
"""Of a named lock on MySQL."""

# 1050 the table, 1060 the column, 1061 the index, 1062 the row, 1359 the trigger is there; 1091 what to drop is not.
_OVERTAKEN = frozenset({1050, 1060, 1061, 1062, 1091, 1359})

_MAXIMUM_ATTEMPTS = 20
"""Each finds more done than the one before it."""

log = structlog.get_logger()


class SchemaIsNewer(Exception):
    """The database was migrated by a newer program than this one."""


def migrate(service: str, url: str) -> bool:
    """Bring a service's database to the schema of this program; True where anything had to be done.

    SchemaIsNewer: the database is ahead of this program. DatabaseUnavailable: it does not answer, or another process
    does not finish migrating it.
    """
    database = open_database(url, service, statement_seconds=STATEMENT_SECONDS)
    try:
        for attempt in stamina.retry_context(on=_is_overtaken, attempts=_MAXIMUM_ATTEMPTS, timeout=None):
            with attempt:
                return database.transact(lambda connection: _upgrade(connection, service))
    finally:
        database.close()
    raise DatabaseUnavailable("no attempt was made")  # pragma: no cover


def _is_overtaken(error: Exception) -> bool:
    """Whether somebody else has done what was just to be done."""
    return isinstance(error, DBAPIError) and error.orig is not None and error.orig.args[0] in _OVERTAKEN


def _upgrade(connection: Connection, service: str) -> bool:
    with _one_at_a_time(connection, service):
        return _upgrade_alone(connection, service)


@contextmanager
def _one_at_a_time(connection: Connection, service: str) -> Iterator[None]:
    """Keep processes of a service that start at the same time from changing its schema at the same time.

    On SQLite the transaction does that. On MySQL it does not cover changes of a schema, so there a named lock does,
    which the server takes back from a process that dies.
    """
    if connection.dialect.name == "sqlite":
        yield
        return
    # Locks are the whole server's, where other platforms may have databases, too.
    name = f"ewallet {service} {connection.engine.url.database}"[:_LONGEST_NAME]
    if connection.scalar(select(func.get_lock(name, 0))) != 1:
        log.info("migration.waiting", service=service)
        if connection.scalar(select(func.get_lock(name, PATIENCE_SECONDS))) != 1:
            raise DatabaseUnavailable(f"another process is still migrating the {service} database")
    try:
        yield
        # The version row is what DDL has not committed by itself: whoever gets the lock next must see it.
        connection.exec_driver_sql("COMMIT")
    finally:
        if not connection.invalidated:  # a lost connection has lost its locks, too
            connection.execute(select(func.release_lock(name)))


def _upgrade_alone(connection: Connection, service: str) -> bool:
    config = _config(service)
    config.attributes["connection"] = connection
    config.attributes["version_table"] = version_table(service)
    script = ScriptDirectory.from_config(config)
    present = MigrationContext.configure(connection, opts={"version_table": version_table(service)}).get_current_heads()
    if set(present) == set(script.get_heads()):
        return False
    require_known(service, present)
    command.upgrade(config, "heads")
    return True


def require_known(service: str, present: Collection[str]) -> None:
    """SchemaIsNewer: the versions of a service's schema are not all known to this program."""
    script = ScriptDirectory.from_config(_config(service))
    if unknown := set(present) - {revision.revision for revision in script.walk_revisions()}:
        raise SchemaIsNewer(
            f"The {service} database is at schema {', '.join(sorted(unknown))}, which this version of ewallet does not "
            "know: start the newer version, or restore a backup."
        )


def _config(service: str) -> Config:
    config = Config()
    config.set_main_option("script_location", str(_PACKAGE / "plumbing" / "alembic"))
    config.set_main_option("version_locations", str(_PACKAGE / service / "migrations" / "versions"))
    config.set_main_option("path_separator", "os")
    return config
