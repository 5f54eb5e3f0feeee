"""What we say to a server is understood by MySQL 8 and by MariaDB.

No package of MySQL 8's server is to be had where the tests run. So everything that a platform says to a MariaDB during
its life is written down by the server itself and searched for what only one of the two knows.
"""

import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from sqlalchemy import MetaData
from sqlalchemy.dialects.mysql.reserved_words import RESERVED_WORDS_MARIADB, RESERVED_WORDS_MYSQL

import ewallet.auth.store
import ewallet.notification.store
import ewallet.payment.store
import ewallet.wallet.store
from ewallet.plumbing.settings import SERVICES
from tests.servers.mariadb import FAST, running_mariadb
from tests.support.platform import platform

STORES = (ewallet.auth.store, ewallet.notification.store, ewallet.payment.store, ewallet.wallet.store)
NOT_RESERVED = {
    "body",  # by MariaDB in its Oracle mode only
    "history",  # the same
    "role",  # by MySQL before 8.0.1 only
}


class Dialect(NamedTuple):
    """Something that one of the two does not know, and a statement with it."""

    pattern: str
    example: str


ONE_SIDED = (
    Dialect(r"\bRETURNING\b", "INSERT INTO t VALUES (1) RETURNING id"),
    Dialect(r"\)\s+AS\s+\w+\s+ON\s+DUPLICATE", "INSERT INTO t VALUES (1) AS new ON DUPLICATE KEY UPDATE a = new.a"),
    Dialect(r"\b(COLUMN|INDEX|TRIGGER|KEY)\s+IF\s+(NOT\s+)?EXISTS\b", "ALTER TABLE t ADD COLUMN IF NOT EXISTS a INT"),
    Dialect(r"\bCREATE\s+OR\s+REPLACE\s+(TABLE|TRIGGER|INDEX)\b", "CREATE OR REPLACE TABLE t (id INT)"),
    Dialect(r"\bNEXT(VAL\b|\s+VALUE\s+FOR\b)|\bSEQUENCE\s+\w+\s+(START|INCREMENT)\b", "SELECT NEXT VALUE FOR s"),
    Dialect(r"\b(INTERSECT|EXCEPT)\b", "SELECT 1 EXCEPT SELECT 2"),
    Dialect(r"\bFETCH\s+(FIRST|NEXT)\b", "SELECT a FROM t FETCH FIRST ROW ONLY"),
    Dialect(r"\bLATERAL\b", "SELECT 1 FROM a, LATERAL (SELECT 1) AS b"),
    Dialect(r"->", "SELECT detail->'$.a' FROM t"),
    Dialect(r"\|\|", "SELECT a || b FROM t"),
    Dialect(r"_0900_|_uca1400_", "CREATE TABLE t (a TEXT COLLATE utf8mb4_0900_bin)"),
    Dialect(r"@@(\w+\.)?(tx|transaction)_isolation\b", "SELECT @@tx_isolation"),
    Dialect(r"\bSET\s+STATEMENT\b", "SET STATEMENT max_statement_time = 1 FOR SELECT 1"),
    Dialect(r"\b(UUID|INET4|INET6)\s+NOT\s+NULL\b", "CREATE TABLE t (id UUID NOT NULL)"),
    Dialect(r"\bKEY\b[^,]*\(\(", "CREATE TABLE t (a INT, KEY k ((a + 1)))"),
)

ADAPTED = re.compile(
    r"SELECT @@tx_isolation"  # SQLAlchemy asks each server by its own name
    r"|INSERT INTO \w+_schema_version "  # Alembic's; only a MariaDB is asked to return what it writes
)

OCCUR = (
    "CREATE TABLE wallet_transfers",
    "CREATE TRIGGER wallet_transfers_no_update",
    "CREATE INDEX wallet_accounts_by_owner",
    "INSERT INTO wallet_transfers",
    "ON DUPLICATE KEY UPDATE",
    "FOR UPDATE",
    "DELETE FROM payment_outbox",
    "UPDATE payment_payments",
    "WITH CONSISTENT SNAPSHOT",
)


@pytest.fixture(scope="module")
def said(scratch: Path) -> Iterator[list[str]]:
    """Give every statement of a platform that was migrated, started, used, verified and reconciled; without values."""
    with tempfile.TemporaryDirectory(dir=scratch) as name:
        folder = Path(name)
        log = folder / "statements"
        with running_mariadb(folder / "server", *FAST, "--general-log", f"--general-log-file={log}") as server:
            databases = {service: server.new_database() for service in SERVICES}
            with platform("together", databases, folder) as running:
                running.start()
                for command in ("demo", "verify", "reconcile", "rotate-key"):
                    finished = running.run(command)
                    assert finished.returncode == 0, finished.stdout + finished.stderr
                running.stop()
        yield statements_in(log.read_text(errors="replace"))


def statements_in(log: str) -> list[str]:
    """The statements of a server's general log: each begins on a line with a connection's number."""
    entries = re.split(r"^(?:\d{6} +\d+:\d+:\d+)?\t+ *\d+ ", log, flags=re.MULTILINE)
    statements = [entry.partition("\t")[2] for entry in entries if entry.startswith("Query\t")]
    return [re.sub(r"'(?:[^'\\]|\\.|'')*'", "''", statement) for statement in statements]


def one_sided(statement: str) -> list[str]:
    return [dialect.pattern for dialect in ONE_SIDED if re.search(dialect.pattern, statement, re.IGNORECASE)]


def test_nothing_that_we_say_is_known_to_one_of_the_two_only(said: list[str]) -> None:
    ours = [statement for statement in said if not ADAPTED.match(statement)]

    assert {statement: found for statement in ours if (found := one_sided(statement))} == {}


@pytest.mark.parametrize("statement", OCCUR)
def test_what_we_listened_to_was_the_platforms_whole_life(said: list[str], statement: str) -> None:
    assert any(statement in each for each in said)


@pytest.mark.parametrize("dialect", ONE_SIDED, ids=lambda dialect: dialect.pattern)
def test_what_only_one_of_the_two_knows_would_be_noticed(dialect: Dialect) -> None:
    assert one_sided(dialect.example) == [dialect.pattern]


def test_no_table_column_or_constraint_bears_a_name_that_one_of_the_two_keeps_for_itself() -> None:
    """The statements of every batch name columns without quotes."""
    reserved = (RESERVED_WORDS_MYSQL | RESERVED_WORDS_MARIADB) - NOT_RESERVED

    assert {name for store in STORES for name in names_in(store.metadata)} & reserved == set()


def names_in(metadata: MetaData) -> Iterator[str]:
    for table in metadata.sorted_tables:
        yield table.name
        yield from (column.name for column in table.columns)
        yield from (str(constraint.name) for constraint in table.constraints)
        yield from (str(index.name) for index in table.indexes)
