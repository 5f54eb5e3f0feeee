"""How notifications leave the platform, beyond the inbox in the database.

``streams`` tells open browsers at once. Everything else takes what the inbox has stored, by a row of its own in the
transaction that stores it, and sends it afterwards (``worker.py``): ``webhooks`` to merchants' servers, by ``outside``,
which never calls an address that is not public, ``mail`` to people, by the operator's mail server, and ``apprise`` by
whatever else the operator has.
"""

from dataclasses import dataclass
from typing import Protocol

import msgspec

from ewallet.notification.domain.deliveries import Outcome


@dataclass(frozen=True, slots=True)
class Parcel:
    """What is to be delivered, and everything that its sender needs to know; ``payload`` is sent byte by byte."""

    event_id: str
    event: str
    payload: str
    address: str
    secrets: tuple[str, ...]


class Message(msgspec.Struct, frozen=True):
    """What a person is told, as it waits in its delivery; ``to`` is an address as its channel has them."""

    to: str
    title: str
    text: str
    locale: str


class Sender(Protocol):
    """One channel out of the platform."""

    async def send(self, parcel: Parcel) -> Outcome:
        """Try once, within a bounded time. Raises nothing that an address or its owner could cause."""
