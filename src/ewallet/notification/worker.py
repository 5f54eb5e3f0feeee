"""Background work of notification: noticing what others have stored, sending what leaves the platform, forgetting."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple

import structlog
from sqlalchemy import Connection, Row

from ewallet.kernel.clock import MICROSECONDS_PER_SECOND, Clock
from ewallet.kernel.errors import OutcomeUnknown, Overloaded
from ewallet.notification import store
from ewallet.notification.contacts import message_parcel
from ewallet.notification.domain.deliveries import JITTER_PARTS, Outcome, State, Verdict, after
from ewallet.notification.senders import Parcel, Sender
from ewallet.notification.senders.streams import Listeners
from ewallet.notification.webhooks import cancel_unwanted, close_gone, is_wanted, parcel_of
from ewallet.plumbing.batching import Batcher
from ewallet.plumbing.database import Database
from ewallet.plumbing.telemetry import DELIVERIES, WORKER_ERRORS

log = structlog.get_logger()

PAUSE_SECONDS = 1.0
"""How late a stream may be when another process stored the notification, or a delivery's second attempt; this process
wakes its own streams and sends its own deliveries at once."""


class Watch:
    """Wakes the streams of users whose inbox has grown, so that one small read a second serves all of this process."""

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


FORGETTING_PAUSE_SECONDS = 60.0
"""Nothing waits for rows to be forgotten; this only keeps each round small."""


class Forgetting:
    """Removes deliveries some time after they were over; 0 seconds keep them for ever. The inbox stays."""

    def __init__(self, database: Database, *, clock: Clock, after_seconds: int) -> None:
        self._database = database
        self._clock = clock
        self._after = after_seconds * MICROSECONDS_PER_SECOND

    async def run_once(self) -> int:
        """One round; returns how many were removed."""
        if not self._after:
            return 0
        before = self._clock() - self._after
        return await self._database.writing(lambda tx: store.forget_deliveries(tx, before))


LEASE_SECONDS = 5
"""What a killed process was about to send, another one sends some six seconds later."""

PROLONG_SECONDS = 1.5

RECEIVERS_AT_ONCE = 500
DELIVERIES_AT_ONCE = 16
"""To one receiver, once it has answered. Each is another payment's or wallet's: what belongs together waits."""

REST_SECONDS = 2
"""Before a receiver that took nothing of what it was sent is tried again, with its other deliveries."""


class Dispatcher:
    """Sends deliveries to those receivers that this process has claimed, each in a task of its own.

    A receiver that is slow holds up nothing but itself. Who loses a receiver unawares, stopped past its lease, sends
    some deliveries a second time; they have the same ids, and only one outcome is written. ``wake`` is what the loop
    around ``run_once`` waits for.
    """

    def __init__(
        self,
        database: Database,
        senders: Mapping[str, Sender],
        *,
        owner: str,
        clock: Clock,
        random_below: Callable[[int], int],
        wake: asyncio.Event,
    ) -> None:
        self._database = database
        self._senders = senders
        self._owner = owner
        self._clock = clock
        self._random_below = random_below
        self._held_until = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._batcher: Batcher[_Settled, None] = Batcher(database, _settle)
        self._returns: Batcher[tuple[str, int], int] = Batcher(database, self._give_back)
        self._wake = wake

    async def run_once(self) -> int:
        """Claim receivers that wait, and begin to send to them; returns how many."""
        room, now = RECEIVERS_AT_ONCE - len(self._tasks), self._clock()
        if room == 0 or not await self._database.reading(lambda tx: store.anybody_waits(tx, now, self._senders)):
            return 0
        claimed = await self._database.writing(
            lambda tx: store.claim(tx, self._owner, self._senders, now=now, seconds=LEASE_SECONDS, limit=room)
        )
        self._hold(now)
        for receiver, channel in claimed:
            task = asyncio.create_task(self._look_after(receiver, channel))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return len(claimed)

    async def prolong(self) -> int:
        """Keep what is being sent to; nothing that it finds makes another round needed."""
        if self._tasks:
            now = self._clock()
            await self._database.writing(lambda tx: store.prolong(tx, self._owner, now=now, seconds=LEASE_SECONDS))
            self._hold(now)
        return 0

    async def aclose(self) -> None:
        """Let others send at once what this process was about to."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if tasks:
            with suppress(OutcomeUnknown):  # then the leases run out by themselves
                await self._database.writing(lambda tx: store.give_all_back(tx, self._owner))

    def _hold(self, since: int) -> None:
        self._held_until = since + LEASE_SECONDS * MICROSECONDS_PER_SECOND

    async def _look_after(self, receiver: str, channel: str) -> None:
        """Send until nothing is due, or nothing is taken, and give the receiver back."""
        not_before = 0
        try:
            not_before = await self._send_all(receiver, channel)
        except (OutcomeUnknown, Overloaded) as error:
            log.warning("notification.sending_put_off", receiver=receiver, error=str(error))
            not_before = self._after_rest()
        except Exception:
            WORKER_ERRORS.labels("notification-dispatch").inc()
            log.exception("notification.sending_failed", receiver=receiver)
            not_before = self._after_rest()
        with suppress(OutcomeUnknown, Overloaded):  # then the lease runs out by itself
            next_at = await self._returns.submit((receiver, not_before))
            if next_at <= self._clock():
                self._wake.set()

    def _give_back(self, tx: Connection, returned: Sequence[tuple[str, int]]) -> Sequence[int]:
        """In the order of their ids; after a busy moment many are given back at once."""
        next_at = {
            receiver: store.give_back(tx, receiver, self._owner, not_before=not_before)
            for receiver, not_before in sorted(returned)
        }
        return [next_at[receiver] for receiver, _ in returned]

    async def _send_all(self, receiver: str, channel: str) -> int:
        """Send what is due, one delivery first and then some at a time; a dead receiver takes but one connection.

        Returns 0, or the time before which nothing more should be tried.
        """
        at_once = 1
        while self._held_until > (now := self._clock()):
            found = await self._database.reading(
                partial(_due, receiver=receiver, channel=channel, now=now, limit=at_once)
            )
            if found is None:
                await self._database.writing(partial(cancel_unwanted, webhook_id=receiver, now=now))
            if not found:
                return 0
            verdicts = await asyncio.gather(*(self._send(channel, row, parcel) for row, parcel in found))
            # What one delivery is refused for at once, others may not be; who lets the first wait would let all wait.
            slow = self._clock() - now > REST_SECONDS * MICROSECONDS_PER_SECOND
            if Verdict.TAKEN not in verdicts and (slow or at_once > 1):
                return self._after_rest()
            at_once = DELIVERIES_AT_ONCE
        return 0

    async def _send(self, channel: str, row: Row[Any], parcel: Parcel) -> Verdict:
        """Send one delivery and write what has become of it."""
        try:
            outcome = await self._senders[channel].send(parcel)
        except Exception:
            # A bug of ours is this delivery's failure: it must not keep the receiver's others from being sent.
            WORKER_ERRORS.labels("notification-dispatch").inc()
            log.exception("notification.sender_failed", delivery=row.id, channel=channel)
            outcome = Outcome(Verdict.FAILED, error="It could not be sent because of an error on our side.")
        DELIVERIES.labels(channel, outcome.verdict).inc()
        gone = parcel.address if outcome.verdict is Verdict.GONE else None
        await self._batcher.submit(_Settled(row.receiver, self._settlement(row, outcome), gone))
        return outcome.verdict

    def _settlement(self, row: Row[Any], outcome: Outcome) -> store.Settlement:
        now = self._clock()
        progress = after(outcome, attempts=row.attempts, now=now, jitter=self._random_below(JITTER_PARTS))
        if progress.state is State.DEAD:
            log.error("notification.delivery_given_up", delivery=row.id, receiver=row.receiver, error=outcome.error)
        return store.Settlement(row.sequence, progress, outcome.status, outcome.error, now)

    def _after_rest(self) -> int:
        return self._clock() + REST_SECONDS * MICROSECONDS_PER_SECOND


def _due(tx: Connection, *, receiver: str, channel: str, now: int, limit: int) -> list[tuple[Row[Any], Parcel]] | None:
    """What is to be sent now. None: nothing, because the receiver wants nothing; somebody added it at that moment."""
    rows = store.due(tx, receiver, now, limit=limit)
    if channel != store.WEBHOOK:
        return [(row, message_parcel(row)) for row in rows]
    if not rows:
        return []
    webhook = store.webhook(tx, receiver)
    if webhook is None or not is_wanted(webhook):
        return None
    return [(row, parcel_of(row, webhook, now)) for row in rows]


class _Settled(NamedTuple):
    """An attempt that has ended; ``gone`` is the address where nothing is wanted any more, if that was the answer."""

    receiver: str
    settlement: store.Settlement
    gone: str | None


def _settle(tx: Connection, settled: Sequence[_Settled]) -> Sequence[None]:
    store.settle(tx, [each.settlement for each in settled])
    close_gone(tx, {(each.receiver, each.gone): each.settlement.at for each in settled if each.gone is not None})
    return [None] * len(settled)
