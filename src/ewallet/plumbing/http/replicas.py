"""The processes of one service, by their addresses: asked in turn, and left alone while they fail, or are to stop.

This is a circuit breaker for each address. Those of libraries guard one function and know no second address to turn to,
which is the point here; and they let a customer's request find out whether all is well again.
"""

import asyncio
from collections.abc import Iterator, Sequence

import httpx2
import structlog

from ewallet.kernel.errors import Overloaded

log = structlog.get_logger()

FAILURES_IN_A_ROW = 5
"""A connection may break once without anything being wrong; so many times one after the other, the process is."""

REST_SECONDS = 0.5
"""Between looks whether an address answers again: that is how soon whoever is back is used."""

LOOK_SECONDS = 2.0
"""How long an answer is waited for then; a process that is starting accepts connections before it can answer."""

LOOK_PATH = "/health/live"


class Replicas:
    """All processes of a service; there is at least one. ``client`` looks after those that have failed."""

    def __init__(self, urls: Sequence[str], client: httpx2.AsyncClient) -> None:
        self._replicas = [Replica(url, client) for url in urls]
        self._next = 0

    def __iter__(self) -> Iterator["Replica"]:
        return iter(self._replicas)

    def take(self) -> "Replica":
        """The next one in turn that is well, or else one that is leaving. Overloaded: nobody is there."""
        for _ in self._replicas:
            replica = self._replicas[self._next]
            self._next = (self._next + 1) % len(self._replicas)
            if replica.is_well:
                return replica
        for replica in self._replicas:
            if not replica.is_gone:
                return replica
        raise Overloaded(f"{', '.join(replica.url for replica in self._replicas)}: none answers")

    def close(self) -> None:
        """Look after nobody any more."""
        for replica in self._replicas:
            replica.close()


class Replica:
    """One process, and how it has answered of late."""

    def __init__(self, url: str, client: httpx2.AsyncClient) -> None:
        self.url = url
        self._client = client
        self._failures = 0
        self._looking: asyncio.Task[None] | None = None
        self.is_gone = False
        """Whether it has failed, and has not been found well since."""

    @property
    def is_well(self) -> bool:
        """Whether it answers, as far as we know, and will go on doing so."""
        return self._looking is None

    def answered(self, answer: httpx2.Response) -> None:
        """Whatever the answer was, it is there; one that closes the connection is about to stop, and should be left."""
        self._failures = 0
        if _is_leaving(answer):
            self._look_after()

    def failed(self) -> None:
        """It gave no answer."""
        self._failures += 1
        if self._failures >= FAILURES_IN_A_ROW:
            self.went_away()

    def went_away(self) -> None:
        """Nobody listens there."""
        if not self.is_gone:
            log.warning("replica.gone", url=self.url)
        self.is_gone = True
        self._look_after()

    def close(self) -> None:
        """Look no more."""
        if self._looking is not None:
            self._looking.cancel()

    def _look_after(self) -> None:
        if self._looking is None:
            self._looking = asyncio.create_task(self._look_until_well())

    async def _look_until_well(self) -> None:
        while not await self._looks_well():  # noqa: ASYNC110  # another process sets no event of ours
            await asyncio.sleep(REST_SECONDS)
        self._failures = 0
        self.is_gone = False
        self._looking = None

    async def _looks_well(self) -> bool:
        try:
            return not _is_leaving(await self._client.get(self.url + LOOK_PATH, timeout=LOOK_SECONDS))
        except httpx2.HTTPError:
            return False


def _is_leaving(answer: httpx2.Response) -> bool:
    return str(answer.headers.get("connection", "")).lower() == "close"
