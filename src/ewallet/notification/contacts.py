"""How people are told beside their inbox: what they have chosen, and the e-mail that follows from it."""

from collections.abc import Collection, Iterable, Mapping
from typing import Any

import msgspec
from sqlalchemy import Row

from ewallet.kernel.caller import Caller
from ewallet.kernel.clock import Clock
from ewallet.kernel.errors import Refusal, invalid
from ewallet.kernel.ids import derived_id
from ewallet.notification import store
from ewallet.notification.domain.words import EVENTS, SECURITY_EVENTS, Languages, Text, check_events
from ewallet.notification.messages import Preferences
from ewallet.notification.senders import Parcel
from ewallet.notification.senders.mail import Mail
from ewallet.plumbing.database import Database
from ewallet.plumbing.json import encode
from ewallet.plumbing.outbox import Event


class Contacts:
    """What people say about how they want to be told."""

    def __init__(self, database: Database, *, locales: Collection[str], clock: Clock) -> None:
        self._database = database
        self._locales = locales
        self._clock = clock

    async def get(self, caller: Caller) -> Preferences:
        """The caller's preferences; those of who has said nothing are to be told in the inbox only."""
        row = await self._database.reading(lambda tx: store.preferences_of(tx, caller.subject))
        return _preferences(row) if row is not None else Preferences()

    async def replace(self, caller: Caller, wanted: Preferences) -> Preferences | Refusal:
        """Replace the caller's preferences. Refused with ``validation-error`` for an unknown event or locale."""
        if refusal := check_events("/emailEvents", wanted.email_events or (), EVENTS):
            return refusal
        if wanted.locale is not None and wanted.locale not in self._locales:
            return invalid("/locale", f"There is no locale {wanted.locale!r}; there are {', '.join(self._locales)}.")
        events = None if wanted.email_events is None else encode(wanted.email_events).decode()
        now = self._clock()
        await self._database.writing(
            lambda tx: store.set_preferences(
                tx, caller.subject, email=wanted.email, email_events=events, locale=wanted.locale, now=now
            )
        )
        return wanted


def new_mails(
    mailboxes: Mapping[str, store.Mailbox], told: Iterable[store.Told], languages: Languages, now: int
) -> list[store.NewDelivery]:
    """The e-mail to who has just been told of something; ``mailboxes`` are by user."""
    return [
        _new_mail(event, note, mailboxes[note.user_id], languages, now)
        for event, note in told
        if note.user_id in mailboxes and _wants(event.name, mailboxes[note.user_id].events)
    ]


def _wants(event: str, mailed: str | None) -> bool:
    return mailed is None or event in SECURITY_EVENTS or event in msgspec.json.decode(mailed)


def _new_mail(
    event: Event, note: store.NewNotification, mailbox: store.Mailbox, languages: Languages, now: int
) -> store.NewDelivery:
    text = languages.translated(
        Text(note.title, note.body), mailbox.locale, event=event.name, data=event.data, reader=note.user_id
    )
    locale = mailbox.locale or languages.default
    mail = Mail(to=mailbox.address, subject=text.title, text=text.body, locale=locale)
    return store.NewDelivery(
        id=derived_id("dlv", event.id, note.user_id),
        receiver=store.EMAIL,
        event_id=event.id,
        event=event.name,
        # Two people who are told of one payment do not wait for each other.
        ordering_key=derived_id("ord", event.ordering_key, note.user_id),
        payload=encode(mail).decode(),
        created_at=now,
    )


def _preferences(row: Row[Any]) -> Preferences:
    events = None if row.email_events is None else msgspec.json.decode(row.email_events)
    return Preferences(email=row.email, email_events=events, locale=row.locale)


def mail_parcel(delivery: Row[Any]) -> Parcel:
    """A delivery as the sender of e-mail needs it: the delivery's own id names the message."""
    return Parcel(event_id=delivery.id, event=delivery.event, payload=delivery.payload, address="", secrets=())
