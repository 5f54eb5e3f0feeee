"""The four databases as an operator sees them: bringing them up to date, and saying what is wrong with one."""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError
from stamina.instrumentation import get_on_retry_hooks, set_on_retry_hooks

from ewallet.cli.terminal import Stopped, standard_output
from ewallet.plumbing.database import Database, DatabaseUnavailable, open_database
from ewallet.plumbing.migrations import SchemaIsNewer, migrate
from ewallet.plumbing.servers import weaknesses
from ewallet.plumbing.settings import Settings, variable

# By MySQL's and MariaDB's error numbers.
_SERVER_ADVICE = {
    1021: "the server's disk is full",
    1040: "the server has too many connections: raise its max_connections",
    1044: "the user has no rights on it: GRANT ALL on the database to the user",
    1045: "user or password are wrong",
    1049: "it does not exist: CREATE DATABASE it, empty",
    1146: "it has no tables yet: run `ewallet migrate`",
    1114: "the server's disk is full",
    1129: "the server has blocked this host: run `mysqladmin flush-hosts` there",
    1130: "the server does not let this host in: CREATE USER for it",
    1142: "the user may not change tables: GRANT ALL on the database to the user",
    1203: "the user has too many connections: raise max_user_connections",
    1226: "the user has used up what the server grants it: raise the limit",
    1290: "the server is read-only",
    1419: "the server has a binary log or is a Galera node: set log_bin_trust_function_creators = 1, for migrating",
    1665: "the server's binary log cannot hold this: set binlog_format to ROW",
    1698: "user or password are wrong",
    1792: "the server is read-only",
    1836: "the server is read-only",
    2003: "nobody answers there: start the server, or correct host and port",
}

# By SQLite's primary result codes.
_FILE_ADVICE = {
    sqlite3.SQLITE_BUSY: "another program holds a lock on it",
    sqlite3.SQLITE_CANTOPEN: "it cannot be opened: check that the folder exists and that you may write to it",
    sqlite3.SQLITE_CORRUPT: "the file is damaged: restore a backup",
    sqlite3.SQLITE_FULL: "the disk is full",
    sqlite3.SQLITE_IOERR: "the disk cannot be read or written; the system's log says why",
    sqlite3.SQLITE_NOTADB: "the file is not a SQLite database",
    sqlite3.SQLITE_READONLY: "you may not write to the file or its folder",
}
_PRIMARY_CODE = 0xFF

UNFINISHED_RESTORE = "restore.unfinished"
"""A file that lies in a data folder while a restore is under way."""


def migrate_all(settings: Settings, services: Sequence[str]) -> list[str]:
    """Bring databases to this program's schema; those that were changed. Stopped where one cannot be."""
    _refuse_unfinished_restore(settings)
    changed = []
    for service in services:
        with explained(settings, service):
            if migrate(service, settings.database_url(service)):
                changed.append(service)
    return changed


def weaknesses_found(settings: Settings, services: Sequence[str]) -> dict[str, str]:
    """What is wrong with the settings of the databases' servers, each with the names of the services concerned."""
    found: dict[str, str] = {}
    for service in services:
        with opened(settings, service) as database:
            for weakness in database.read(weaknesses):
                found[weakness] = f"{found[weakness]}, {service}" if weakness in found else service
    return found


def migrate_and_report(settings: Settings, services: Sequence[str]) -> None:
    """The command `migrate`."""
    output = standard_output()
    for service in services:
        changed = migrate_all(settings, [service])
        what = "brought up to date" if changed else "was up to date"
        output.print(f"{service:<13} {what:<19} {_shown(settings, service)}", soft_wrap=True, markup=False)
    for weakness, concerned in weaknesses_found(settings, services).items():
        output.print(f"WARNING       {weakness} ({concerned})", soft_wrap=True, markup=False)


@contextmanager
def opened(settings: Settings, service: str) -> Iterator[Database]:
    """The database of a platform that has been started before; Stopped where there is none or it cannot be used."""
    _refuse_unfinished_restore(settings)
    url = make_url(settings.database_url(service))
    if url.get_backend_name() == "sqlite" and not Path(url.database or "").exists():
        raise Stopped(
            f"There is no {service} database {url.database}: start the platform once, or correct EWALLET_DATA."
        )
    with explained(settings, service):
        database = open_database(settings.database_url(service), service)
        try:
            yield database
        finally:
            database.close()


@contextmanager
def explained(settings: Settings, service: str) -> Iterator[None]:
    """Turn the ways in which a database can be unusable into :class:`Stopped`. Retries are not logged."""
    try:
        with quietly():
            yield
    except SchemaIsNewer as error:
        raise Stopped(str(error)) from error
    except (DatabaseUnavailable, DBAPIError, OSError) as error:
        raise Stopped(_sentence(settings, service, error)) from error


@contextmanager
def quietly() -> Iterator[None]:
    """Retries are not logged: who waits at a terminal is told the outcome."""
    hooks = get_on_retry_hooks()
    set_on_retry_hooks(())
    try:
        yield
    finally:
        set_on_retry_hooks(hooks)


def _refuse_unfinished_restore(settings: Settings) -> None:
    """Stopped: a restore has not come to its end, so some services' data are there and others' are not."""
    if (settings.data_folder / UNFINISHED_RESTORE).exists():
        raise Stopped(
            f"A restore into {settings.data_folder} was not finished: empty the folder and run `ewallet restore` again."
        )


def _sentence(settings: Settings, service: str, error: Exception) -> str:
    cause = error.__cause__ if isinstance(error, DatabaseUnavailable) and error.__cause__ else error
    original = cause.orig if isinstance(cause, DBAPIError) else cause
    where = variable(f"{service}_database_url")
    if not getattr(settings, f"{service}_database_url"):
        where = variable("data")
    return (
        f"The {service} database {_shown(settings, service)} cannot be used: {_advice(original)}. It is set by {where}."
    )


def _advice(error: BaseException | None) -> str:
    if isinstance(error, sqlite3.Error):
        if str(error).startswith("no such table"):  # SQLite has no code of its own for it
            return "it has no tables yet: run `ewallet migrate`"
        return _FILE_ADVICE.get(getattr(error, "sqlite_errorcode", 0) & _PRIMARY_CODE, str(error))
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    if error is not None and error.args and error.args[0] in _SERVER_ADVICE:
        return _SERVER_ADVICE[error.args[0]]
    return str(error)


def _shown(settings: Settings, service: str) -> str:
    """Where a database is, without its password."""
    url = make_url(settings.database_url(service))
    return url.database or "" if url.get_backend_name() == "sqlite" else url.render_as_string(hide_password=True)
