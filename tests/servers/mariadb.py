"""A real MariaDB for one test run: private folder, port and password, gone when the run is over.

Most tests ask what our SQL does under real locks and real isolation, not whether MariaDB survives a power cut, so the
server trades durability for speed. Nothing here changes what a statement means. Those that kill the server, or fill its
disk, start one of their own.
"""

import os
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import pymysql

from tests.support.ports import free_port

USER = "tests"
START_TIMEOUT_SECONDS = 60  # it takes half a second; a busy machine may take many
LOCK_WAIT_SECONDS = 10  # a killed process's transaction is rolled back well within it
SERVER_OPTIONS = (
    "--bind-address=127.0.0.1",
    "--skip-name-resolve",
    "--max-connections=500",  # races open hundreds of connections at once
    "--performance-schema=OFF",
    "--innodb-use-native-aio=OFF",
)
# Speed: no file per table makes creating and dropping databases cheap; the rest leaves out the syncs and second copies
# that only a crash of the machine would need.
FAST = (
    "--skip-log-bin",
    "--innodb-file-per-table=OFF",
    "--innodb-flush-log-at-trx-commit=0",
    "--innodb-doublewrite=OFF",
)
# For those that kill the server: all that it has acknowledged is there when it starts again.
DURABLE = ("--skip-log-bin", "--innodb-flush-log-at-trx-commit=1", "--innodb-log-file-size=16M")
# Rights as an operator would give them: everything within the product's own databases, nothing on the server.
INIT_SQL = """\
CREATE USER IF NOT EXISTS {user}@'127.0.0.1' IDENTIFIED BY '{password}';
GRANT ALL ON `ewallet\\_%`.* TO {user}@'127.0.0.1';
"""


class MariaDBMissingError(RuntimeError):
    """The tests need Debian's `mariadb-server`; a run without it fails rather than skips."""

    def __init__(self, program: str) -> None:
        """Say which program is missing and how to get it."""
        super().__init__(f"`{program}` not found: install it with `sudo apt-get install mariadb-server`")


@dataclass
class MariaDB:
    """A server: a port and a password for the tests, and a socket for root to make databases."""

    folder: Path
    options: Sequence[str]
    launcher: Sequence[str] = ()
    port: int = field(default_factory=free_port)
    password: str = field(default_factory=lambda: secrets.token_urlsafe(16))
    _numbers: Iterator[int] = field(default_factory=lambda: count(1))
    _process: subprocess.Popen[bytes] | None = None

    @property
    def socket(self) -> Path:
        return self.folder / "socket"

    def start(self, *options: str) -> None:
        """Start it, and wait until it answers; what it did before it was killed is there again.

        These options are for this one start.

        Raises:
            RuntimeError: the server did not start; the message carries its log.
        """
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen([*self.launcher, *command(self), *options], stdout=log, stderr=log)
        _wait_until_ready(self, self._process)

    def kill(self) -> None:
        """As a power cut would, except that what it wrote and did not sync is kept by the system."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    @property
    def process_id(self) -> int:
        assert self._process is not None
        return self._process.pid

    @contextmanager
    def database(self) -> Iterator[str]:
        """Make an empty database, give its URL, drop it afterwards.

        Raises:
            pymysql.OperationalError: 1205, the test left a transaction open, which blocks the drop.
        """
        url = self.new_database()
        try:
            yield url
        finally:
            self.execute_as_root(f"DROP DATABASE {_name(url)}")

    def new_database(self) -> str:
        """Make an empty database that stays as long as the server; its URL."""
        name = f"ewallet_{next(self._numbers)}"
        self.execute_as_root(f"CREATE DATABASE {name}")
        return f"mysql://{USER}:{self.password}@127.0.0.1:{self.port}/{name}"

    def copy_database(self, source: str, target: str) -> None:
        """Fill an empty database with everything that another one holds; both by their URLs."""
        as_root = ["--no-defaults", f"--socket={self.socket}", "--user=root"]
        dumped = subprocess.run(
            [program("mariadb-dump"), *as_root, _name(source)], stdout=subprocess.PIPE, check=True
        ).stdout
        subprocess.run([program("mariadb"), *as_root, _name(target)], input=dumped, check=True)

    def execute_as_root(self, statement: str) -> Sequence[tuple[Any, ...]]:
        """Run one statement with all rights, waiting for nobody's locks for long; its rows."""
        with self.connected_as_root() as connection:
            cursor = connection.cursor()
            cursor.execute(statement)
            return cursor.fetchall()

    def connected_as_root(self) -> "pymysql.connections.Connection[pymysql.cursors.Cursor]":
        """A connection with all rights."""
        return pymysql.connect(
            unix_socket=str(self.socket),
            user="root",
            init_command=f"SET lock_wait_timeout = {LOCK_WAIT_SECONDS}",
            autocommit=True,
            ssl_disabled=True,  # or it loads the system's certificates each time, for 35 ms
        )


@contextmanager
def running_mariadb(folder: Path, *options: str, launcher: Sequence[str] = ()) -> Iterator[MariaDB]:
    """Start a server whose files all live in `folder`, an empty or missing one; kill it at the end.

    It is a fast one, unless other options are given; `launcher` is a command that runs the one behind it.

    Raises:
        MariaDBMissingError: Debian's `mariadb-server` is not installed.
        RuntimeError: the server did not start; the message carries its log.
    """
    folder.mkdir(parents=True, exist_ok=True)
    server = MariaDB(folder, options or FAST, launcher)
    prepare(server)
    initialise(server)
    try:
        server.start()
        yield server
    finally:
        server.kill()  # its files are thrown away, so there is nothing to shut down in order


def _name(url: str) -> str:
    return url.rpartition("/")[2]


def prepare(server: MariaDB) -> None:
    """Make what it has beside its data."""
    (server.folder / "tmp").mkdir()
    (server.folder / "init.sql").write_text(INIT_SQL.format(user=USER, password=server.password))


def initialise(server: MariaDB) -> None:
    """Make the data of a server that has none."""
    folder = server.folder
    subprocess.run(
        [
            program("mariadb-install-db"),
            "--no-defaults",
            f"--datadir={folder / 'data'}",
            f"--tmpdir={folder / 'tmp'}",
            "--auth-root-authentication-method=normal",
            "--skip-test-db",
            *_as_root(),
        ],
        check=True,
        stdout=subprocess.DEVNULL,
    )


def command(server: MariaDB) -> list[str]:
    """What starts it."""
    # setpriv lets the kernel stop the server when the test run is killed before it can.
    return [
        program("setpriv"),
        "--pdeathsig=KILL",
        program("mariadbd"),
        "--no-defaults",
        f"--datadir={server.folder / 'data'}",
        # Of its own: a server that starts removes all temporary tables in there, a running neighbour's as well.
        f"--tmpdir={server.folder / 'tmp'}",
        f"--socket={server.socket}",
        f"--port={server.port}",
        f"--init-file={server.folder / 'init.sql'}",
        *SERVER_OPTIONS,
        *server.options,
        *_as_root(),
    ]


def _wait_until_ready(server: MariaDB, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_TIMEOUT_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        with socket.socket(socket.AF_UNIX) as probe:
            if probe.connect_ex(str(server.socket)) == 0:
                return
        time.sleep(0.02)
    raise RuntimeError(f"mariadbd did not start:\n{(server.folder / 'log').read_text(errors='replace')}")


def program(name: str) -> str:
    """Return a program's path; servers live in sbin, which is not on an ordinary user's path."""
    path = shutil.which(name, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin")
    if path is None:
        raise MariaDBMissingError(name)
    return path


def _as_root() -> list[str]:
    # mariadbd refuses to run as root unless told so by name; an ordinary user cannot become anybody else.
    return ["--user=root"] if os.geteuid() == 0 else []
