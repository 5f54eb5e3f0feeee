"""Drivers of MySQL and MariaDB beside each other, on the statements of one batch of payments.

``python -m bench.drivers mysql://user:password@host:port/database [--batches 200]``; drivers that are not installed are
left out. Each runs alone, and beside a thread that computes all the time, as an event loop under load does: then the
interpreter's lock is what a driver waits for.
"""

import argparse
import importlib
import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib import metadata
from itertools import chain, count
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table
from sqlalchemy.engine import URL, make_url

from ewallet.cli.serving import tune_interpreter

PAYMENTS = 64
"""In a batch: as many as connections in the bench."""

WARM_UP_BATCHES = 20
CREATE = """
CREATE TABLE bench_drivers (
    sequence BIGINT PRIMARY KEY, id VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL UNIQUE,
    account VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL, amount BIGINT NOT NULL, at BIGINT NOT NULL,
    note VARCHAR(320) NOT NULL, detail MEDIUMTEXT, KEY bench_drivers_by_account (account, sequence)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4
"""
DETAIL = json.dumps({"transactionId": "x" * 30, "amount": 1250, "currency": "USD", "reference": "bench"})


class Driver(NamedTuple):
    """A module of the DB API, and what its ``connect`` needs beside the address."""

    name: str
    package: str
    module: str
    options: dict[str, Any]


DRIVERS = (
    Driver("PyMySQL", "pymysql", "pymysql", {}),
    Driver("MySQL Connector/Python, C", "mysql-connector-python", "mysql.connector", {"use_pure": False}),
    Driver("MySQL Connector/Python, pure", "mysql-connector-python", "mysql.connector", {"use_pure": True}),
    Driver("MariaDB Connector/Python", "mariadb", "mariadb", {}),
    Driver("mysqlclient", "mysqlclient", "MySQLdb", {}),
)


class Measured(NamedTuple):
    """Milliseconds a batch."""

    wall: float
    processor: float


def main() -> None:
    """Measure every driver that is there, and print a table."""
    parser = argparse.ArgumentParser(prog="python -m bench.drivers", description=__doc__)
    parser.add_argument("url", help="an empty database")
    parser.add_argument("--batches", type=int, default=200)
    arguments = parser.parse_args()
    tune_interpreter()
    table = Table("ms a batch of 64", "version", "alone", "processor", "beside a busy thread", "processor")
    for driver in DRIVERS:
        try:
            alone = measured(driver, make_url(arguments.url), arguments.batches)
        except ImportError as error:
            Console().print(f"{driver.name} is left out: {error}")
            continue
        with busy_thread():
            beside = measured(driver, make_url(arguments.url), arguments.batches)
        table.add_row(driver.name, metadata.version(driver.package), *(f"{value:.2f}" for value in (*alone, *beside)))
    Console(highlight=False).print(table)


def measured(driver: Driver, url: URL, batches: int) -> Measured:
    """One driver's median batch, on a table of its own."""
    connect = importlib.import_module(driver.module).connect
    connection = connect(
        host=url.host, port=url.port, user=url.username, password=url.password, database=url.database, **driver.options
    )
    cursor = connection.cursor()
    with suppress(Exception):
        cursor.execute("DROP TABLE bench_drivers")
    cursor.execute(CREATE)
    numbers = count(1)
    samples = [_timed(lambda: _batch(connection, numbers)) for _ in range(WARM_UP_BATCHES + batches)][WARM_UP_BATCHES:]
    connection.close()
    middle = batches // 2
    return Measured(*(sorted(values)[middle] for values in zip(*samples, strict=True)))


def _batch(connection: Any, numbers: Iterator[int]) -> None:
    """Alike to what the wallet does for so many payments: look, write, lock and read, change, COMMIT."""
    cursor = connection.cursor()
    rows = [_row(number) for number, _ in zip(numbers, range(2 * PAYMENTS), strict=False)]
    keys = [row[1] for row in rows]
    some = keys[:PAYMENTS]
    _run(cursor, "SELECT id FROM bench_drivers WHERE id IN {}", [keys])
    _run(cursor, "INSERT INTO bench_drivers VALUES {}", rows)
    _run(cursor, "SELECT * FROM bench_drivers WHERE id IN {} FOR UPDATE", [some])
    _run(cursor, "UPDATE bench_drivers SET amount = amount + 1 WHERE id IN {}", [some])
    connection.commit()


def _row(number: int) -> tuple[Any, ...]:
    return (number, f"trf_{number:026}", f"acc_{number % PAYMENTS:026}", 1250, 1_000_000 * number, "bench", DETAIL)


def _run(cursor: Any, statement: str, groups: Sequence[Sequence[Any]]) -> None:
    """Run a statement with a group of places for each group of values, and take all that it returns."""
    places = ", ".join(f"({', '.join(['%s'] * len(group))})" for group in groups)
    cursor.execute(statement.format(places), tuple(chain.from_iterable(groups)))
    if cursor.description:
        cursor.fetchall()


def _timed(call: Callable[[], object]) -> Measured:
    wall, processor = time.perf_counter(), time.thread_time()
    call()
    return Measured((time.perf_counter() - wall) * 1000, (time.thread_time() - processor) * 1000)


@contextmanager
def busy_thread() -> Iterator[None]:
    """A thread that takes the interpreter's lock whenever it can."""
    stop = threading.Event()

    def compute() -> None:
        while not stop.is_set():
            sum(range(1000))

    thread = threading.Thread(target=compute)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


if __name__ == "__main__":
    main()
