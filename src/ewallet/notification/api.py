"""Notification over HTTP."""

from collections.abc import AsyncIterator
from typing import Annotated, Any

from litestar import Request, get, post
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath, HeaderParameter, JSONBody, QueryParameter
from litestar.response import Stream

from ewallet.kernel.clock import MICROSECONDS_PER_SECOND
from ewallet.kernel.errors import unwrap
from ewallet.notification.client import DELIVERY_PATH
from ewallet.notification.messages import Delivery, Notification, NotificationList, Receipt
from ewallet.notification.service import NotificationService
from ewallet.plumbing.http.contract import (
    ANY_USER,
    DEFAULT_LIMIT,
    INVALID_TOKEN,
    Cursor,
    Limit,
    bearer_token,
    caller_of,
    internal,
    protected,
)
from ewallet.plumbing.json import encode
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


def routes(service: NotificationService) -> list[HTTPRouteHandler]:
    """Every endpoint of notification."""

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

    return [list_notifications, mark_notification_read, stream_notifications, deliver_events]


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
