"""The only door to notification for other services: their outbox relays hand events over here."""

from collections.abc import Sequence
from typing import Protocol

from ewallet.plumbing.outbox import Event, Undeliverable


class NotificationClient(Protocol):
    """Takes events, at least once and in the order of their keys."""

    async def deliver(self, events: Sequence[Event]) -> Sequence[Undeliverable]:
        """Store events and their effects; those that were stored before are silently accepted.

        Returns the events that cannot be taken. OutcomeUnknown, Overloaded: hand the same events over again later.
        """
