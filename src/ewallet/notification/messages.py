"""What crosses notification's door: the inbox as its owner sees it, and the events that other services hand over."""

from typing import Annotated, Any

import msgspec
from msgspec import Meta

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


# --- how people want to be told -----------------------------------------------------------------------------------

Email = Annotated[
    str,
    Meta(
        max_length=254,
        # No "=?": it begins an encoded word (RFC 2047), behind which another address could stand.
        pattern=r"^(?![\s\S]*=\?)[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}@[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?"
        r"(?:\.[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?)+(?![\s\S])",
        description="where e-mail goes; null: none is sent",
    ),
]
MailedEvents = Annotated[
    list[Annotated[str, Meta(max_length=64)]],
    Meta(max_length=50, description="the events that are mailed, beside those about security; left out: all"),
]

ChannelName = Annotated[str, Meta(pattern=r"^[a-z][a-z0-9-]{0,31}(?![\s\S])", description="as the operator calls it")]
ChannelEvents = Annotated[
    dict[ChannelName, list[Annotated[str, Meta(max_length=64)]]],
    Meta(
        max_length=20,
        description="the events that come by further channels, beside those about security; left out: no others",
    ),
]
Address = Annotated[
    str,
    Meta(
        # Nothing that would mean something in a path.
        pattern=r"^[A-Za-z0-9@+#!_-][A-Za-z0-9._@+:#!-]{0,127}(?![\s\S])",
        description="a phone number, the number of a chat, a name: what the channel's service knows people by",
    ),
]

LocaleName = Annotated[
    str, Meta(max_length=32, description="the language of inbox and e-mail, such as `de`; null: the platform's")
]


class Preferences(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """How a user is told beside the inbox, which has everything. Those about security come by every way there is."""

    email: Email | None = None
    email_events: MailedEvents | None = None
    channel_events: ChannelEvents = {}
    locale: LocaleName | None = None


class Addresses(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """Where a user is reached by further channels. Messages there cost money, so staff vouches for each address."""

    addresses: Annotated[dict[ChannelName, Address], Meta(max_length=20)]


# --- webhooks -----------------------------------------------------------------------------------------------------

Url = Annotated[str, Meta(min_length=1, max_length=2048, description="https, on the public internet")]
EventNames = Annotated[
    list[Annotated[str, Meta(max_length=64)]],
    Meta(min_length=1, max_length=50, description="for example `payment.succeeded`; left out: every event"),
]


class WebhookOrder(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """Where a merchant's events are to be posted."""

    url: Url
    events: EventNames | None = None


class Webhook(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """An endpoint: ``ENABLED``, ``DISABLED`` by its owner, or ``GONE`` since it answered 410. ``events`` null: all."""

    webhook_id: str
    url: str
    events: list[str] | None
    status: str
    created_at: str
    updated_at: str


class NewWebhook(Webhook, frozen=True, kw_only=True, rename="camel"):
    """An endpoint with the secret that signs what it gets, shown this once."""

    secret: str


class WebhookList(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """The caller's endpoints, newest first."""

    items: list[Webhook]
    next_cursor: str | None


class WebhookSecret(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A new secret, shown this once. Until the time given, everything is signed with the one before, too."""

    webhook_id: str
    secret: str
    previous_valid_until: str


class WebhookDelivery(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """One event on its way to one endpoint: ``PENDING``, ``DELIVERED``, ``DEAD`` (given up) or ``CANCELLED``.

    ``eventId`` is the ``webhook-id`` of the request, equal at every attempt.
    """

    delivery_id: str
    event_id: str
    event: str
    status: str
    attempts: int
    next_attempt_at: str | None
    response_status: int | None
    error: str | None
    created_at: str
    updated_at: str


class WebhookDeliveryList(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What was and will be sent to an endpoint, newest first."""

    items: list[WebhookDelivery]
    next_cursor: str | None


# --- between services ---------------------------------------------------------------------------------------------


class Delivery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Events from another service's outbox, in their order."""

    events: tuple[Event, ...]


class Addressed(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which event is for whom, without what it says."""

    id: str
    recipients: tuple[str, ...]


class FindUntold(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Ask which of some events have not been told."""

    events: tuple[Addressed, ...]


class Untold(msgspec.Struct, frozen=True):
    """Those of which at least one recipient has not been told."""

    event_ids: list[str]


class ListKept(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Ask for the events with memos behind the one at this place; 0 is before the first."""

    after: int


class Receipt(msgspec.Struct, frozen=True):
    """What became of a delivery: everything is stored except the events named here."""

    undeliverable: list[Undeliverable]
