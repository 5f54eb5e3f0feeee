"""How much of our traffic one host gets: so many calls at once, so many a second."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

REMEMBERED_HOSTS = 1000


class _Host:
    """The calls of one host; ``free_at`` is when the next may begin, in seconds of the event loop's clock."""

    def __init__(self, at_once: int) -> None:
        self.calls = asyncio.Semaphore(at_once)
        self.users = 0
        self.free_at = 0.0


class Hosts:
    """Bounds for each host by itself, in this process; ``per_second`` 0 is no bound."""

    def __init__(self, *, at_once: int, per_second: int) -> None:
        self._at_once = at_once
        self._interval = 1 / per_second if per_second else 0.0
        self._by_name: dict[str, _Host] = {}

    @asynccontextmanager
    async def turn(self, name: str) -> AsyncIterator[None]:
        """Wait for a turn at a host; its call is over when the block is left."""
        if len(self._by_name) > REMEMBERED_HOSTS:
            self._forget_idle()
        host = self._by_name.setdefault(name, _Host(self._at_once))
        host.users += 1
        try:
            async with host.calls:
                now = asyncio.get_running_loop().time()
                begins, host.free_at = max(now, host.free_at), max(now, host.free_at) + self._interval
                if begins > now:
                    await asyncio.sleep(begins - now)
                yield
        finally:
            host.users -= 1

    def _forget_idle(self) -> None:
        now = asyncio.get_running_loop().time()
        self._by_name = {name: host for name, host in self._by_name.items() if host.users or host.free_at > now}
