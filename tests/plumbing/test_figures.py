"""Figures are read from the tables now and then, however large those are, and shown until the next reading."""

from collections.abc import Iterator
from types import SimpleNamespace

import pytest
from prometheus_client import CollectorRegistry, Gauge
from sqlalchemy import Connection

from ewallet.plumbing.figures import Figure, Figures, seconds_since
from tests.support.plumbing import ManualClock, opened

registry = CollectorRegistry()
WAITING = Gauge("test_waiting", "For a test.", ["service"], registry=registry)


def shown() -> float | None:
    return registry.get_sample_value("test_waiting", {"service": "test"})


async def test_what_was_read_is_shown(sqlite_url: str) -> None:
    clock = ManualClock(7)

    def read(tx: Connection, now: int) -> Iterator[Figure]:
        yield Figure(WAITING, ("test",), int(tx.exec_driver_sql("SELECT 30").scalar_one()) + now)

    with opened(sqlite_url) as database:
        assert await Figures(database, read, clock).run_once() == 0

    assert shown() == 37


async def test_a_reading_that_takes_long_is_repeated_seldom(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A ledger with millions of accounts must not keep a processor busy with adding them up."""
    times = iter([0.0, 0.0, 2.0, 201.9, 202.1, 202.1, 202.2])
    monkeypatch.setattr("ewallet.plumbing.figures.time", SimpleNamespace(monotonic=lambda: next(times)))
    readings = []

    def read(_tx: Connection, _now: int) -> Iterator[Figure]:
        readings.append(1)
        yield from ()

    with opened(sqlite_url) as database:
        figures = Figures(database, read, ManualClock(0))
        for expected in (1, 1, 2):
            await figures.run_once()
            assert len(readings) == expected


def test_clocks_that_disagree_make_nothing_older_than_it_is() -> None:
    assert (seconds_since(3_000_000, 5_500_000), seconds_since(9, 5)) == (2, 0)
