"""Merchants' webhooks: the use cases around an endpoint, and what is sent to it."""

import asyncio
import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Annotated, Any
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta
from sqlalchemy import Connection, Row

from ewallet.kernel.caller import Caller, platform
from ewallet.kernel.clock import MICROSECONDS_PER_SECOND, Clock, rfc3339
from ewallet.kernel.errors import Reason, Refusal, invalid, not_found
from ewallet.kernel.ids import derived_id, is_id, new_id
from ewallet.notification import store
from ewallet.notification.domain.deliveries import State
from ewallet.notification.domain.endpoints import (
    ENDPOINTS_PER_MERCHANT,
    ROTATION_SECONDS,
    Endpoint,
    EndpointStatus,
    endpoint_of,
)
from ewallet.notification.domain.words import EVENTS, check_events
from ewallet.notification.messages import (
    NewWebhook,
    Webhook,
    WebhookDelivery,
    WebhookDeliveryList,
    WebhookList,
    WebhookOrder,
    WebhookSecret,
)
from ewallet.notification.senders import Parcel
from ewallet.notification.senders.outside import AddressForbidden, NameUnknown, Outside
from ewallet.plumbing.audit import AuditRecord
from ewallet.plumbing.database import Database
from ewallet.plumbing.http.contract import decode_cursor, encode_cursor
from ewallet.plumbing.http.trails import AuditTrail, audit_trail
from ewallet.plumbing.json import encode
from ewallet.plumbing.outbox import Event
from ewallet.webhooks import SECRET_BYTES, new_secret

TEST_EVENT = "webhook.test"
"""What a merchant has sent to an endpoint to see it arrive; no endpoint has to ask for it."""

RESOLVE_SECONDS = 3
"""A merchant waits for this. A name that takes longer is looked at when something is sent."""

WebhookPosition = tuple[Annotated[str, Meta(pattern="^[!-~]{1,64}$")]]
DeliveryPosition = tuple[Annotated[int, Meta(ge=0, le=2**63 - 1)]]
"""Where a page ends: the id of an endpoint, the sequence of a delivery."""

_AFTER_ALL = "~"
"""Behind every id."""


class Webhooks:
    """What merchants do with their endpoints. ``deliveries_added`` is called after something is to be sent."""

    def __init__(
        self,
        database: Database,
        outside: Outside,
        *,
        clock: Clock,
        plain_http: bool,
        deliveries_added: Callable[[], None],
    ) -> None:
        self._database = database
        self._outside = outside
        self._clock = clock
        self._plain_http = plain_http
        self._deliveries_added = deliveries_added

    async def create(self, caller: Caller, order: WebhookOrder) -> NewWebhook | Refusal:
        """A new endpoint of the caller's, with its secret, which is never shown again.

        Refused with ``validation-error`` for a URL that may not be called or an unknown event, ``invalid-state`` for
        one endpoint too many.
        """
        if refusal := await self._refusal_of(order):
            return refusal
        now = self._clock()
        webhook: dict[str, Any] = {
            "id": new_id("whk", now),
            "user_id": caller.subject,
            "status": EndpointStatus.ENABLED,
            "url": order.url,
            "events": _stored_events(order),
            "secret": new_secret(os.urandom(SECRET_BYTES)),
            "previous_secret": None,
            "previous_secret_until": None,
            "created_at": now,
            "updated_at": now,
        }
        record = AuditRecord.of(caller, "webhook.create", webhook["id"], **_told_of(order))
        refusal = await self._database.writing(lambda tx: _add(tx, webhook, record))
        return refusal or NewWebhook(
            webhook_id=webhook["id"],
            url=order.url,
            events=order.events,
            status=EndpointStatus.ENABLED,
            secret=webhook["secret"],
            created_at=rfc3339(now),
            updated_at=rfc3339(now),
        )

    async def listed(self, caller: Caller, *, limit: int, cursor: str | None) -> WebhookList:
        """The caller's endpoints, newest first."""
        before = decode_cursor(cursor, WebhookPosition)[0] if cursor is not None else _AFTER_ALL
        rows = await self._database.reading(
            lambda tx: store.webhooks_of(tx, caller.subject, before=before, limit=limit + 1)
        )
        return WebhookList(
            items=[_webhook(row) for row in rows[:limit]],
            next_cursor=encode_cursor(rows[limit - 1].id) if len(rows) > limit else None,
        )

    async def get(self, caller: Caller, webhook_id: str) -> Webhook | Refusal:
        """One of the caller's endpoints. Refused with ``not-found``."""
        row = await self._database.reading(lambda tx: _own(tx, caller, webhook_id))
        return row if isinstance(row, Refusal) else _webhook(row)

    async def replace(self, caller: Caller, webhook_id: str, order: WebhookOrder) -> Webhook | Refusal:
        """Give an endpoint another URL and other events; what is pending goes to the new URL.

        Refused with ``not-found``, ``validation-error``.
        """
        if refusal := await self._refusal_of(order):
            return refusal
        record = AuditRecord.of(caller, "webhook.change", webhook_id, **_told_of(order))
        return await self._change(caller, record, url=order.url, events=_stored_events(order))

    async def enable(self, caller: Caller, webhook_id: str) -> Webhook | Refusal:
        """Let an endpoint hear of what happens from now on. Refused with ``not-found``."""
        record = AuditRecord.of(caller, "webhook.enable", webhook_id)
        return await self._change(caller, record, status=EndpointStatus.ENABLED)

    async def disable(self, caller: Caller, webhook_id: str) -> Webhook | Refusal:
        """Send nothing more to an endpoint; what is pending is cancelled. Refused with ``not-found``."""
        record = AuditRecord.of(caller, "webhook.disable", webhook_id)
        return await self._change(caller, record, status=EndpointStatus.DISABLED)

    async def remove(self, caller: Caller, webhook_id: str) -> Refusal | None:
        """Forget an endpoint with its secret and its deliveries. Refused with ``not-found``."""
        record, now = AuditRecord.of(caller, "webhook.remove", webhook_id), self._clock()

        def remove(tx: Connection) -> Refusal | None:
            row = _own(tx, caller, webhook_id, lock=True)
            if isinstance(row, Refusal):
                return row
            store.remove_webhook(tx, webhook_id)
            store.audit.append(tx, now, [record])
            return None

        return await self._database.writing(remove)

    async def rotate_secret(self, caller: Caller, webhook_id: str) -> WebhookSecret | Refusal:
        """A new secret; for a day the old one signs beside it. Refused with ``not-found``."""
        now = self._clock()
        until = now + ROTATION_SECONDS * MICROSECONDS_PER_SECOND
        secret = new_secret(os.urandom(SECRET_BYTES))
        record = AuditRecord.of(caller, "webhook.rotate_secret", webhook_id)

        def rotate(tx: Connection) -> WebhookSecret | Refusal:
            row = _own(tx, caller, webhook_id, lock=True)
            if isinstance(row, Refusal):
                return row
            store.change_webhook(
                tx,
                webhook_id,
                secret=secret,
                previous_secret=row.secret,
                previous_secret_until=until,
                updated_at=now,
            )
            store.audit.append(tx, now, [record])
            return WebhookSecret(webhook_id=webhook_id, secret=secret, previous_valid_until=rfc3339(until))

        return await self._database.writing(rotate)

    async def test(self, caller: Caller, webhook_id: str) -> WebhookDelivery | Refusal:
        """Send a ``webhook.test`` event to an endpoint. Refused with ``not-found``, ``invalid-state`` if it is off."""
        now = self._clock()
        event_id = new_id("evt", now)
        new = store.NewDelivery(
            id=derived_id("dlv", event_id, webhook_id),
            receiver=webhook_id,
            event_id=event_id,
            event=TEST_EVENT,
            ordering_key=event_id,
            payload=payload(TEST_EVENT, now, {"webhookId": webhook_id}),
            created_at=now,
        )
        return await self._send(caller, webhook_id, new.id, lambda tx: store.add_deliveries(tx, [new]))

    async def deliveries(
        self, caller: Caller, webhook_id: str, *, limit: int, cursor: str | None
    ) -> WebhookDeliveryList | Refusal:
        """What was and will be sent to an endpoint, newest first. Refused with ``not-found``, ``validation-error``."""
        before = decode_cursor(cursor, DeliveryPosition)[0] if cursor is not None else None
        own = await self.get(caller, webhook_id)
        if isinstance(own, Refusal):
            return own
        rows = await self._database.reading(
            lambda tx: store.deliveries_of(tx, webhook_id, before=before, limit=limit + 1)
        )
        return WebhookDeliveryList(
            items=[_delivery(row) for row in rows[:limit]],
            next_cursor=encode_cursor(rows[limit - 1].sequence) if len(rows) > limit else None,
        )

    async def redeliver(self, caller: Caller, webhook_id: str, delivery_id: str) -> WebhookDelivery | Refusal:
        """Send a delivery again, whatever had become of it. Refused with ``not-found``, ``invalid-state``."""
        if not is_id(delivery_id, "dlv"):
            return not_found("delivery")
        now = self._clock()
        return await self._send(
            caller, webhook_id, delivery_id, lambda tx: store.try_again(tx, webhook_id, delivery_id, now)
        )

    async def audit_trail(
        self, _caller: Caller, *, subject: str | None, request_id: str | None, limit: int, cursor: str | None
    ) -> AuditTrail:
        """Audit records, newest first. Raises Refused where the cursor is none of ours."""
        return await audit_trail(
            self._database, store.audit, subject=subject, request_id=request_id, limit=limit, cursor=cursor
        )

    async def _send(
        self, caller: Caller, webhook_id: str, delivery_id: str, queue: Callable[[Connection], None]
    ) -> WebhookDelivery | Refusal:
        """Queue something for an endpoint that is on; the delivery as it is then."""

        def send(tx: Connection) -> WebhookDelivery | Refusal:
            row = _own(tx, caller, webhook_id, lock=True)
            if isinstance(row, Refusal):
                return row
            if row.status != EndpointStatus.ENABLED:
                return DISABLED
            queue(tx)
            delivery = store.delivery(tx, webhook_id, delivery_id)
            return _delivery(delivery) if delivery else not_found("delivery")

        delivery = await self._database.writing(send)
        self._deliveries_added()
        return delivery

    async def _change(self, caller: Caller, record: AuditRecord, **values: Any) -> Webhook | Refusal:
        """Write columns of the endpoint that the record is about."""
        webhook_id, now = record.subject, self._clock()

        def change(tx: Connection) -> Webhook | Refusal:
            row = _own(tx, caller, webhook_id, lock=True)
            if isinstance(row, Refusal):
                return row
            store.change_webhook(tx, webhook_id, **values, updated_at=now)
            if values.get("status") == EndpointStatus.DISABLED:
                store.cancel(tx, webhook_id, "The endpoint was disabled.", now)
            store.audit.append(tx, now, [record])
            changed = _own(tx, caller, webhook_id)
            return changed if isinstance(changed, Refusal) else _webhook(changed)

        return await self._database.writing(change)

    async def _refusal_of(self, order: WebhookOrder) -> Refusal | None:
        """What is wrong with an endpoint, if anything; its address is looked up, and again whenever it is called."""
        endpoint = endpoint_of(order.url, plain_http=self._plain_http)
        if isinstance(endpoint, Refusal):
            return endpoint
        return check_events("/events", order.events or (), EVENTS) or await self._forbidden(endpoint)

    async def _forbidden(self, endpoint: Endpoint) -> Refusal | None:
        try:
            async with asyncio.timeout(RESOLVE_SECONDS):
                await self._outside.addresses(endpoint.host, endpoint.port)
        except AddressForbidden:
            return invalid("/url", f"{endpoint.host} is not on the public internet: webhooks go nowhere else.")
        except NameUnknown:
            return invalid("/url", f"There is no host {endpoint.host}.")
        except OSError:  # nobody knows just now, or in time
            return None
        return None


DISABLED = Refusal(Reason.INVALID_STATE, "The endpoint is disabled: enable it first.")

TOO_MANY = Refusal(
    Reason.INVALID_STATE, f"There are {ENDPOINTS_PER_MERCHANT} endpoints already, and no room for more: delete one."
)


def endpoints_of(tx: Connection, user_ids: Collection[str]) -> Mapping[str, Sequence[tuple[str, str | None]]]:
    """The endpoints of users that are told of events, by user: the id and the events of each."""
    endpoints: dict[str, list[tuple[str, str | None]]] = {}
    for webhook_id, user_id, wanted in store.listening(tx, user_ids, EndpointStatus.ENABLED):
        endpoints.setdefault(user_id, []).append((webhook_id, wanted))
    return endpoints


def new_deliveries(
    endpoints: Mapping[str, Sequence[tuple[str, str | None]]], told: Iterable[store.Told], now: int
) -> list[store.NewDelivery]:
    """What goes to endpoints because their owners have just been told of something."""
    return [
        _new_delivery(event, webhook_id, now)
        for event, note in told
        for webhook_id, wanted in endpoints.get(note.user_id, ())
        if wanted is None or event.name in msgspec.json.decode(wanted)
    ]


def _new_delivery(event: Event, webhook_id: str, now: int) -> store.NewDelivery:
    return store.NewDelivery(
        id=derived_id("dlv", event.id, webhook_id),
        receiver=webhook_id,
        event_id=event.id,
        event=event.name,
        ordering_key=event.ordering_key,
        payload=payload(event.name, event.occurred_at, event.data),
        created_at=now,
    )


def payload(event: str, occurred_at: int, data: Mapping[str, Any]) -> str:
    """The body of a webhook, as the Standard Webhooks specification recommends it."""
    return encode({"type": event, "timestamp": rfc3339(occurred_at), "data": data}).decode()


def parcel_of(delivery: Row[Any], webhook: Row[Any], now: int) -> Parcel:
    """A delivery as its sender needs it; two secrets while one replaces the other."""
    secrets: tuple[str, ...] = (webhook.secret,)
    if webhook.previous_secret is not None and now < webhook.previous_secret_until:
        secrets += (webhook.previous_secret,)
    return Parcel(
        event_id=delivery.event_id,
        event=delivery.event,
        payload=delivery.payload,
        address=webhook.url,
        secrets=secrets,
    )


def is_wanted(webhook: Row[Any] | None) -> bool:
    """Whether anything is to be sent to an endpoint."""
    return webhook is not None and webhook.status == EndpointStatus.ENABLED


def cancel_unwanted(tx: Connection, *, webhook_id: str, now: int) -> None:
    """End what was added for an endpoint at the moment in which it was turned off, by who had not seen that yet."""
    if not is_wanted(store.webhook(tx, webhook_id, lock=True)):
        store.cancel(tx, webhook_id, "The endpoint is off.", now)


def close_gone(tx: Connection, gone: Mapping[tuple[str, str], int]) -> None:
    """Believe endpoints that said that they want nothing any more, until they are enabled again.

    ``gone`` has the time for each id and the URL that said so.
    """
    closed = [webhook_id for (webhook_id, url), now in sorted(gone.items()) if _close(tx, webhook_id, url, now)]
    # Last, because everybody waits for the head of the audit, and nobody may wait for an endpoint meanwhile.
    records = [AuditRecord.of(platform("delivery"), "webhook.gone", webhook_id) for webhook_id in closed]
    store.audit.append(tx, max(gone.values(), default=0), records)


def _close(tx: Connection, webhook_id: str, url: str, now: int) -> bool:
    """Close an endpoint that has gone, unless its owner was first to, or has given it another URL meanwhile."""
    row = store.webhook(tx, webhook_id, lock=True)
    if row is None or row.status != EndpointStatus.ENABLED or row.url != url:
        return False
    store.change_webhook(tx, webhook_id, status=EndpointStatus.GONE, updated_at=now)
    store.cancel(tx, webhook_id, "The receiver had answered that it wants nothing any more (410).", now)
    return True


def _told_of(order: WebhookOrder) -> dict[str, Any]:
    """What the audit keeps for ever of an endpoint: its host, because the rest of a URL may hold a secret."""
    return {"host": urlsplit(order.url).hostname, "events": order.events}


def _add(tx: Connection, webhook: dict[str, Any], record: AuditRecord) -> Refusal | None:
    own = store.webhooks_of(tx, webhook["user_id"], before=_AFTER_ALL, limit=ENDPOINTS_PER_MERCHANT)
    if len(own) == ENDPOINTS_PER_MERCHANT:
        return TOO_MANY
    store.add_webhook(tx, webhook)
    store.audit.append(tx, webhook["created_at"], [record])
    return None


def _own(tx: Connection, caller: Caller, webhook_id: str, *, lock: bool = False) -> Row[Any] | Refusal:
    row = store.webhook(tx, webhook_id, lock=lock) if is_id(webhook_id, "whk") else None
    return row if row is not None and row.user_id == caller.subject else not_found("webhook")


def _stored_events(order: WebhookOrder) -> str | None:
    return None if order.events is None else encode(order.events).decode()


def _webhook(row: Row[Any]) -> Webhook:
    return Webhook(
        webhook_id=row.id,
        url=row.url,
        events=None if row.events is None else msgspec.json.decode(row.events),
        status=row.status,
        created_at=rfc3339(row.created_at),
        updated_at=rfc3339(row.updated_at),
    )


def _delivery(row: Row[Any]) -> WebhookDelivery:
    return WebhookDelivery(
        delivery_id=row.id,
        event_id=row.event_id,
        event=row.event,
        status=row.state,
        attempts=row.attempts,
        next_attempt_at=rfc3339(row.next_attempt_at) if row.state == State.PENDING else None,
        response_status=row.last_status,
        error=row.last_error,
        created_at=rfc3339(row.created_at),
        updated_at=rfc3339(row.updated_at),
    )
