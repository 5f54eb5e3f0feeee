"""Several SQLite files as they were at one and the same moment, while other processes write to them.

The services share no transaction, so copies taken one after the other tell different stories: either payment knows of
money that never moved in the wallet, or the wallet of payments that nobody has asked for. Therefore the write locks of
all files are held at once, for as long as it takes to open a snapshot of each: at that moment no transaction is under
way anywhere. The copies are what a power cut would have left then, and recovery is made for that.

A writer holds one lock at a time, so it may wait for us, but never we for each other. Who writes meanwhile waits for a
moment, who reads does not.
"""

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import stamina

LOCK_SECONDS = 0.5
"""Longer than a batch takes. We give up what we hold when one file is not free by then, so nobody waits for longer."""

PATIENCE_SECONDS = 30.0

PAGES_AT_ONCE = 1024
"""Copied between two reports of the progress: some 4 MB."""


@contextmanager
def snapshots(files: Iterable[Path]) -> Iterator[Mapping[Path, sqlite3.Connection]]:
    """A connection to each file, all in a read transaction that began at the same moment.

    sqlite3.OperationalError: one of the files is not to be had within PATIENCE_SECONDS, or not at all.
    """
    with ExitStack() as cleanup:
        readers = {file: cleanup.enter_context(_connected(file)) for file in sorted(set(files))}
        for attempt in stamina.retry_context(on=_is_busy, attempts=None, timeout=PATIENCE_SECONDS, wait_max=1.0):
            with attempt, _locked(readers):
                for reader in readers.values():
                    reader.execute("BEGIN")
                    reader.execute("SELECT count(*) FROM sqlite_schema")  # a snapshot begins with the first read
        yield readers


def copy(snapshot: sqlite3.Connection, to: Path, report: Callable[[int, int], None]) -> None:
    """Write a snapshot into a new file; ``report`` gets the pages that are done, and all.

    sqlite3.Error, OSError: it cannot be read or written.
    """
    with closing(sqlite3.connect(to)) as target:
        snapshot.backup(target, pages=PAGES_AT_ONCE, progress=lambda _status, left, pages: report(pages - left, pages))


def fault_of(file: Path) -> str | None:
    """What SQLite finds wrong with a file that nobody writes to; None where it is in order."""
    with closing(sqlite3.connect(f"{file.absolute().as_uri()}?immutable=1", uri=True)) as connection:
        try:
            (found,) = connection.execute("PRAGMA integrity_check(1)").fetchone()
        except sqlite3.DatabaseError as error:  # too damaged to be checked
            return str(error)
    return None if found == "ok" else str(found)


@contextmanager
def _locked(files: Iterable[Path]) -> Iterator[None]:
    """Hold the write locks of all files."""
    with ExitStack() as cleanup:
        for file in files:
            cleanup.enter_context(_connected(file)).execute("BEGIN IMMEDIATE")
        yield


@contextmanager
def _connected(file: Path) -> Iterator[sqlite3.Connection]:
    """A connection to a file that exists; closing it ends its transaction."""
    uri = f"{file.absolute().as_uri()}?mode=rw"
    with closing(sqlite3.connect(uri, uri=True, timeout=LOCK_SECONDS, isolation_level=None)) as connection:
        yield connection


def _is_busy(error: Exception) -> bool:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY  # 0xFF: of whatever kind
