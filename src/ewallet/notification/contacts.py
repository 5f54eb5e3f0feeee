"""How people are told beside their inbox: what they have chosen, where they are reached, and what follows from it."""

from collections.abc import Collection, Iterable, Mapping
from typing import Any

import msgspec
from sqlalchemy import Connection, Row

from ewallet.kernel.caller import Caller
from ewallet.kernel.clock import Clock
from ewallet.kernel.errors import Refusal, invalid, not_found
from ewallet.kernel.ids import derived_id, is_id
from ewallet.notification import store
from ewallet.notification.domain.words import EVENTS, SECURITY_EVENTS, Languages, Text, check_events
from ewallet.notification.messages import Addresses, Preferences
from ewallet.notification.senders import Message, Parcel
from ewallet.plumbing.audit import AuditRecord
from ewallet.plumbing.database import Database
from ewallet.plumbing.json import encode
from ewallet.plumbing.outbox import Event


class Contacts:
    """What people say about how they want to be told, and staff about where; ``channels`` are those beside e-mail."""

    def __init__(
        self, database: Database, *, locales: Collection[str], channels: Collection[str], clock: Clock
    ) -> None:
        self._database = database
        self._locales = locales
        self._channels = channels
        self._clock = clock

    async def get(self, caller: Caller) -> Preferences:
        """The caller's preferences; those of who has said nothing are to be told in the inbox only."""
        row = await self._database.reading(lambda tx: store.preferences_of(tx, caller.subject))
        return _preferences(row) if row is not None else Preferences()

    async def replace(self, caller: Caller, wanted: Preferences) -> Preferences | Refusal:
        """Replace the caller's preferences.

        Refused with ``validation-error`` for an unknown event, channel or locale.
        """
        if refusal := check_events("/emailEvents", wanted.email_events or (), EVENTS):
            return refusal
        for channel, chosen in wanted.channel_events.items():
            pointer = f"/channelEvents/{channel}"
            if refusal := self._check_channel(pointer, channel) or check_events(pointer, chosen, EVENTS):
                return refusal
        if wanted.locale is not None and wanted.locale not in self._locales:
            return invalid("/locale", f"There is no locale {wanted.locale!r}; there are {', '.join(self._locales)}.")
        events = None if wanted.email_events is None else encode(wanted.email_events).decode()
        now = self._clock()
        await self._database.writing(
            lambda tx: store.set_preferences(
                tx,
                caller.subject,
                email=wanted.email,
                email_events=events,
                channel_events=encode(wanted.channel_events).decode(),
                locale=wanted.locale,
                now=now,
            )
        )
        return wanted

    async def addresses(self, caller: Caller, user_id: str) -> Addresses | Refusal:
        """Where a user is reached, for that user and for staff. Refused with ``not-found``."""
        if not is_id(user_id, "usr") or not caller.may_see(user_id):
            return not_found("user")
        row = await self._database.reading(lambda tx: store.preferences_of(tx, user_id))
        return Addresses(addresses=_decoded(row.addresses) if row is not None else {})

    async def replace_addresses(self, caller: Caller, user_id: str, wanted: Addresses) -> Addresses | Refusal:
        """Say where a user is reached. Refused with ``not-found``, ``validation-error`` for an unknown channel."""
        if not is_id(user_id, "usr"):
            return not_found("user")
        for channel in wanted.addresses:
            if refusal := self._check_channel(f"/addresses/{channel}", channel):
                return refusal
        now = self._clock()
        # An address is its owner's, and the audit is for ever.
        record = AuditRecord.of(caller, "addresses.replace", user_id, channels=sorted(wanted.addresses))

        def replace(tx: Connection) -> Addresses:
            store.set_addresses(tx, user_id, wanted.addresses, now)
            store.audit.append(tx, now, [record])
            return wanted

        return await self._database.writing(replace)

    def _check_channel(self, pointer: str, channel: str) -> Refusal | None:
        if channel in self._channels:
            return None
        return invalid(pointer, f"There is no channel {channel!r}; there are {', '.join(self._channels) or 'none'}.")


def new_messages(
    contacts: Mapping[str, store.Contact],
    told: Iterable[store.Told],
    *,
    channels: Collection[str],
    languages: Languages,
    now: int,
) -> list[store.NewDelivery]:
    """What goes, by these channels, to who has just been told of something; ``contacts`` are by user."""
    return [
        _new_message(event, note.user_id, channel, _message(event, note, address, contact.locale, languages), now)
        for event, note in told
        if (contact := contacts.get(note.user_id)) is not None
        for channel, address in _reached(contact, event.name).items()
        if channel in channels
    ]


def _reached(contact: store.Contact, event: str) -> Mapping[str, str]:
    """Where an event is told to somebody, by channel."""
    chosen, urgent = _decoded(contact.channel_events), event in SECURITY_EVENTS
    reached = {
        channel: address
        for channel, address in _decoded(contact.addresses).items()
        if urgent or event in chosen.get(channel, ())
    }
    mailed = contact.email_events
    if contact.email is not None and (urgent or mailed is None or event in msgspec.json.decode(mailed)):
        reached[store.EMAIL] = contact.email
    return reached


def _decoded(by_channel: str | None) -> dict[str, Any]:
    decoded: dict[str, Any] = {} if by_channel is None else msgspec.json.decode(by_channel)
    return decoded


def _message(
    event: Event, note: store.NewNotification, address: str, locale: str | None, languages: Languages
) -> Message:
    text = languages.translated(
        Text(note.title, note.body), locale, event=event.name, data=event.data, reader=note.user_id
    )
    return Message(to=address, title=text.title, text=text.body, locale=locale or languages.default)


def _new_message(event: Event, user_id: str, channel: str, message: Message, now: int) -> store.NewDelivery:
    return store.NewDelivery(
        id=derived_id("dlv", event.id, f"{channel} {user_id}"),
        receiver=channel,
        event_id=event.id,
        event=event.name,
        # Two people who are told of one payment do not wait for each other.
        ordering_key=derived_id("ord", event.ordering_key, user_id),
        payload=encode(message).decode(),
        created_at=now,
    )


def _preferences(row: Row[Any]) -> Preferences:
    return Preferences(
        email=row.email,
        email_events=None if row.email_events is None else msgspec.json.decode(row.email_events),
        channel_events=_decoded(row.channel_events),
        locale=row.locale,
    )


def message_parcel(delivery: Row[Any]) -> Parcel:
    """A delivery as the senders of messages need it: the delivery's own id names the message."""
    return Parcel(event_id=delivery.id, event=delivery.event, payload=delivery.payload, address="", secrets=())
