"""A real MariaDB for one test run: private folder, port and password, gone when the run is over.

The tests ask what our SQL does under real locks and real isolation, not whether MariaDB survives a power cut,
so the server trades durability for speed. Nothing here changes what a statement means.
"""

import os
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import pymysql

from tests.support.ports import free_port

USER = "tests"
START_TIMEOUT_SECONDS = 60  # it takes half a second; a busy machine may take many
LOCK_WAIT_SECONDS = 10  # a killed process's transaction is rolled back well within it
SERVER_OPTIONS = (
    "--bind-address=127.0.0.1",
    "--skip-name-resolve",
    "--skip-log-bin",
    "--max-connections=500",  # races open hundreds of connections at once
    "--performance-schema=OFF",
    # Speed: no file per table makes creating and dropping databases cheap; the rest leaves out the syncs and
    # second copies that only a crash of the machine would need.
    "--innodb-file-per-table=OFF",
    "--innodb-flush-log-at-trx-commit=0",
    "--innodb-doublewrite=OFF",
    "--innodb-use-native-aio=OFF",
)
# Rights as an operator would give them: everything within the product's own databases, nothing on the server.
INIT_SQL = """\
CREATE USER {user}@'127.0.0.1' IDENTIFIED BY '{password}';
GRANT ALL ON `ewallet\\_%`.* TO {user}@'127.0.0.1';
"""


class MariaDBMissingError(RuntimeError):
    """The tests need Debian's `mariadb-server`; a run without it fails rather than skips."""

    def __init__(self, program: str) -> None:
        """Say which program is missing and how to get it."""
        super().__init__(f"`{program}` not found: install it with `sudo apt-get install mariadb-server`")


@dataclass(frozen=True)
class MariaDB:
    """A running server: a port and a password for the tests, and a socket for root to make databases."""

    port: int
    password: str
    socket: Path
    _numbers: Iterator[int]

    @contextmanager
    def database(self) -> Iterator[str]:
        """Make an empty database, give its URL, drop it afterwards.

        Raises:
            pymysql.OperationalError: 1205, the test left a transaction open, which blocks the drop.
        """
        name = f"ewallet_{next(self._numbers)}"
        self.execute_as_root(f"CREATE DATABASE {name}")
        try:
            yield f"mysql://{USER}:{self.password}@127.0.0.1:{self.port}/{name}"
        finally:
            self.execute_as_root(f"DROP DATABASE {name}")

    def execute_as_root(self, statement: str) -> None:
        """Run one statement with all rights, waiting for nobody's locks for long."""
        with pymysql.connect(
            unix_socket=str(self.socket),
            user="root",
            init_command=f"SET lock_wait_timeout = {LOCK_WAIT_SECONDS}",
        ) as connection:
            connection.cursor().execute(statement)


@contextmanager
def running_mariadb(folder: Path) -> Iterator[MariaDB]:
    """Start a server whose files all live in `folder`, an empty or missing one; kill it at the end.

    Raises:
        MariaDBMissingError: Debian's `mariadb-server` is not installed.
        RuntimeError: the server did not start; the message carries its log.
    """
    folder.mkdir(parents=True, exist_ok=True)
    server = MariaDB(free_port(), secrets.token_urlsafe(16), folder / "socket", count(1))
    _initialise(folder, server.password)
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(_command(folder, server.port), stdout=log, stderr=log)
    try:
        _wait_until_ready(server, process, folder / "log")
        yield server
    finally:
        process.kill()  # its files are thrown away, so there is nothing to shut down in order
        process.wait()


def _initialise(folder: Path, password: str) -> None:
    (folder / "init.sql").write_text(INIT_SQL.format(user=USER, password=password))
    subprocess.run(
        [
            _program("mariadb-install-db"),
            "--no-defaults",
            f"--datadir={folder / 'data'}",
            "--auth-root-authentication-method=normal",
            "--skip-test-db",
            *_as_root(),
        ],
        check=True,
        stdout=subprocess.DEVNULL,
    )


def _command(folder: Path, port: int) -> list[str]:
    # setpriv lets the kernel stop the server when the test run is killed before it can.
    return [
        _program("setpriv"),
        "--pdeathsig=KILL",
        _program("mariadbd"),
        "--no-defaults",
        f"--datadir={folder / 'data'}",
        f"--socket={folder / 'socket'}",
        f"--port={port}",
        f"--init-file={folder / 'init.sql'}",
        *SERVER_OPTIONS,
        *_as_root(),
    ]


def _wait_until_ready(server: MariaDB, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        with socket.socket(socket.AF_UNIX) as probe:
            if probe.connect_ex(str(server.socket)) == 0:
                return
        time.sleep(0.02)
    raise RuntimeError(f"mariadbd did not start:\n{log.read_text(errors='replace')}")


def _program(name: str) -> str:
    """Return a program's path; servers live in sbin, which is not on an ordinary user's path."""
    path = shutil.which(name, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin")
    if path is None:
        raise MariaDBMissingError(name)
    return path


def _as_root() -> list[str]:
    # mariadbd refuses to run as root unless told so by name; an ordinary user cannot become anybody else.
    return ["--user=root"] if os.geteuid() == 0 else []
