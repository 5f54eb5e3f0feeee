"""Databases as `ewallet migrate` leaves them, copied from the first one that it made: to migrate costs 0.1 s."""

from collections.abc import Sequence
from contextlib import closing
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pymysql
from sqlalchemy.engine import URL, make_url

from ewallet.plumbing import migrations


def migrate(service: str, url: str) -> None:
    """Bring a service's database to the schema of this program; an empty one becomes a copy."""
    address = make_url(url)
    if address.get_backend_name() == "sqlite":
        _migrate_file(service, Path(address.database or ""))
    else:
        _migrate_on_server(service, address)


def _migrate_file(service: str, file: Path) -> None:
    if file.exists():
        migrations.migrate(service, f"sqlite:///{file}")
    else:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(_file_of(service))


@cache
def _file_of(service: str) -> bytes:
    with TemporaryDirectory() as folder:
        file = Path(folder) / "database"
        migrations.migrate(service, f"sqlite:///{file}")
        return file.read_bytes()


_SELECT = "SELECT * FROM "  # a name of ours follows

_statements: dict[str, Sequence[str]] = {}
"""What makes a service's tables, its triggers and the rows that it begins with."""


def _migrate_on_server(service: str, address: URL) -> None:
    with closing(_connect(address)) as connection, connection.cursor() as cursor:
        if service not in _statements or _rows(cursor, "SHOW TABLES"):
            migrations.migrate(service, address.render_as_string(hide_password=False))
            if service not in _statements:
                _statements[service] = _written_down(cursor)
            return
        for statement in ("SET FOREIGN_KEY_CHECKS = 0", *_statements[service]):
            cursor.execute(statement)


def _written_down(cursor: Any) -> Sequence[str]:
    tables = [name for (name,) in _rows(cursor, "SHOW TABLES")]
    triggers = [row[0] for row in _rows(cursor, "SHOW TRIGGERS")]
    return [
        *(_rows(cursor, f"SHOW CREATE TABLE {name}")[0][1] for name in tables),
        *(_inserted(cursor, name, row) for name in tables for row in _rows(cursor, _SELECT + name)),
        *(_rows(cursor, f"SHOW CREATE TRIGGER {name}")[0][2] for name in triggers),
    ]


def _inserted(cursor: Any, table: str, row: Sequence[Any]) -> str:
    values: str = cursor.mogrify(", ".join(["%s"] * len(row)), row)
    return f"INSERT INTO {table} VALUES ({values})"  # noqa: S608  # the names are ours


def _rows(cursor: Any, statement: str) -> Sequence[Any]:
    cursor.execute(statement)
    rows: Sequence[Any] = cursor.fetchall()
    return rows


def _connect(address: URL) -> "pymysql.Connection[Any]":
    return pymysql.connect(
        host=address.host,
        port=address.port or 0,
        user=address.username,
        password=str(address.password),
        database=address.database,
        autocommit=True,
        ssl_disabled=True,  # or it loads the system's certificates each time, for 35 ms
    )
