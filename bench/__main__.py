"""Measure, and print a table: ``python -m bench [--seconds 10]``."""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench.load import Load, in_sequence, with_wrk
from bench.people import People
from bench.platform import ewallet, free_port, platform, processor_seconds, resident_megabytes, running

CONNECTIONS = 64
MERCHANTS = 16
SEQUENCE = 300
WARM_UP_SECONDS = 2

console = Console(highlight=False)


def main() -> None:
    """Run everything on private folders and ports; exits with an error where a run cannot be trusted."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--seconds", type=int, default=10, help="length of each run under load")
    seconds = parser.parse_args().seconds
    with tempfile.TemporaryDirectory(prefix="ewallet-bench-") as name:
        folder = Path(name)
        measure(folder, seconds)


def measure(folder: Path, seconds: int) -> None:
    """The two ceilings and the platform, one after the other, then the comparison."""
    echo = _echo(folder, seconds)
    store = _store(folder, seconds)
    data, port = folder / "platform", free_port()
    base_url = f"http://127.0.0.1:{port}"
    with platform(data, port, {}) as process_id:
        console.print("registering people …")
        people = People(base_url, customers=CONNECTIONS * 2, merchants=MERCHANTS)
        idle = resident_megabytes(process_id)
        console.print("one client in sequence …")
        sequence = in_sequence(base_url, people.pairs[0], payments=SEQUENCE)
        console.print(f"{CONNECTIONS} connections …")
        with_wrk(base_url, people.pairs, folder, connections=CONNECTIONS, seconds=WARM_UP_SECONDS)
        used_before = processor_seconds(process_id)
        load = with_wrk(base_url, people.pairs, folder, connections=CONNECTIONS, seconds=seconds)
        used = processor_seconds(process_id) - used_before
        busy = resident_megabytes(process_id)
    _verify(data)
    limit = 1 / (1 / echo.per_second + 1 / store)
    table = Table("", "per second", "p50 ms", "p90 ms", "p99 ms", "max ms", title="Payments, SQLite, synchronous=FULL")
    for column in table.columns[1:]:
        column.justify = "right"
    table.add_row("one client in sequence", f"{1000 / sequence.p50:,.0f}", *(f"{ms:,.1f}" for ms in sequence))
    table.add_row(f"{CONNECTIONS} connections", f"{load.per_second:,.0f}", *(f"{ms:,.1f}" for ms in load.latency))
    table.add_row("ceiling: bare ASGI echo", f"{echo.per_second:,.0f}", *(f"{ms:,.1f}" for ms in echo.latency))
    table.add_row("ceiling: the same batches without HTTP", f"{store:,.0f}")
    table.add_row("limit: 1 / (1/echo + 1/batches)", f"{limit:,.0f}")
    console.print(table)
    console.print(f"share of the limit: {load.per_second / limit:.0%}")
    console.print(f"processor time of the platform: {used / load.requests * 1000:.2f} ms a payment")
    console.print(f"resident memory of the platform: {idle:.0f} MiB before the load, {busy:.0f} MiB after it")


def _echo(folder: Path, seconds: int) -> Load:
    console.print("bare ASGI echo …")
    port = free_port()
    server = ["-m", "uvicorn", "bench.echo:app", "--port", str(port), "--loop", "uvloop", "--http", "httptools"]
    quiet = ["--no-access-log", "--log-level", "error", "--lifespan", "off"]
    with running([sys.executable, *server, *quiet], {}, port, "/"):
        pairs = [("x" * 400, "usr_01jd8x00000000000000000000")]
        return with_wrk(f"http://127.0.0.1:{port}", pairs, folder, connections=CONNECTIONS, seconds=seconds)


def _store(folder: Path, seconds: int) -> float:
    console.print("the same batches without HTTP …")
    command = [sys.executable, "-m", "bench.store", str(folder / "store"), str(CONNECTIONS), str(seconds)]
    finished = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(json.loads(finished.stdout)["per_second"])


def _verify(data: Path) -> None:
    finished = subprocess.run(
        [ewallet(), "verify"], env={"EWALLET_DATA": str(data), "PATH": ""}, capture_output=True, text=True, check=False
    )
    if finished.returncode:
        raise SystemExit(f"ewallet verify finds the books wrong: this run counts for nothing\n{finished.stdout}")


if __name__ == "__main__":
    main()
