"""The only door to notification for other services: their outbox relays hand events over here."""

from collections.abc import Sequence
from typing import Protocol

from ewallet.notification.messages import Addressed, ListKept, Receipt, Untold
from ewallet.plumbing.http.doors import Door, chunks
from ewallet.plumbing.outbox import Event, Undeliverable
from ewallet.plumbing.reconciling import KeptEvents

DELIVERY_PATH = "/internal/notification/events"
UNTOLD_PATH = "/internal/notification/events/untold"
KEPT_PATH = "/internal/notification/events/kept"

RECONCILIATION = "reconciliation"
"""The request on whose behalf inboxes are looked through."""


class NotificationClient(Protocol):
    """Takes events, at least once and in the order of their keys, and knows which it has taken."""

    async def deliver(self, events: Sequence[Event]) -> Sequence[Undeliverable]:
        """Store events and their effects; those that were stored before are silently accepted.

        Returns the events that cannot be taken, and those behind them of the same ordering key. OutcomeUnknown,
        Overloaded: hand the same events over again later.
        """

    async def untold(self, events: Sequence[Event]) -> Sequence[str]:
        """The ids of those events of which a recipient has not been told. OutcomeUnknown, Overloaded: ask again."""

    async def kept_after(self, after: int) -> KeptEvents:
        """A page of the events that came with a memo, in the order in which they arrived; 0 is before the first."""


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

    async def untold(self, events: Sequence[Event]) -> Sequence[str]:
        """See :class:`NotificationClient`."""
        untold: list[str] = []
        for chunk in chunks(Addressed(event.id, event.recipients) for event in events):
            answer = await self._door.post(UNTOLD_PATH, {"events": chunk}, Untold, request_id=RECONCILIATION)
            untold += answer.event_ids
        return untold

    async def kept_after(self, after: int) -> KeptEvents:
        """See :class:`NotificationClient`."""
        return await self._door.post(KEPT_PATH, ListKept(after), KeptEvents, request_id=RECONCILIATION)
