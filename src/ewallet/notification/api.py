"""Notification over HTTP."""

from collections.abc import AsyncIterator
from typing import Annotated, Any

from litestar import Request, delete, get, post, put
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath, HeaderParameter, JSONBody, QueryParameter
from litestar.response import Stream

from ewallet.kernel.caller import Role
from ewallet.kernel.clock import MICROSECONDS_PER_SECOND
from ewallet.kernel.errors import Reason, unwrap
from ewallet.notification.client import DELIVERY_PATH, KEPT_PATH, UNTOLD_PATH
from ewallet.notification.contacts import Contacts
from ewallet.notification.messages import (
    Addresses,
    Delivery,
    FindUntold,
    ListKept,
    NewWebhook,
    Notification,
    NotificationList,
    Preferences,
    Receipt,
    Untold,
    Webhook,
    WebhookDelivery,
    WebhookDeliveryList,
    WebhookList,
    WebhookOrder,
    WebhookSecret,
)
from ewallet.notification.service import NotificationService
from ewallet.notification.webhooks import Webhooks
from ewallet.plumbing.http.contract import (
    ANY_USER,
    DEFAULT_LIMIT,
    EVERYONE,
    INVALID_TOKEN,
    STAFF,
    Cursor,
    Limit,
    bearer_token,
    caller_of,
    internal,
    protected,
)
from ewallet.plumbing.http.trails import AuditRequest, AuditTrail
from ewallet.plumbing.json import encode
from ewallet.plumbing.reconciling import KeptEvents
from ewallet.plumbing.tokens import Verifier

EVENT_STREAM = "text/event-stream"

Unread = Annotated[bool | None, QueryParameter(description="`true`: only those not read yet; `false`: only those read")]
LastEventId = Annotated[
    str | None,
    HeaderParameter(
        name="Last-Event-ID",
        description="the `notificationId` of the last one received: the stream starts with what came after it",
    ),
]
AuditSubject = Annotated[
    str | None, QueryParameter(pattern="^[!-~]{1,64}$", description="only records about this `webhookId` or `userId`")
]


MERCHANT = frozenset({Role.MERCHANT})


def routes(service: NotificationService, webhooks: Webhooks, contacts: Contacts) -> list[HTTPRouteHandler]:
    """Every endpoint of notification."""
    return [
        *_inbox_routes(service),
        *_contact_routes(contacts),
        *_webhook_routes(webhooks),
        *_delivery_routes(webhooks),
    ]


def _inbox_routes(service: NotificationService) -> list[HTTPRouteHandler]:

    @get("/notification", **protected(ANY_USER))
    async def list_notifications(
        request: Request[Any, Any, Any],
        unread: Unread = None,
        limit: Limit = DEFAULT_LIMIT,
        cursor: Cursor = None,
    ) -> NotificationList:
        """The caller's inbox, newest first."""
        return unwrap(await service.inbox(caller_of(request), unread=unread, limit=limit, cursor=cursor))

    @post("/notification/{notification_id:str}/read", status_code=204, **protected(ANY_USER))
    async def mark_notification_read(request: Request[Any, Any, Any], notification_id: FromPath[str]) -> None:
        """Mark a notification as read; harmless when repeated."""
        unwrap(await service.mark_read(caller_of(request), notification_id))

    @get("/notification/stream", media_type=EVENT_STREAM, **protected(ANY_USER))
    async def stream_notifications(request: Request[Any, Any, Any], last_event_id: LastEventId = None) -> Stream:
        """Notifications as they come, as server-sent events; ends when the access token expires.

        `id` is the `notificationId`, `event` the event's name, `data` the notification as in the inbox.
        """
        until = await _token_end(request)
        notifications = unwrap(await service.stream(caller_of(request), after=last_event_id, until=until))
        # nginx would collect the answer before passing it on.
        return Stream(_server_sent_events(notifications), headers={"X-Accel-Buffering": "no"})

    @post(DELIVERY_PATH, status_code=200, **internal())
    async def deliver_events(data: JSONBody[Delivery]) -> Receipt:
        """Events from another service's outbox."""
        return Receipt(undeliverable=list(await service.deliver(data.events)))

    @post(UNTOLD_PATH, status_code=200, **internal())
    async def find_untold_events(data: JSONBody[FindUntold]) -> Untold:
        """Which of some events have not been told to all their recipients."""
        return Untold(event_ids=list(await service.untold(data.events)))

    @post(KEPT_PATH, status_code=200, **internal())
    async def list_kept_events(data: JSONBody[ListKept]) -> KeptEvents:
        """The events that came with a memo, for whoever sent them."""
        return await service.kept_after(data.after)

    return [
        list_notifications,
        mark_notification_read,
        stream_notifications,
        deliver_events,
        find_untold_events,
        list_kept_events,
    ]


def _contact_routes(contacts: Contacts) -> list[HTTPRouteHandler]:
    @get("/notification/preferences", **protected(ANY_USER))
    async def get_preferences(request: Request[Any, Any, Any]) -> Preferences:
        """How the caller is told beside the inbox."""
        return await contacts.get(caller_of(request))

    @put("/notification/preferences", **protected(ANY_USER))
    async def replace_preferences(request: Request[Any, Any, Any], data: JSONBody[Preferences]) -> Preferences:
        """Choose how to be told beside the inbox; what is left out is as if nothing had been said about it."""
        return unwrap(await contacts.replace(caller_of(request), data))

    @get("/notification/addresses/{user_id:str}", **protected(EVERYONE))
    async def get_addresses(request: Request[Any, Any, Any], user_id: FromPath[str]) -> Addresses:
        """Where a user is reached by further channels."""
        return unwrap(await contacts.addresses(caller_of(request), user_id))

    @put("/notification/addresses/{user_id:str}", **protected(STAFF))
    async def replace_addresses(
        request: Request[Any, Any, Any], user_id: FromPath[str], data: JSONBody[Addresses]
    ) -> Addresses:
        """Say where a user is reached by further channels, once it is known to be the user who is there."""
        return unwrap(await contacts.replace_addresses(caller_of(request), user_id, data))

    return [get_preferences, replace_preferences, get_addresses, replace_addresses]


def _webhook_routes(webhooks: Webhooks) -> list[HTTPRouteHandler]:
    @post("/notification/webhooks", **protected(MERCHANT, Reason.INVALID_STATE))
    async def create_webhook(request: Request[Any, Any, Any], data: JSONBody[WebhookOrder]) -> NewWebhook:
        """Have the caller's events posted to a URL, signed as the Standard Webhooks specification says."""
        return unwrap(await webhooks.create(caller_of(request), data))

    @get("/notification/webhooks", **protected(MERCHANT))
    async def list_webhooks(
        request: Request[Any, Any, Any], limit: Limit = DEFAULT_LIMIT, cursor: Cursor = None
    ) -> WebhookList:
        """The caller's endpoints, newest first."""
        return await webhooks.listed(caller_of(request), limit=limit, cursor=cursor)

    @get("/notification/webhooks/{webhook_id:str}", **protected(MERCHANT))
    async def get_webhook(request: Request[Any, Any, Any], webhook_id: FromPath[str]) -> Webhook:
        """One of the caller's endpoints."""
        return unwrap(await webhooks.get(caller_of(request), webhook_id))

    @put("/notification/webhooks/{webhook_id:str}", **protected(MERCHANT))
    async def replace_webhook(
        request: Request[Any, Any, Any], webhook_id: FromPath[str], data: JSONBody[WebhookOrder]
    ) -> Webhook:
        """Give an endpoint another URL and other events; what is pending goes there, too."""
        return unwrap(await webhooks.replace(caller_of(request), webhook_id, data))

    @delete("/notification/webhooks/{webhook_id:str}", **protected(MERCHANT))
    async def delete_webhook(request: Request[Any, Any, Any], webhook_id: FromPath[str]) -> None:
        """Forget an endpoint with its secret and its deliveries."""
        unwrap(await webhooks.remove(caller_of(request), webhook_id))

    @post("/notification/webhooks/{webhook_id:str}/enable", status_code=200, **protected(MERCHANT))
    async def enable_webhook(request: Request[Any, Any, Any], webhook_id: FromPath[str]) -> Webhook:
        """Let an endpoint hear of what happens from now on."""
        return unwrap(await webhooks.enable(caller_of(request), webhook_id))

    @post("/notification/webhooks/{webhook_id:str}/disable", status_code=200, **protected(MERCHANT))
    async def disable_webhook(request: Request[Any, Any, Any], webhook_id: FromPath[str]) -> Webhook:
        """Send nothing more to an endpoint, and cancel what is pending."""
        return unwrap(await webhooks.disable(caller_of(request), webhook_id))

    @post("/notification/webhooks/{webhook_id:str}/rotate-secret", status_code=200, **protected(MERCHANT))
    async def rotate_webhook_secret(request: Request[Any, Any, Any], webhook_id: FromPath[str]) -> WebhookSecret:
        """A new secret, shown this once; for a day everything is signed with both."""
        return unwrap(await webhooks.rotate_secret(caller_of(request), webhook_id))

    return [
        create_webhook,
        list_webhooks,
        get_webhook,
        replace_webhook,
        delete_webhook,
        enable_webhook,
        disable_webhook,
        rotate_webhook_secret,
    ]


def _delivery_routes(webhooks: Webhooks) -> list[HTTPRouteHandler]:
    @post("/notification/webhooks/{webhook_id:str}/test", status_code=202, **protected(MERCHANT, Reason.INVALID_STATE))
    async def test_webhook(request: Request[Any, Any, Any], webhook_id: FromPath[str]) -> WebhookDelivery:
        """Send the event `webhook.test` to an endpoint; the deliveries tell what has become of it."""
        return unwrap(await webhooks.test(caller_of(request), webhook_id))

    @get("/notification/webhooks/{webhook_id:str}/deliveries", **protected(MERCHANT))
    async def list_webhook_deliveries(
        request: Request[Any, Any, Any],
        webhook_id: FromPath[str],
        limit: Limit = DEFAULT_LIMIT,
        cursor: Cursor = None,
    ) -> WebhookDeliveryList:
        """What was and will be sent to an endpoint, newest first."""
        return unwrap(await webhooks.deliveries(caller_of(request), webhook_id, limit=limit, cursor=cursor))

    @post(
        "/notification/webhooks/{webhook_id:str}/deliveries/{delivery_id:str}/redeliver",
        status_code=202,
        **protected(MERCHANT, Reason.INVALID_STATE),
    )
    async def redeliver_webhook(
        request: Request[Any, Any, Any], webhook_id: FromPath[str], delivery_id: FromPath[str]
    ) -> WebhookDelivery:
        """Send a delivery again at once, whatever had become of it."""
        return unwrap(await webhooks.redeliver(caller_of(request), webhook_id, delivery_id))

    @get("/notification/audit", **protected({Role.ADMIN}))
    async def list_notification_audit(
        request: Request[Any, Any, Any],
        subject: AuditSubject = None,
        request_id: AuditRequest = None,
        limit: Limit = DEFAULT_LIMIT,
        cursor: Cursor = None,
    ) -> AuditTrail:
        """Audit records, newest first."""
        return await webhooks.audit_trail(
            caller_of(request), subject=subject, request_id=request_id, limit=limit, cursor=cursor
        )

    return [test_webhook, list_webhook_deliveries, redeliver_webhook, list_notification_audit]


async def _token_end(request: Request[Any, Any, Any]) -> int:
    """When the caller's token expires, in microseconds since the epoch; the verifier remembers it from the guard."""
    verifier: Verifier = request.app.state.verifier
    principal = await verifier.verify(bearer_token(request.headers.getall("authorization")) or "")
    return unwrap(principal or INVALID_TOKEN).expires_at * MICROSECONDS_PER_SECOND


async def _server_sent_events(notifications: AsyncIterator[Notification | None]) -> AsyncIterator[bytes]:
    """Each notification as one event of the HTML standard, section 9.2; a heartbeat is a comment."""
    async for notification in notifications:
        if notification is None:
            yield b": heartbeat\n\n"
        else:
            head = f"id: {notification.notification_id}\nevent: {notification.event}\ndata: ".encode()
            yield head + encode(notification) + b"\n\n"
