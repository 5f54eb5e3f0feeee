"""Every point on the way of the money, with everything that can happen there."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass

from tests.chaos.arming import Action, Arming
from tests.chaos.orders import Order, Person
from tests.chaos.world import SETTLES_WITHIN_SECONDS, Tally, World, Worlds
from tests.support.platform import Way

FIRES_WITHIN_SECONDS = 60
"""A point of recovery is reached when a lease of five seconds has run out."""

LANES: dict[Way, int] = {"together": 8, "apart": 4}
"""Worlds at a time: most of a fault is waiting for leases, and two cores are enough for the rest."""

KILL, BUSY, BROKEN, REFUSED, LOST = Action.KILL, Action.BUSY, Action.BROKEN, Action.REFUSED, Action.LOST

IN_TRANSACTION = (KILL, BUSY, BROKEN)
BEFORE_CALL = (KILL, REFUSED)
AFTER_CALL = (KILL, LOST)


@dataclass(frozen=True, slots=True)
class Place:
    """A point in one service, and what can happen there; see :class:`Arming`."""

    service: str
    point: str
    actions: tuple[Action, ...]
    which: str = ""
    since: str = ""

    def armings(self) -> Iterator[Arming]:
        return (Arming(self.point, action, self.which, self.since) for action in self.actions)


def transaction(service: str, *points: str) -> tuple[Place, ...]:
    """The points within a transaction, and those around its COMMIT."""
    return (
        *(Place(service, point, IN_TRANSACTION) for point in points),
        *(Place(service, f"commit.{when}", IN_TRANSACTION, service, points[-1]) for when in ("before", "after")),
    )


def relay(service: str) -> tuple[Place, ...]:
    """The way of an event from a service's outbox into the inboxes."""
    settle = "relay.settle.written"
    return (
        Place(service, "relay.deliver.before", BEFORE_CALL, service),
        *transaction("notification", "notification.batch.written"),
        Place(service, "relay.deliver.after", AFTER_CALL, service),
        Place(service, settle, IN_TRANSACTION, service),
        *(Place(service, f"commit.{when}", IN_TRANSACTION, service, settle) for when in ("before", "after")),
    )


def door(caller: str, path: str) -> tuple[Place, ...]:
    """A call of another process."""
    return (
        Place(caller, "door.call.before", BEFORE_CALL, path),
        Place(caller, "door.call.after", AFTER_CALL, path),
    )


WALLET = transaction("wallet", "wallet.batch.before", "wallet.batch.written")
NOTIFICATION_DOOR = "/internal/notification/events"

PAYMENT = (
    Place("payment", "payment.begin.before", (KILL,)),
    *transaction("payment", "payment.begin.written"),
    Place("payment", "payment.move.before", BEFORE_CALL),
    *WALLET,
    Place("payment", "payment.move.after", AFTER_CALL),
    Place("payment", "payment.settle.before", (KILL,)),
    *transaction("payment", "payment.settle.written"),
    *relay("payment"),
)
PAYMENT_DOORS = (*door("payment", "/internal/wallet/groups"), *door("payment", NOTIFICATION_DOOR))

MOVEMENT = (*WALLET, *relay("wallet"))
MOVEMENT_DOORS = door("wallet", NOTIFICATION_DOOR)


@dataclass(frozen=True, slots=True)
class Operation:
    """Something that clients ask for; ``doors`` are the points that only processes of their own reach.

    ``order`` writes it down, after everything that must be there before.
    """

    name: str
    order: Callable[[World, int], Awaitable[Order]]
    places: tuple[Place, ...]
    doors: tuple[Place, ...]


async def _initiate(world: World, number: int) -> Order:
    return world.pay(_customer(world, number), _merchant(world, number), 10_00 + number)


async def _hold(world: World, number: int) -> Order:
    return world.hold(_customer(world, number), _merchant(world, number), 10_00 + number)


async def _capture(world: World, number: int) -> Order:
    return world.capture(await _acknowledged(world, await _hold(world, number)), 7_00)


async def _void(world: World, number: int) -> Order:
    return world.void(await _acknowledged(world, await _hold(world, number)))


async def _refund(world: World, number: int) -> Order:
    return world.refund(await _acknowledged(world, await _initiate(world, number)), 3_00)


async def _credit(world: World, number: int) -> Order:
    return world.credit(_customer(world, number), 5_00 + number)


async def _debit(world: World, number: int) -> Order:
    return world.debit(_customer(world, number), 5_00 + number)


def _customer(world: World, number: int) -> Person:
    return world.cast.customers[number % len(world.cast.customers)]


def _merchant(world: World, number: int) -> Person:
    return world.cast.merchants[number % len(world.cast.merchants)]


async def _acknowledged(world: World, order: Order) -> Order:
    """The order when it has been carried out and everybody was told, so that what happens next happens to the next."""
    await world.clients.carry_out(order)
    await world.audited()
    return order


OPERATIONS = (
    Operation("initiate", _initiate, PAYMENT, PAYMENT_DOORS),
    Operation("hold", _hold, PAYMENT, PAYMENT_DOORS),
    Operation("capture", _capture, PAYMENT, PAYMENT_DOORS),
    Operation("void", _void, PAYMENT, PAYMENT_DOORS),
    Operation("refund", _refund, PAYMENT, PAYMENT_DOORS),
    Operation("credit", _credit, MOVEMENT, MOVEMENT_DOORS),
    Operation("debit", _debit, MOVEMENT, MOVEMENT_DOORS),
)


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that happens while an operation is under way; ``then`` is one more, after the restart."""

    operation: Operation
    service: str
    arming: Arming
    then: Arming | None = None

    def __str__(self) -> str:
        return f"{self.operation.name}: {self.arming}" + (f", then {self.then}" if self.then else "")


def faults(operation: Operation, way: Way) -> list[Fault]:
    """Everything that can happen to an operation in one way of running."""
    places = operation.places + (() if way == "together" else operation.doors)
    found = [Fault(operation, place.service, arming) for place in places for arming in place.armings()]
    if operation.places is PAYMENT:
        begun = Arming("commit.after", KILL, "payment", "payment.begin.written")
        found.append(Fault(operation, "payment", begun, then=Arming("payment.claim.after", KILL)))
    return found


# --- letting it happen --------------------------------------------------------------------------------------------


async def let_all_happen(worlds: Worlds, way: Way, wanted: Sequence[Fault]) -> Tally:
    """Let faults happen one after the other in several worlds at a time; half as many where they share a server."""
    total, left = Tally(), iter(enumerate(wanted))
    await worlds.cast()  # made once, not by all lanes at the same time

    async def lane() -> None:
        async with worlds.world(way) as world:
            wrong = [await _let_happen(world, fault, number) for number, fault in left]
            tally = await world.tally(faults=len(wrong))
            tally.wrong += filter(None, wrong)
            total.add(tally)

    async with asyncio.TaskGroup() as running:
        for _ in range(LANES[way] // (2 if worlds.share_a_server else 1)):
            running.create_task(lane())
    return total


async def _let_happen(world: World, fault: Fault, number: int) -> str:
    """One fault, and the accountant's look at the end, which must come in time; what is wrong then, or nothing."""
    order = await fault.operation.order(world, number)
    home = world.victims.home_of(fault.service)
    trigger = await world.victims.arm(home, fault.arming)
    asking: asyncio.Task[object] = asyncio.create_task(world.clients.carry_out(order))
    await trigger.fired(FIRES_WITHIN_SECONDS)
    if fault.then is not None:
        asking.cancel()  # what happens then happens to recovery, not to a copy of the request
        await asyncio.wait([asking])
        trigger = await world.victims.restart_armed(home, fault.then)
        await trigger.fired(FIRES_WITHIN_SECONDS)
    if fault.arming.action == KILL:
        await world.victims.restart(home)
    if fault.then is not None:
        asking = asyncio.create_task(world.clients.carry_out(order))
    started = time.monotonic()
    await asyncio.wait([asking], timeout=SETTLES_WITHIN_SECONDS)
    report = await world.audited(within_seconds=SETTLES_WITHIN_SECONDS - (time.monotonic() - started))
    asking.cancel()
    if order.acknowledged is not None and not report.findings:
        return ""
    return f"{fault}: {order.answers}\n{report}\n{world.victims.logs()}"
