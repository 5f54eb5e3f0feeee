"""What must stay true of many requests that are released at one moment, while the platform is killed meanwhile."""

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, bindparam, text

from tests.chaos.accountant import available
from tests.chaos.databases import reading
from tests.chaos.orders import Order
from tests.chaos.storm import under_kills
from tests.chaos.world import FUNDS, Tally, World, Worlds

LOOK_SECONDS = 0.01
DRAINED_BY = 10


@dataclass(frozen=True, slots=True)
class Scale:
    """How many of everything, and how many kills meanwhile."""

    copies: int = 640
    credits: int = 5_000
    transfers: int = 4_000
    payments: int = 200
    unfunded_copies: int = 320
    kills: int = 5

    @classmethod
    def small(cls) -> "Scale":
        """For the tests of every day."""
        return cls(copies=160, credits=400, transfers=400, payments=60, unfunded_copies=80, kills=3)


Invariant = Callable[[World, Scale, random.Random], Awaitable[int]]
"""Lets it happen and checks; returns the number of kills. AssertionError: it does not hold."""


async def released_at_once(world: World, orders: Sequence[Order]) -> Counter[int]:
    """Everybody asks at the same moment, and again until there is an answer; the answers, by their status."""
    barrier = asyncio.Event()

    async def ask(order: Order) -> int:
        await barrier.wait()
        answer = await world.clients.carry_out(order)
        assert answer is not None, f"{order}: never a definite answer, but {order.answers[-3:]}"
        return answer.status

    asking = [asyncio.create_task(ask(order)) for order in orders]
    barrier.set()
    return Counter(await asyncio.gather(*asking))


async def copies_of_one_key_are_one_payment(world: World, scale: Scale, dice: random.Random) -> int:
    """Everybody gets the same payment."""
    order = world.pay(world.cast.customers[0], world.cast.merchants[0], 10_00)
    statuses, kills = await _killed(world, [order] * scale.copies, scale, dice)
    assert statuses == {201: scale.copies}, statuses
    return kills


async def credits_to_one_hot_account_are_exact(world: World, scale: Scale, dice: random.Random) -> int:
    """None is lost, none is doubled."""
    hot = world.cast.customers[0]
    statuses, kills = await _killed(world, [world.credit(hot, 1) for _ in range(scale.credits)], scale, dice)
    assert statuses == {201: scale.credits}, statuses
    assert available((await world.audited()).case.books, hot.id) == FUNDS + scale.credits
    return kills


async def transfers_keep_the_total_in_every_read(world: World, scale: Scale, dice: random.Random) -> int:
    """At no moment is money on its way: whoever reads the accounts, at whatever moment, finds all of it."""
    customers, merchants = world.cast.customers[:4], world.cast.merchants[:4]
    orders = [
        world.pay(dice.choice(customers), dice.choice(merchants), dice.randint(1_00, 9_00))
        for _ in range(scale.transfers)
    ]
    owners = [*(person.id for person in (*customers, *merchants)), "fees"]
    with reading(world.databases["wallet"]) as ledger:
        before = _total(ledger, owners)
        looking = asyncio.create_task(_look_on(ledger, owners))
        statuses, kills = await _killed(world, orders, scale, dice)
        looking.cancel()
        totals = await looking
    assert statuses == {201: scale.transfers}, statuses
    assert totals.keys() == {before}, f"{before} before, then {totals}"
    assert totals.total() > kills, "nobody has looked"
    return kills


async def a_wallet_is_drained_exactly(world: World, scale: Scale, dice: random.Random) -> int:
    """What is enough for ten payments pays ten, however many want it."""
    customer, merchant = world.cast.customers[0], world.cast.merchants[0]
    await world.clients.carry_out(world.debit(customer, FUNDS - DRAINED_BY * 10_00))
    orders = [world.pay(customer, merchant, 10_00) for _ in range(scale.payments)]
    statuses, kills = await _killed(world, orders, scale, dice)
    assert statuses == {201: DRAINED_BY, 402: scale.payments - DRAINED_BY}, statuses
    return kills


async def what_cannot_be_paid_is_never_told_as_paid(world: World, scale: Scale, dice: random.Random) -> int:
    """Each copy is told that it is refused; none is told that it succeeded, or for ever that it is in progress."""
    order = world.pay(world.cast.customers[0], world.cast.merchants[0], FUNDS * 2)
    statuses, kills = await _killed(world, [order] * scale.unfunded_copies, scale, dice)
    assert statuses == {402: scale.unfunded_copies}, statuses
    return kills


INVARIANTS: tuple[Invariant, ...] = (
    copies_of_one_key_are_one_payment,
    credits_to_one_hot_account_are_exact,
    transfers_keep_the_total_in_every_read,
    a_wallet_is_drained_exactly,
    what_cannot_be_paid_is_never_told_as_paid,
)


async def hold(worlds: Worlds, invariant: Invariant, scale: Scale, *, seed: int) -> Tally:
    """One invariant on a platform of its own, and what the accountant finds afterwards."""
    async with worlds.world("together") as world:
        kills = await invariant(world, scale, random.Random(seed))
        return await world.tally(faults=kills)


async def _killed(world: World, orders: Sequence[Order], scale: Scale, dice: random.Random) -> tuple[Counter[int], int]:
    """The answers by their status, and the number of kills while they came."""
    asking = asyncio.create_task(released_at_once(world, orders))
    kills = await under_kills(world, asking, kills=scale.kills, dice=dice)
    return asking.result(), kills


async def _look_on(ledger: Connection, owners: Sequence[str]) -> Counter[int]:
    """Every total that is seen, until cancelled."""
    seen: Counter[int] = Counter()
    try:
        while True:
            seen[_total(ledger, owners)] += 1
            await asyncio.sleep(LOOK_SECONDS)
    except asyncio.CancelledError:
        return seen


_TOTAL = text("SELECT SUM(credits_posted - debits_posted) FROM wallet_accounts WHERE owner IN :owners").bindparams(
    bindparam("owners", expanding=True)
)


def _total(ledger: Connection, owners: Sequence[str]) -> int:
    """What these owners have together, at one moment."""
    return int(ledger.execute(_TOTAL, {"owners": owners}).scalar_one())
