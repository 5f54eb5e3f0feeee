"""Copies of several files are of one moment, whoever writes meanwhile."""

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from ewallet.plumbing import snapshots as plumbing_snapshots
from ewallet.plumbing.snapshots import copy, fault_of, snapshots
from tests.support.platform import wait_until

ROUNDS = 25
PATIENCE_SECONDS = 30


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Two files with a number each, as a payment and its money have: one is raised before the other."""
    made = [tmp_path / "intent", tmp_path / "effect"]
    for file in made:
        with closing(sqlite3.connect(file, isolation_level=None)) as connection:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("CREATE TABLE counter (value INTEGER)")
            connection.execute("INSERT INTO counter VALUES (0)")
    return made


@pytest.fixture
def written(files: list[Path]) -> Iterator[list[int]]:
    """Raise the numbers all the time, one after the other, each in its own transaction; give a list that grows."""
    stopped = threading.Event()
    times: list[int] = []

    def write() -> None:
        with closing(connect(files[0])) as intent, closing(connect(files[1])) as effect:
            while not stopped.is_set():
                intent.execute("UPDATE counter SET value = value + 1")
                effect.execute("UPDATE counter SET value = value + 1")
                times.append(1)

    thread = threading.Thread(target=write)
    thread.start()
    yield times
    stopped.set()
    thread.join()


def connect(file: Path) -> sqlite3.Connection:
    return sqlite3.connect(file, isolation_level=None, timeout=10)


def number(connection: sqlite3.Connection) -> int:
    (value,) = connection.execute("SELECT value FROM counter").fetchone()
    return int(value)


def test_an_effect_is_in_a_snapshot_only_with_its_intent_and_an_intent_only_moments_ahead(
    files: list[Path], written: list[int]
) -> None:
    for _ in range(ROUNDS):
        before = len(written)
        wait_until(lambda: len(written) > before, PATIENCE_SECONDS, "nobody writes")  # noqa: B023  # in the same round
        with snapshots(files) as opened:
            intent, effect = (number(opened[file]) for file in files)

        assert intent - effect in {0, 1}


def test_a_snapshot_stays_as_it_was_and_holds_up_nobody(files: list[Path], tmp_path: Path) -> None:
    with snapshots(files) as opened, closing(connect(files[0])) as writer:
        writer.execute("UPDATE counter SET value = 7")
        writer.execute("PRAGMA wal_checkpoint")
        copy(opened[files[0]], tmp_path / "copy", lambda _done, _pages: None)

    with closing(connect(tmp_path / "copy")) as copied, closing(connect(files[0])) as original:
        assert (number(copied), number(original)) == (0, 7)


def test_a_copy_tells_how_far_it_is(files: list[Path], tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    with snapshots(files) as opened:
        copy(opened[files[0]], tmp_path / "copy", lambda done, pages: told.append((done, pages)))

    done, pages = told[-1]
    assert done == pages > 0


def test_a_file_that_somebody_keeps_locked_is_given_up_and_the_others_are_free_again(
    files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plumbing_snapshots, "LOCK_SECONDS", 0.01)
    monkeypatch.setattr(plumbing_snapshots, "PATIENCE_SECONDS", 0.1)
    with closing(connect(files[1])) as blocker, closing(connect(files[0])) as other:
        blocker.execute("BEGIN IMMEDIATE")

        with pytest.raises(sqlite3.OperationalError, match="locked"), snapshots(files):
            pass

        other.execute("BEGIN IMMEDIATE")


def test_a_file_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(sqlite3.OperationalError, match="unable to open"), snapshots([tmp_path / "nothing"]):
        pass

    assert list(tmp_path.iterdir()) == []


def test_a_file_in_order_has_no_fault_and_a_damaged_one_is_told(files: list[Path]) -> None:
    with closing(connect(files[0])) as connection:
        connection.execute("CREATE INDEX by_value ON counter (value)")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    assert fault_of(files[0]) is None

    whole = bytearray(files[0].read_bytes())
    whole[-3:] = b"\x07\x07\x07"  # the end of the index's only page is its only entry
    files[0].write_bytes(whole)

    assert fault_of(files[0]) is not None
