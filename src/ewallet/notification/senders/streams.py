"""The live streams: who listens is woken, and looks into the inbox."""

import asyncio
from collections.abc import Iterable
from contextlib import suppress
from weakref import WeakSet

from ewallet.kernel.errors import Reason, Refusal

STREAMS_PER_USER = 10
"""A person's devices and tabs, with room; each stream costs a connection."""

FULL = Refusal(
    Reason.TOO_MANY_REQUESTS,
    f"There are {STREAMS_PER_USER} open streams for this user already: close one first.",
    retry_after_seconds=5,
)


class Listener:
    """One open stream that waits for news of its user."""

    def __init__(self) -> None:
        self._news = asyncio.Event()

    def wake(self) -> None:
        """There may be news."""
        self._news.set()

    async def news(self, seconds: float) -> bool:
        """Wait for a wake since the last one seen here; False after that many seconds without."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._news.wait(), seconds)
        woken = self._news.is_set()
        self._news.clear()
        return woken


class Listeners:
    """The open streams of this process, by user."""

    def __init__(self) -> None:
        # Weak, because a client may go away before its stream has taken a first step: nothing of it would run to say
        # goodbye. A stream that has begun does.
        self._by_user: dict[str, WeakSet[Listener]] = {}

    def users(self) -> list[str]:
        """Who listens. Users whose streams went without a word are forgotten here."""
        self._by_user = {user_id: listeners for user_id, listeners in self._by_user.items() if listeners}
        return list(self._by_user)

    def open(self, user_id: str) -> Listener | Refusal:
        """A new listener. Refused with ``too-many-requests`` beyond the bound of a user."""
        listeners = self._by_user.setdefault(user_id, WeakSet())
        if len(listeners) >= STREAMS_PER_USER:
            return FULL
        listener = Listener()
        listeners.add(listener)
        return listener

    def close(self, user_id: str, listener: Listener) -> None:
        """Forget a listener."""
        listeners = self._by_user.get(user_id, WeakSet())
        listeners.discard(listener)
        if not listeners:
            self._by_user.pop(user_id, None)

    def wake(self, user_ids: Iterable[str]) -> None:
        """Wake the streams of these users."""
        for user_id in user_ids:
            for listener in self._by_user.get(user_id, ()):
                listener.wake()
