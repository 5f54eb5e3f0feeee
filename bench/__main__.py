"""Measure, and print a table: ``python -m bench [--seconds 10] [--write]``."""

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from bench import ceilings
from bench.apart import apart
from bench.load import Load, Request, at_rate, beyond, in_bulk, in_sequence, with_wrk
from bench.people import People
from bench.platform import SETTINGS, ewallet, free_port, platform, processor_seconds, resident_megabytes
from bench.report import Figures, Row, print_figures, write_document
from bench.syncs import synced
from ewallet.plumbing.settings import SERVICES
from tests.servers.mariadb import DURABLE, running_mariadb

CONNECTIONS = (64, 128, 256)
USUAL = CONNECTIONS[0]
MERCHANTS = 16
SEQUENCE = 300
WARM_UP_SECONDS = 2
ARRIVING_CONNECTIONS = 1000  # so many that nobody waits for one

OVERLOAD = 5
OVERLOAD_CONNECTIONS = 3000
BULK = 1000

PIPE_WIDTH = 120
console = Console(highlight=False, width=None if sys.stdout.isatty() else PIPE_WIDTH)


def main() -> None:
    """Run everything on private folders and ports; exits with an error where a run cannot be trusted."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--seconds", type=int, default=10, help="length of each run under load")
    parser.add_argument("--write", action="store_true", help="write docs/performance.md and its picture")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ewallet-bench-") as name:
        figures = measure(Path(name), arguments.seconds)
    print_figures(console, figures)
    if arguments.write:
        write_document(figures)


def measure(folder: Path, seconds: int) -> Figures:
    """The ceilings and the platform, one after the other."""
    figures = Figures(echo=_echo(folder, seconds), store=_store(folder, seconds))
    _count_syncs(folder, seconds, figures)
    data, port = folder / "platform", free_port()
    with platform(data, port, {}) as process_id:
        Measurement(f"http://127.0.0.1:{port}", [process_id], folder, seconds, figures).run()
    _verify(data)
    _on_mariadb(folder, seconds, figures)
    _apart(folder / "apart", seconds, figures)
    return figures


class Measurement:
    """One running platform under one load after the other."""

    def __init__(self, base_url: str, process_ids: Sequence[int], folder: Path, seconds: int, figures: Figures) -> None:
        self._base_url = base_url
        self._process_ids = process_ids
        self._folder = folder
        self._seconds = seconds
        self._figures = figures

    def run(self) -> None:
        """Fill in the figures."""
        console.print("registering people …")
        people = People(self._base_url, customers=2 * max(CONNECTIONS), merchants=MERCHANTS)
        payments = people.payments()
        self._note_memory("before the load")
        self._sequence(payments[0])
        peak = max(self._closed("payments", payments, connections).per_second for connections in CONNECTIONS)
        self._closed("payments to one merchant", people.payments(merchants=1), USUAL)
        self._closed("looks at a wallet", people.looks(), USUAL)
        self._open("payments arriving at half the peak", payments, peak / 2)
        self._in_bulk(payments)
        self._overload(payments, OVERLOAD * peak)
        self._note_memory("after all load")

    def run_on_server(self, name: str) -> None:
        """One row, where the data lie in a server."""
        people = People(self._base_url, customers=2 * USUAL, merchants=MERCHANTS)
        self._closed(f"payments on {name}", people.payments(), USUAL)

    def _sequence(self, payment: Request) -> None:
        console.print("one client in sequence …")
        latency = in_sequence(self._base_url, payment, payments=SEQUENCE)
        self._figures.rows.append(Row("payments, one client in sequence", 1000 / latency.p50, latency))

    def _closed(self, what: str, requests: Sequence[Request], connections: int) -> Load:
        console.print(f"{what}, {connections} connections …")
        with_wrk(self._base_url, requests, self._folder, connections=connections, seconds=WARM_UP_SECONDS)
        used = self._processor_seconds()
        load = with_wrk(self._base_url, requests, self._folder, connections=connections, seconds=self._seconds)
        used = self._processor_seconds() - used
        row = Row(f"{what}, {connections} connections", load.per_second, load.latency, used / load.requests * 1000)
        self._figures.rows.append(row)
        return load

    def _open(self, what: str, requests: Sequence[Request], per_second: float) -> None:
        console.print(f"{what} …")
        load = at_rate(
            self._base_url, requests, per_second=per_second, seconds=self._seconds, connections=ARRIVING_CONNECTIONS
        )
        self._figures.rows.append(Row(what, load.per_second, load.latency))

    def _in_bulk(self, payments: Sequence[Request]) -> None:
        """Calls of many payments, one after the other."""
        what = f"payments, {BULK:,} a call, one call after the other"
        console.print(f"{what} …")
        used = self._processor_seconds()
        load = in_bulk(self._base_url, payments, each=BULK, seconds=self._seconds)
        used = self._processor_seconds() - used
        self._figures.rows.append(Row(what, load.per_second, load.latency, used / load.requests * 1000))

    def _overload(self, payments: Sequence[Request], per_second: float) -> None:
        console.print(f"{OVERLOAD} times the peak …")
        before = self._resident_megabytes()
        load = beyond(
            self._base_url, payments, per_second=per_second, seconds=self._seconds, connections=OVERLOAD_CONNECTIONS
        )
        what = f"arriving at {OVERLOAD} times the peak"
        self._figures.rows.append(Row(f"payments {what}", load.done.per_second, load.done.latency))
        self._figures.rows.append(Row(f"turned away {what}", load.turned_away.per_second, load.turned_away.latency))
        after = self._resident_megabytes()
        note = f"the next payment {load.recovered_seconds:.1f} s after the last arrival, {after - before:+.0f} MiB"
        self._figures.notes.append(("overload", note))

    def _processor_seconds(self) -> float:
        return sum(map(processor_seconds, self._process_ids))

    def _resident_megabytes(self) -> float:
        return sum(map(resident_megabytes, self._process_ids))

    def _note_memory(self, when: str) -> None:
        self._figures.notes.append(("memory", f"{self._resident_megabytes():.0f} MiB {when}"))


def _on_mariadb(folder: Path, seconds: int, figures: Figures) -> None:
    """The same process, with its data in a MariaDB that syncs every commit."""
    data, port = folder / "on-mariadb", free_port()
    with running_mariadb(folder / "mariadb", *DURABLE) as server:
        databases = {f"EWALLET_{service.upper()}_DATABASE_URL": server.new_database() for service in SERVICES}
        with platform(data, port, databases) as process_id:
            Measurement(f"http://127.0.0.1:{port}", [process_id], folder, seconds, figures).run_on_server("MariaDB")
        _verify(data, **databases)


def _apart(folder: Path, seconds: int, figures: Figures) -> None:
    """Two processes of each service on such a MariaDB, and HAProxy in front."""
    folder.mkdir()
    with (
        running_mariadb(folder / "mariadb", *DURABLE) as server,
        apart(folder, server, server.port, {**SETTINGS, "EWALLET_LOG_LEVEL": "info"}) as running,
    ):
        process_ids = [process.id for process in running.processes.values()]
        measurement = Measurement(running.address, process_ids, folder, seconds, figures)
        measurement.run_on_server("MariaDB, two processes of each service behind HAProxy")
        _verify(folder / "data", **running.environment)


def _echo(folder: Path, seconds: int) -> Load:
    console.print("bare ASGI echo …")
    return ceilings.echo(folder, connections=USUAL, seconds=seconds)


def _store(folder: Path, seconds: int) -> float:
    console.print("the same batches without HTTP …")
    return ceilings.store(folder, customers=USUAL, seconds=seconds)


def _count_syncs(folder: Path, seconds: int, figures: Figures) -> None:
    console.print("fsyncs …")
    with synced(folder) as (base_url, count):
        payments = People(base_url, customers=2 * USUAL, merchants=MERCHANTS).payments()
        before = count()
        in_sequence(base_url, payments[0], payments=SEQUENCE)
        alone = (count() - before) / SEQUENCE
        before = count()
        load = with_wrk(base_url, payments, folder, connections=USUAL, seconds=seconds)
        together = (count() - before) / load.requests
    figures.notes.append(("fsyncs a payment", f"{alone:.1f} in sequence, {together:.2f} at {USUAL} connections"))


def _verify(data: Path, **settings: str) -> None:
    console.print("ewallet verify …")
    finished = subprocess.run(
        [ewallet(), "verify"],
        env={"EWALLET_DATA": str(data), "PATH": "", **settings},
        capture_output=True,
        text=True,
        check=False,
    )
    if finished.returncode:
        raise SystemExit(f"ewallet verify finds the books wrong: this run counts for nothing\n{finished.stdout}")


if __name__ == "__main__":
    main()
