"""Notification's use cases."""

import asyncio
from collections.abc import AsyncIterator, Collection, Sequence
from typing import Annotated, Any

import msgspec
from msgspec import Meta
from opentelemetry.trace import SpanKind
from sqlalchemy import Connection, Row
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError

from ewallet.kernel.caller import Caller
from ewallet.kernel.clock import MICROSECONDS_PER_SECOND, Clock, rfc3339
from ewallet.kernel.errors import Refusal, invalid, not_found
from ewallet.kernel.ids import derived_id, is_id
from ewallet.notification import store
from ewallet.notification.contacts import new_messages
from ewallet.notification.domain.words import Languages, Text, Unrenderable
from ewallet.notification.messages import Addressed, Notification, NotificationList
from ewallet.notification.senders.streams import Listener, Listeners
from ewallet.notification.webhooks import endpoints_of, new_deliveries
from ewallet.plumbing import failpoints, tracing
from ewallet.plumbing.batching import Batcher
from ewallet.plumbing.database import Database, DatabaseUnavailable
from ewallet.plumbing.http.contract import decode_cursor, encode_cursor
from ewallet.plumbing.json import encode
from ewallet.plumbing.outbox import Event, Undeliverable
from ewallet.plumbing.reconciling import AT_ONCE, KeptEvent, KeptEvents

HEARTBEAT_SECONDS = 15
"""Proxies close a connection that is silent for longer; half a minute is a common bound."""

STREAM_PAGE = 100
"""How many missed notifications a stream reads at once."""

_decode = msgspec.json.Decoder(dict[str, Any]).decode

Position = tuple[Annotated[int, Meta(ge=0, le=2**63 - 1)]]
"""Where a page of the inbox ends: a place in the sequence."""


_Telling = tuple[Event, Sequence[store.NewNotification]]
"""An event with what its recipients are told of it."""


class NotificationService:
    """The inboxes and their streams; satisfies ``NotificationClient`` for services in this process.

    ``channels`` are those by which people can be told beside inbox and webhooks.
    """

    def __init__(
        self, database: Database, *, languages: Languages, clock: Clock, channels: Collection[str] = ()
    ) -> None:
        self._database = database
        self._languages = languages
        self._clock = clock
        self._channels = channels
        self._batcher: Batcher[_Telling, bool] = Batcher(database, self._tell)
        self.listeners = Listeners()
        self.deliveries_added = asyncio.Event()
        """Set when something is to be sent out of the platform."""

    async def deliver(self, events: Sequence[Event]) -> Sequence[Undeliverable]:
        """Tell each recipient of each event once, however often it is handed over; see ``NotificationClient``."""
        undeliverable: list[Undeliverable] = []
        waiting_keys: set[str] = set()
        taken: list[tuple[Event, asyncio.Future[bool]]] = []
        for event in events:
            if event.ordering_key in waiting_keys:
                undeliverable.append(Undeliverable.behind(event))
                continue
            try:
                taken.append((event, self._enqueue(event)))
            except Unrenderable as error:
                waiting_keys.add(event.ordering_key)
                undeliverable.append(Undeliverable(event.id, str(error)))
        outcomes = await asyncio.gather(*(stored for _, stored in taken), return_exceptions=True)
        for (event, _), outcome in zip(taken, outcomes, strict=True):
            if isinstance(outcome, bool):
                self.listeners.wake(event.recipients)
                if outcome:
                    self.deliveries_added.set()
            elif isinstance(outcome, DataError | IntegrityError):
                # What the sender should never have written, an id too long for example. A full disk is another thing.
                undeliverable.append(Undeliverable(event.id, str(outcome.orig)))
            elif isinstance(outcome, DBAPIError):
                raise DatabaseUnavailable(f"the inbox cannot be written: {type(outcome.orig).__name__}") from outcome
            else:
                raise outcome  # whoever handed the events over does so again, and nobody is told twice
        return undeliverable

    def _enqueue(self, event: Event) -> asyncio.Future[bool]:
        """Have an event's notifications stored, in the trace of what caused it. Unrenderable: not in words."""
        notifications = self._notifications(event)
        span = tracing.begun(
            "notification", "notification.store", parent=event.trace, links=(tracing.here(),), kind=SpanKind.CONSUMER
        )
        with tracing.within(span):
            stored = self._batcher.enqueue((event, notifications))
        if span is not None:
            stored.add_done_callback(lambda _: span.end())
        return stored

    async def untold(self, events: Sequence[Event] | Sequence[Addressed]) -> Sequence[str]:
        """The ids of those events of which a recipient has not been told."""
        wanted = {_notification_id(event.id, each): event.id for event in events for each in event.recipients}
        known = await self._database.reading(lambda tx: store.known(tx, wanted))
        return sorted({event_id for notification_id, event_id in wanted.items() if notification_id not in known})

    async def kept_after(self, after: int) -> KeptEvents:
        """A page of the events that came with a memo, in the order in which they arrived."""
        rows = await self._database.reading(lambda tx: store.kept_after(tx, after, AT_ONCE))
        items = [KeptEvent(row.event, _decode(row.data), _decode(row.memo)) for row in rows]
        return KeptEvents(items, rows[-1].sequence if rows else None)

    async def inbox(
        self, caller: Caller, *, unread: bool | None, limit: int, cursor: str | None
    ) -> NotificationList | Refusal:
        """The caller's notifications, newest first; ``unread`` keeps those not read (True) or read (False).

        Refused with ``validation-error`` for a cursor that is none.
        """
        before = decode_cursor(cursor, Position)[0] if cursor is not None else None
        rows, locale = await self._database.reading(
            lambda tx: (
                store.page(tx, caller.subject, unread=unread, before=before, limit=limit + 1),
                store.locale_of(tx, caller.subject),
            )
        )
        return NotificationList(
            items=[self._notification(row, locale) for row in rows[:limit]],
            next_cursor=encode_cursor(rows[limit - 1].sequence) if len(rows) > limit else None,
        )

    async def mark_read(self, caller: Caller, notification_id: str) -> Refusal | None:
        """Mark one of the caller's notifications as read; harmless when repeated. Refused with ``not-found``."""
        if not is_id(notification_id, "ntf"):
            return not_found("notification")
        now = self._clock()
        return await self._database.writing(lambda tx: store.mark_read(tx, caller.subject, notification_id, now))

    async def stream(
        self, caller: Caller, *, after: str | None, until: int
    ) -> AsyncIterator[Notification | None] | Refusal:
        """The caller's notifications as they come, oldest first, until the token expires (``until``, microseconds).

        Starts with those that came after the notification ``after``, or, without it, with the next one. None is a
        heartbeat. Refused with ``validation-error`` where ``after`` is none of the caller's notifications,
        ``too-many-requests`` where the caller has too many streams.
        """
        place, locale = await self._database.reading(
            lambda tx: (_starting_place(tx, caller.subject, after), store.locale_of(tx, caller.subject))
        )
        if place is None:
            return invalid("Last-Event-ID", "This is not the id of one of your notifications.")
        listener = self.listeners.open(caller.subject)
        if isinstance(listener, Refusal):
            return listener
        return self._follow(caller.subject, listener, place, until, locale)

    def _tell(self, tx: Connection, tellings: Sequence[_Telling]) -> Sequence[bool]:
        """Store what is new, with what leaves the platform because of it; whether any of that is an event's."""
        new = store.add(tx, [notification for _, notifications in tellings for notification in notifications])
        leaving = self._leaving(tx, tellings, new) if new else []
        store.add_deliveries(tx, leaving)
        failpoints.reached("notification.batch.written")
        return [bool(leaving)] * len(tellings)

    def _leaving(
        self, tx: Connection, tellings: Sequence[_Telling], new: Collection[str]
    ) -> Sequence[store.NewDelivery]:
        """What goes out of the platform because of the new ones among these notifications."""
        users = {note.user_id for _, notes in tellings for note in notes}
        endpoints = endpoints_of(tx, users)
        contacts = store.contacts_of(tx, users) if self._channels else {}
        if not endpoints and not contacts:
            return ()
        # By id, because an event may be twice in a batch.
        told = {note.id: store.Told(event, note) for event, notes in tellings for note in notes if note.id in new}
        now = self._clock()
        messages = new_messages(contacts, told.values(), channels=self._channels, languages=self._languages, now=now)
        return new_deliveries(endpoints, told.values(), now) + messages

    async def _follow(
        self, user_id: str, listener: Listener, place: int, until: int, locale: str | None
    ) -> AsyncIterator[Notification | None]:
        """Read what the database has, then wait for a wake: what is told never depends on what a process remembers."""
        try:
            while (microseconds_left := until - self._clock()) > 0:
                rows = await self._database.reading(lambda tx: store.following(tx, user_id, place, limit=STREAM_PAGE))  # noqa: B023  # awaited in the same round
                for row in rows:
                    yield self._notification(row, locale)
                    place = row.sequence
                if not rows and not await listener.news(
                    min(HEARTBEAT_SECONDS, microseconds_left / MICROSECONDS_PER_SECOND)
                ):
                    yield None
        finally:
            self.listeners.close(user_id, listener)

    def _notifications(self, event: Event) -> list[store.NewNotification]:
        """The notifications of one event, the same ones every time. Unrenderable: it cannot be put into words."""
        data = encode(event.data).decode()
        memo = encode(event.memo).decode() if event.memo is not None else None
        return [
            store.NewNotification(
                id=_notification_id(event.id, recipient),
                user_id=recipient,
                event=event.name,
                title=text.title,
                body=text.body,
                data=data,
                created_at=event.occurred_at,
                memo=memo,
            )
            for recipient, text in self._languages.tell(event.name, event.data, event.recipients).items()
        ]

    def _notification(self, row: Row[Any], locale: str | None) -> Notification:
        """A notification as its owner reads it: in the language that the owner has chosen since."""
        data = _decode(row.data)
        text = self._languages.translated(
            Text(row.title, row.body), locale, event=row.event, data=data, reader=row.user_id
        )
        return Notification(
            notification_id=row.id,
            event=row.event,
            title=text.title,
            body=text.body,
            data=data,
            read_at=None if row.read_at is None else rfc3339(row.read_at),
            created_at=rfc3339(row.created_at),
        )


def _notification_id(event_id: str, recipient: str) -> str:
    return derived_id("ntf", event_id, recipient)


def _starting_place(tx: Connection, user_id: str, after: str | None) -> int | None:
    if after is None:
        return store.last_place(tx)
    return store.place_of(tx, user_id, after) if is_id(after, "ntf") else None
