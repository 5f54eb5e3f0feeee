"""What every service's ``reconcile`` stands on: cases, and the comparison of what was told with what has arrived."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec
import structlog
from sqlalchemy import Connection

from ewallet.plumbing.database import Database
from ewallet.plumbing.outbox import Event, Outbox, Undeliverable

log = structlog.get_logger()

AT_ONCE = 200
"""Records compared by one question to another service: its answer stays well below the time that a call may take."""


class Case(msgspec.Struct, frozen=True, rename="camel"):
    """One disagreement: about what, over how much, what was done, and whether that settles it.

    ``amount`` is in minor units of ``currency``, which is empty where no money is in question.
    """

    id: str
    what: str
    amount: int
    currency: str
    done: str
    settled: bool


class Compared(msgspec.Struct, frozen=True, rename="camel"):
    """The cases among a page of what was compared, and where the next page begins; None: there is nothing."""

    cases: list[Case]
    after: int | None


class KeptEvent(msgspec.Struct, frozen=True, rename="camel"):
    """Of an event with a memo what its sender needs to know what it was about."""

    name: str
    data: dict[str, Any]
    memo: dict[str, Any]


class KeptEvents(msgspec.Struct, frozen=True, rename="camel"):
    """Events with memos in the order in which they arrived, and where the next page begins; None: there is nothing."""

    items: list[KeptEvent]
    after: int | None


class Receiver(Protocol):
    """Whom a service's events are for. Every call may raise OutcomeUnknown or Overloaded."""

    async def deliver(self, events: Sequence[Event]) -> Sequence[Undeliverable]:
        """Store events and their effects, once however often they come; those that cannot be taken are returned."""

    async def untold(self, events: Sequence[Event]) -> Sequence[str]:
        """The ids of those events that have not had their whole effect."""

    async def kept_after(self, after: int) -> KeptEvents:
        """A page of the events that came with a memo; 0 is before the first."""


@dataclass(frozen=True, slots=True)
class Told:
    """Events that a service has told, oldest first, and where the next ones begin; None: there are none."""

    events: Sequence[Event]
    after: int | None


class Retelling:
    """Finds what a service has told and its receiver does not know, and hands it over again under the same ids.

    ``told_after`` rebuilds a page of events from the service's own books, in the order in which they were told.
    """

    def __init__(
        self, database: Database, outbox: Outbox, receiver: Receiver, told_after: Callable[[Connection, int], Told]
    ) -> None:
        self._database = database
        self._outbox = outbox
        self._receiver = receiver
        self._told_after = told_after

    async def page(self, after: int) -> Compared:
        """The cases among the events behind ``after``, and where to go on; 0 is the beginning, with the dead letters.

        What still waits in the outbox is under way and no disagreement.
        """
        cases = await self._dead_letters() if after == 0 else []
        told = await self._database.reading(lambda tx: self._told_after(tx, after))
        lost = await self._lost(told.events)
        failed = await self._hand_over(lost)
        cases += [_case(event, "told, but lost", failed.get(event.id)) for event in lost]
        return Compared(cases, told.after)

    async def _lost(self, events: Sequence[Event]) -> Sequence[Event]:
        untold = await self._untold(events)
        if not untold:
            return []
        kept = await self._database.reading(lambda tx: self._outbox.kept(tx, [event.id for event in untold]))
        # An event leaves the outbox when it has arrived, perhaps between the question and this look: so ask once more.
        return await self._untold([event for event in untold if event.id not in kept])

    async def _untold(self, events: Sequence[Event]) -> Sequence[Event]:
        if not events:
            return []
        ids = set(await self._receiver.untold(events))
        return [event for event in events if event.id in ids]

    async def _dead_letters(self) -> list[Case]:
        """Hand over again what the relay has given up; what is taken now is no dead letter any more."""
        cases: list[Case] = []
        after = 0
        while letters := await self._database.reading(lambda tx: self._outbox.dead_after(tx, after)):  # noqa: B023  # awaited in the same round
            failed = await self._hand_over([event for _, event in letters])
            taken = [sequence for sequence, event in letters if event.id not in failed]
            await self._database.writing(lambda tx: self._outbox.bury(tx, taken))  # noqa: B023  # as above
            cases += [_case(event, "told, but given up", failed.get(event.id)) for _, event in letters]
            after = letters[-1][0]
        return cases

    async def _hand_over(self, events: Sequence[Event]) -> dict[str, str]:
        """Why some of the events cannot be taken, by their ids."""
        if not events:
            return {}
        return {each.event_id: each.error for each in await self._receiver.deliver(events)}


def _case(event: Event, what: str, error: str | None) -> Case:
    done = "told again" if error is None else f"nothing: {error}"
    amount, currency = event.data.get("amount", 0), event.data.get("currency", "")
    case = Case(event.id, f"{event.name} of {event.ordering_key} was {what}", amount, currency, done, error is None)
    log.warning("event.reconciled", event_id=case.id, what=case.what, done=done)
    return case
