"""What crosses notification's door: the inbox as its owner sees it, and the events that other services hand over."""

from typing import Any

import msgspec

from ewallet.plumbing.outbox import Event, Undeliverable


class Notification(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """One message to one user. ``data`` is the event's own, for programs; ``title`` and ``body`` are for people."""

    notification_id: str
    event: str
    title: str
    body: str
    data: dict[str, Any]
    read_at: str | None
    created_at: str


class NotificationList(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A page of an inbox, newest first."""

    items: list[Notification]
    next_cursor: str | None


# --- between services ---------------------------------------------------------------------------------------------


class Delivery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Events from another service's outbox, in their order."""

    events: tuple[Event, ...]


class Receipt(msgspec.Struct, frozen=True):
    """What became of a delivery: everything is stored except the events named here."""

    undeliverable: list[Undeliverable]
