"""Overload: what could not be answered in time is refused while that costs next to nothing.

By Little's law whoever comes while so many are under way waits for so many divided by how many are done a second. Where
that is longer than anybody should wait, a request is refused before its body is read, and nothing has been begun. The
speed is measured, not configured, so the bound fits slow disks and fast ones. What has been let in is always finished.
"""

import math
import time
from collections.abc import Callable, Mapping

import structlog

from ewallet.plumbing.batching import MAXIMUM_BATCH
from ewallet.plumbing.settings import SERVICES
from ewallet.plumbing.telemetry import TURNED_AWAY

LEAST = 2 * MAXIMUM_BATCH
"""Always let in: a batch that is being done and the next one. Fewer would make the work slower, and no wait shorter."""

WINDOW_SECONDS = 0.125
"""How often the speed is looked at: batches end some ten times a second."""

MEMORY = 8
"""A new look counts for an eighth: one batch more or less within a window says nothing."""

READING = frozenset({b"GET", b"HEAD", b"OPTIONS"})
"""Never refused here: whoever looks needs to know how things are, and costs little. So do health and metrics."""

log = structlog.get_logger()


class Admission:
    """How much of one kind of work may be under way at once: as much as is done within ``seconds``.

    ``clock`` gives seconds and never goes back. No fewer than ``least`` are let in.
    """

    def __init__(
        self, kind: str, seconds: float, *, least: int = LEAST, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._kind = kind
        self._seconds = seconds
        self._least = least
        self._clock = clock
        self._under_way = self._peak = 0
        self._most = math.inf
        self._rate: float | None = None
        self._begin_window(clock())
        self._turned_away = TURNED_AWAY.labels(kind)

    def has_room(self) -> bool:
        """Whether one more can be done in time; where not, that is counted."""
        now = self._clock()
        if now - self._window_began >= WINDOW_SECONDS:
            self._learn(now)
        if self._under_way < self._most:
            return True
        self._refused += 1
        self._turned_away.inc()
        return False

    def begin(self) -> None:
        """One more is under way."""
        self._under_way += 1
        self._peak = max(self._peak, self._under_way)

    def end(self) -> None:
        """One is done."""
        self._under_way -= 1
        self._done += 1

    def _learn(self, now: float) -> None:
        """Look at the window that is over. Only work that has to wait says how fast it can be done."""
        rate = self._done / (now - self._window_began)
        if self._peak < rate * self._seconds / 2:  # nobody waits for half as long as anybody may
            self._rate, self._most = None, math.inf
        else:
            self._rate = rate if self._rate is None else self._rate + (rate - self._rate) / MEMORY
            self._most = max(self._least, self._rate * self._seconds)
        if self._refused:
            log.warning("requests.overload", kind=self._kind, refused=self._refused, under_way=self._under_way)
        self._begin_window(now)

    def _begin_window(self, now: float) -> None:
        self._window_began = now
        self._done = 0
        self._refused = 0
        self._peak = self._under_way


class Admissions:
    """The admissions of a process, one for each service: a flood of logins keeps nobody from paying."""

    def __init__(self, seconds: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        """``seconds`` is how long anybody may have to wait; 0 means that everybody is let in."""
        services = SERVICES if seconds else ()
        self._by_segment: Mapping[bytes, Admission] = {
            service.encode("ascii"): Admission(service, seconds, clock=clock) for service in services
        }

    def of(self, method: bytes, target: bytes) -> Admission | None:
        """The admission that a request must pass, by its method and its address as it was sent; None where none.

        What a service of ours asks of another one belongs to something that has been begun, and is not refused.
        """
        return None if method in READING else self._by_segment.get(target[1:].partition(b"/")[0])
