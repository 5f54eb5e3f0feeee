"""Figures that only a service's tables know: what waits, for how long, and what the books hold.

Each process reads them for itself, now and then, and shows the latest: a scrape never waits for a database, and a
process that dies takes nothing with it. Where several processes show the same figure, take the largest, not the sum.
"""

import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

from prometheus_client import Gauge
from sqlalchemy import Connection, Table, func, select

from ewallet.kernel.clock import MICROSECONDS_PER_SECOND, Clock
from ewallet.plumbing.database import Database
from ewallet.plumbing.worker import run_forever

PAUSE_SECONDS = 10.0
"""Shorter than the time between two scrapes, as a rule a quarter of a minute."""

REST = 100
"""Times as long as it took: reading may cost a hundredth of one processor, however large the tables are."""


class Figure(NamedTuple):
    """One value of a gauge."""

    gauge: Gauge
    labels: tuple[str, ...]
    value: int


Read = Callable[[Connection, int], Iterator[Figure]]
"""Reads the figures of a service; the second argument is the present."""


class Figures:
    """Keeps the figures of one service up to date."""

    def __init__(self, database: Database, read: Read, clock: Clock) -> None:
        self._database = database
        self._read = read
        self._clock = clock
        self._not_before = 0.0

    async def run_forever(self) -> None:
        """Go on until cancelled."""
        await run_forever(f"{self._database.name}-figures", self.run_once, pause_seconds=PAUSE_SECONDS)

    async def run_once(self) -> int:
        """Read and show them; never has more to do at once."""
        if time.monotonic() < self._not_before:
            return 0
        started = time.monotonic()
        for gauge, labels, value in await self._database.reading(lambda tx: list(self._read(tx, self._clock()))):
            gauge.labels(*labels).set(value)
        ended = time.monotonic()
        self._not_before = ended + REST * (ended - started)
        return 0


def count(tx: Connection, rows: Table) -> int:
    """How many rows a table has."""
    return int(tx.execute(select(func.count()).select_from(rows)).scalar_one())


def seconds_since(moment: int, now: int) -> int:
    """Whole seconds between two times; none where clocks disagree."""
    return max(0, now - moment) // MICROSECONDS_PER_SECOND
