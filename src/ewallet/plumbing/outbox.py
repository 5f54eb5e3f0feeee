"""The outbox: how one service tells another that something happened, without losing or inventing it.

An event is a row written in the transaction that caused it. The relay hands rows over in their order and removes them
only when the receiver says that it has stored them: at least once, and the receiver knows an event by its id. An event
that the receiver cannot take is tried again later and finally put into the dead-letter list; later events of the same
ordering key wait for it, all others pass. That is the receiver's part too: of those handed over together it takes none
behind one of the same key that it cannot take.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterator, Sequence
from contextlib import suppress
from typing import Any

import msgspec
import structlog
from sqlalchemy import Column, Connection, MetaData, Row, delete, select, update

from ewallet.kernel.clock import MICROSECONDS_PER_SECOND, Clock
from ewallet.kernel.errors import OutcomeUnknown
from ewallet.plumbing import failpoints, statements, tracing
from ewallet.plumbing.database import Database
from ewallet.plumbing.figures import Figure, count, seconds_since
from ewallet.plumbing.leases import Leases
from ewallet.plumbing.schema import IDENTIFIER, INTEGER, LONG_TEXT, insert_rows, table
from ewallet.plumbing.telemetry import (
    LEASE_HELD,
    OUTBOX_DEAD,
    OUTBOX_DEAD_LETTERS,
    OUTBOX_DELIVERED,
    OUTBOX_OLDEST,
    OUTBOX_WAITING,
)
from ewallet.plumbing.worker import run_forever

log = structlog.get_logger()

BATCH = 500
"""Events handed over at once; about as many as a busy platform makes in a third of a second."""

LEASE_NAME = "outbox-relay"
LEASE_SECONDS = 5
"""What a killed process was about to tell, another one tells some six seconds later."""

MAXIMUM_ATTEMPTS = 6
"""With the waits below an event is given up after about half a minute."""

PAUSE_SECONDS = 1.0
"""How late an event may be that another process stored; this process wakes its relay at once."""

REST_SECONDS = 0.05
"""Between rounds under load: a quarter of the time that a notification may take, and far fewer commits."""


class Event(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Something that happened. ``recipients`` are user ids; ``ordering_key`` groups events whose order matters.

    ``trace`` is that of the request that caused it, if it is in one. ``memo`` is the sender's own: kept by the
    receiver, given back to the sender, shown to nobody.
    """

    id: str
    name: str
    ordering_key: str
    recipients: tuple[str, ...]
    data: dict[str, Any]
    occurred_at: int
    request_id: str
    trace: str = ""
    memo: dict[str, Any] | None = None


class Undeliverable(msgspec.Struct, frozen=True):
    """The receiver's word that it has not taken one event, or one before it of the same ordering key."""

    event_id: str
    error: str

    @classmethod
    def behind(cls, event: Event) -> "Undeliverable":
        """An event that must wait for one before it."""
        return cls(event.id, "an earlier event of its key could not be taken")


Deliver = Callable[[Sequence[Event]], Awaitable[Sequence[Undeliverable]]]
"""Hands events to their receiver. OutcomeUnknown or Overloaded: ask again later with the same events."""

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Event).decode


class Outbox:
    """The outbox tables of one service and every statement on them."""

    def __init__(self, metadata: MetaData, service: str) -> None:
        self.service = service
        self.events = table(
            f"{service}_outbox",
            metadata,
            Column("sequence", INTEGER, primary_key=True, autoincrement=True),
            Column("event_id", IDENTIFIER, nullable=False),
            Column("ordering_key", IDENTIFIER, nullable=False),
            Column("payload", LONG_TEXT, nullable=False),
            Column("attempts", INTEGER, nullable=False, default=0),
            Column("next_attempt_at", INTEGER, nullable=False, default=0),
        )
        self.dead = table(
            f"{service}_outbox_dead",
            metadata,
            Column("sequence", INTEGER, primary_key=True, autoincrement=False),
            Column("event_id", IDENTIFIER, nullable=False),
            Column("payload", LONG_TEXT, nullable=False),
            Column("error", LONG_TEXT, nullable=False),
            Column("given_up_at", INTEGER, nullable=False),
        )

    def add(self, tx: Connection, events: Sequence[Event]) -> None:
        """Write events in the transaction that causes them."""
        rows = [(event.id, event.ordering_key, _encode(event).decode(), 0, 0) for event in events]
        columns = ("event_id", "ordering_key", "payload", "attempts", "next_attempt_at")
        insert_rows(tx, self.events, rows, columns=columns)

    def due(self, tx: Connection, now: int) -> Sequence[Row[Any]]:
        """The next events, in their order, without the ordering keys whose first one waits.

        However many events wait, those of other keys are found behind them.
        """
        waiting: set[str] = set()
        while True:
            rows = self._next(tx, waiting)
            newly_waiting = {row.ordering_key for row in rows if row.next_attempt_at > now}
            if not newly_waiting or len(rows) < BATCH:
                break
            waiting |= newly_waiting
        return [row for row in rows if row.ordering_key not in newly_waiting]

    def _next(self, tx: Connection, without: Collection[str]) -> Sequence[Row[Any]]:
        query = select(self.events).order_by(self.events.c.sequence).limit(BATCH)
        if without:
            query = query.where(self.events.c.ordering_key.not_in(without))
        return tx.execute(query).all()

    def waiting(self, tx: Connection) -> bool:
        """Whether there is any event at all."""
        return tx.execute(select(self.events.c.sequence).limit(1)).first() is not None

    def figures(self, tx: Connection, now: int) -> Iterator[Figure]:
        """How much waits and for how long, for the metrics."""
        first = tx.execute(select(self.events.c.payload).order_by(self.events.c.sequence).limit(1)).scalar()
        age = 0 if first is None else seconds_since(_decode(first).occurred_at, now)
        yield Figure(OUTBOX_WAITING, (self.service,), count(tx, self.events))
        yield Figure(OUTBOX_OLDEST, (self.service,), age)
        yield Figure(OUTBOX_DEAD_LETTERS, (self.service,), count(tx, self.dead))

    def kept(self, tx: Connection, ids: Collection[str]) -> set[str]:
        """Those of some events that have not been handed over, or were given up. Reads both tables whole."""
        queries = [select(each.c.event_id).where(each.c.event_id.in_(ids)) for each in (self.events, self.dead)]
        return {event_id for query in queries for (event_id,) in tx.execute(query)}

    def dead_after(self, tx: Connection, after: int) -> list[tuple[int, Event]]:
        """The next dead letters, by their sequence."""
        sequence = self.dead.c.sequence
        query = select(sequence, self.dead.c.payload).where(sequence > after).order_by(sequence).limit(BATCH)
        return [(row.sequence, _decode(row.payload)) for row in tx.execute(query)]

    def bury(self, tx: Connection, sequences: Collection[int]) -> None:
        """Remove dead letters that were taken after all."""
        tx.execute(delete(self.dead).where(self.dead.c.sequence.in_(sequences)))

    def settle(self, tx: Connection, rows: Sequence[Row[Any]], errors: dict[str, str], now: int) -> int:
        """Remove what was delivered; put off or give up what was not. Returns the number given up.

        Of each ordering key only the first that was not taken has failed; those behind it stay as they are.
        """
        first_by_key: dict[str, Row[Any]] = {}
        for row in rows:
            if row.event_id in errors:
                first_by_key.setdefault(row.ordering_key, row)
        failed = first_by_key.values()
        dead = [row for row in failed if row.attempts + 1 >= MAXIMUM_ATTEMPTS]
        for row in failed:
            pause = 2**row.attempts * MICROSECONDS_PER_SECOND
            tx.execute(
                update(self.events)
                .where(self.events.c.sequence == row.sequence)
                .values(attempts=row.attempts + 1, next_attempt_at=now + pause)
            )
        insert_rows(
            tx,
            self.dead,
            [(row.sequence, row.event_id, row.payload, errors[row.event_id], now) for row in dead],
        )
        given_up = {row.sequence for row in dead}
        gone = statements.in_list(
            row.sequence for row in rows if row.event_id not in errors or row.sequence in given_up
        )
        if gone:
            statements.run(tx, f"DELETE FROM {self.events.name} WHERE sequence IN {statements.marks(len(gone))}", gone)  # noqa: S608  # names of ours; values are bound
        failpoints.reached("relay.settle.written", self.service)
        return len(dead)


class Relay:
    """Moves events from one service's outbox to their receiver."""

    def __init__(
        self,
        database: Database,
        outbox: Outbox,
        leases: Leases,
        deliver: Deliver,
        *,
        owner: str,
        clock: Clock,
    ) -> None:
        self._database = database
        self._outbox = outbox
        self._leases = leases
        self._deliver = deliver
        self._owner = owner
        self._clock = clock
        self._lease_until = 0
        LEASE_HELD.labels(outbox.service, LEASE_NAME).set_function(lambda: self._lease_until > clock())
        self.wake = asyncio.Event()
        """Set by whoever adds events, so that they need not wait for the next round."""

    async def run_forever(self) -> None:
        """Hand events over until cancelled; then another relay may take over at once."""
        name = f"{self._outbox.service}-relay"
        try:
            await run_forever(
                name, self.run_once, pause_seconds=PAUSE_SECONDS, rest_seconds=REST_SECONDS, wake=self.wake
            )
        finally:
            await self.release()

    async def run_once(self) -> int:
        """Hand over one batch; returns how many events left the outbox.

        OutcomeUnknown, Overloaded: the receiver does not answer; the same events go out in the next round.
        """
        if not await self._database.reading(self._outbox.waiting) or not await self._holds_lease():
            return 0
        rows = await self._database.reading(lambda tx: self._outbox.due(tx, self._clock()))
        if not rows:
            return 0
        failpoints.reached("relay.deliver.before", self._outbox.service)
        events = [_decode(row.payload) for row in rows]
        with tracing.batch(self._outbox.service, "outbox.deliver", [event.trace for event in events]):
            undeliverable = await self._deliver(events)
        failpoints.reached("relay.deliver.after", self._outbox.service)
        return await self._settle(rows, {failed.event_id: failed.error for failed in undeliverable})

    async def release(self) -> None:
        """Let another relay take over at once, after the last round of this one."""
        if self._lease_until == 0:
            return
        self._lease_until = 0
        with suppress(OutcomeUnknown):  # then the lease runs out by itself
            await self._database.writing(lambda tx: self._leases.release(tx, LEASE_NAME, self._owner))

    async def _settle(self, rows: Sequence[Row[Any]], errors: dict[str, str]) -> int:
        now = self._clock()
        dead = await self._database.writing(lambda tx: self._outbox.settle(tx, rows, errors, now))
        delivered = len(rows) - len(errors)
        OUTBOX_DELIVERED.labels(self._outbox.service).inc(delivered)
        if dead:
            OUTBOX_DEAD.labels(self._outbox.service).inc(dead)
            log.error("outbox.events_given_up", service=self._outbox.service, count=dead)
        return delivered + dead

    async def _holds_lease(self) -> bool:
        """Claim the relay's lease, or prolong it when half of it is over."""
        now = self._clock()
        if self._lease_until - now > LEASE_SECONDS * MICROSECONDS_PER_SECOND // 2:
            return True
        claimed = await self._database.writing(
            lambda tx: self._leases.claim(tx, LEASE_NAME, self._owner, now=now, seconds=LEASE_SECONDS)
        )
        self._lease_until = now + LEASE_SECONDS * MICROSECONDS_PER_SECOND if claimed else 0
        return claimed
