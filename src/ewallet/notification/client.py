"""The only door to notification for other services: their outbox relays hand events over here."""

from collections.abc import Sequence
from typing import Protocol

from ewallet.notification.messages import Receipt
from ewallet.plumbing.http.doors import Door, chunks
from ewallet.plumbing.outbox import Event, Undeliverable

DELIVERY_PATH = "/internal/notification/events"


class NotificationClient(Protocol):
    """Takes events, at least once and in the order of their keys."""

    async def deliver(self, events: Sequence[Event]) -> Sequence[Undeliverable]:
        """Store events and their effects; those that were stored before are silently accepted.

        Returns the events that cannot be taken, and those behind them of the same ordering key. OutcomeUnknown,
        Overloaded: hand the same events over again later.
        """


class HttpNotification:
    """Notification in another process."""

    def __init__(self, door: Door) -> None:
        self._door = door

    async def deliver(self, events: Sequence[Event]) -> Sequence[Undeliverable]:
        """One call after the other, so that the order is kept; each body is within the bound that every service has."""
        undeliverable: list[Undeliverable] = []
        left = list(events)
        while left:
            chunk = next(chunks(left))
            receipt = await self._door.post(DELIVERY_PATH, {"events": chunk}, Receipt, request_id=events[0].request_id)
            not_taken = {failed.event_id for failed in receipt.undeliverable}
            waiting_keys = {event.ordering_key for event in left if event.id in not_taken}
            behind = [event for event in left[len(chunk) :] if event.ordering_key in waiting_keys]
            undeliverable += [*receipt.undeliverable, *map(Undeliverable.behind, behind)]
            left = [event for event in left[len(chunk) :] if event.ordering_key not in waiting_keys]
        return undeliverable
