"""Notices what other processes have stored, so that one small read a second serves all streams of this one."""

from ewallet.notification import store
from ewallet.notification.senders import Listeners
from ewallet.plumbing.database import Database

PAUSE_SECONDS = 1.0
"""How late a stream may be when another process stored the notification; this process wakes its own at once."""


class Watch:
    """Wakes the streams of users whose inbox has grown."""

    def __init__(self, database: Database, listeners: Listeners) -> None:
        self._database = database
        self._listeners = listeners
        self._seen: int | None = None

    async def run_once(self) -> int:
        """Look once; returns how many users were woken, none while nobody listens."""
        listening = self._listeners.users()
        if not listening:
            self._seen = None
            return 0
        last = await self._database.reading(store.last_place)
        seen, self._seen = self._seen, last
        if seen == last:
            return 0
        # At the first look something may be stored already that came after a stream's own look: wake everybody.
        users = listening if seen is None else await self._database.reading(lambda tx: store.users_after(tx, seen))
        self._listeners.wake(users)
        return len(users)
