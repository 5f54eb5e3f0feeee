"""The processes of one service, by their addresses: asked in turn, and left alone for a while when they fail.

This is a circuit breaker for each address. The ones in libraries guard one function and know no second address to turn
to, which is the point here.
"""

import time
from collections.abc import Sequence

import structlog

from ewallet.kernel.errors import Overloaded

log = structlog.get_logger()

FAILURES_IN_A_ROW = 5
"""A connection may break once without anything being wrong; so many times one after the other, the process is."""

REST_SECONDS = 0.5
"""How long an address is left alone. Then one request tries it: whoever is back is used again within half a second."""


class Replica:
    """One process, and how it has answered of late."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._failures = 0
        self._rests_until = 0.0

    def may_be_asked(self, now: float) -> bool:
        """Whether it does not rest; of those who ask when its rest is over, the first one finds out for all."""
        if self._failures < FAILURES_IN_A_ROW:
            return True
        if now < self._rests_until:
            return False
        self._rests_until = now + REST_SECONDS
        return True

    def answered(self) -> None:
        """Whatever the answer was, it is there."""
        self._failures = 0

    def failed(self) -> None:
        """It gave no answer."""
        self._failures += 1
        if self._failures >= FAILURES_IN_A_ROW:
            self._rest()

    def is_away(self) -> None:
        """Nobody listens there."""
        self._failures = FAILURES_IN_A_ROW
        self._rest()

    def _rest(self) -> None:
        log.warning("replica.rests", url=self.url)
        self._rests_until = time.monotonic() + REST_SECONDS


class Replicas:
    """All processes of a service; there is at least one."""

    def __init__(self, urls: Sequence[str]) -> None:
        self._replicas = [Replica(url) for url in urls]
        self._next = 0

    def __len__(self) -> int:
        return len(self._replicas)

    def take(self) -> Replica:
        """The next one in turn that does not rest. Overloaded: all do."""
        now = time.monotonic()
        for _ in self._replicas:
            replica = self._replicas[self._next]
            self._next = (self._next + 1) % len(self._replicas)
            if replica.may_be_asked(now):
                return replica
        raise Overloaded(f"{', '.join(replica.url for replica in self._replicas)}: none answers")
