"""Kills at random moments, under load."""

import asyncio
import random
from collections.abc import Awaitable

from tests.chaos.orders import Kind, Order
from tests.chaos.world import FUNDS, Tally, World, Worlds
from tests.support.platform import Way

VOLLEY = 16
"""Orders that are sent at the same moment, just before a kill."""

VOLLEY_SECONDS = 0.06
"""About as long as the platform works on a volley: a kill may come at any moment of it."""

FIRST_KILL_SECONDS = 0.02
LONGEST_LIFE_SECONDS = 0.3
"""Of a platform that is to be killed while it works on many requests; at first so early that it cannot be done."""

COPIES_SHARE = 0.2
UNFUNDED_SHARE = 0.05
MOVEMENTS_SHARE = 0.3
OPERATIONS_SHARE = 0.4
HOLDS_SHARE = 0.4
"""Of the orders, so many are asked for twice at the same time, cannot be paid, are debits and credits. Of the others,
so many are operations on payments that are there; of the payments so many are holds."""

SEVERAL_SHARE = 0.2
"""Of the kills of separate processes, so many hit more than one."""


async def storm(worlds: Worlds, way: Way, *, kills: int, seed: int) -> Tally:
    """Kill processes of one platform so many times while requests are in flight."""
    dice = random.Random(seed)
    async with worlds.world(way) as world:
        asking: list[asyncio.Task[object]] = []
        done = 0
        while done < kills:
            asking += [asyncio.create_task(world.clients.carry_out(order)) for order in volley(world, dice)]
            await asyncio.sleep(dice.uniform(0, VOLLEY_SECONDS))
            done += await kill_in_flight(world, dice)
        await asyncio.gather(*asking)
        return await world.tally(faults=done)


async def kill_in_flight(world: World, dice: random.Random) -> bool:
    """Kill something if requests are in flight, and start it again; False where there were none."""
    if not world.victims.wire.in_flight:
        return False
    names = dice.sample(world.victims.names, _victims(world, dice))
    world.victims.kill(*names)
    await world.victims.restart(*names)
    return True


def _victims(world: World, dice: random.Random) -> int:
    several = len(world.victims.names) > 1 and dice.random() < SEVERAL_SHARE
    return dice.randint(2, len(world.victims.names)) if several else 1


def volley(world: World, dice: random.Random) -> list[Order]:
    """Orders to be sent together; some are there twice."""
    orders = [_random_order(world, dice) for _ in range(VOLLEY)]
    return orders + [order for order in orders if dice.random() < COPIES_SHARE]


def _random_order(world: World, dice: random.Random) -> Order:
    """An order of anybody; half of them meet at the same two people."""
    cast = world.cast
    hot = dice.random() < 0.5
    customer = cast.customers[0] if hot else dice.choice(cast.customers)
    merchant = cast.merchants[0] if hot else dice.choice(cast.merchants)
    amount = FUNDS * 10 if dice.random() < UNFUNDED_SHARE else dice.randint(1_00, 100_00)
    if dice.random() < MOVEMENTS_SHARE:
        return world.debit(customer, amount) if dice.random() < 0.5 else world.credit(customer, dice.randint(1, 100_00))
    recent = [order for order in world.clients.orders[-4 * VOLLEY :] if order.merchant and order.acknowledged]
    if recent and dice.random() < OPERATIONS_SHARE:
        return _random_operation(world, dice, dice.choice(recent))
    return (world.hold if dice.random() < HOLDS_SHARE else world.pay)(customer, merchant, amount)


def _random_operation(world: World, dice: random.Random, payment: Order) -> Order:
    """An operation that may well be refused, because others on the same payment are under way or done."""
    amount = dice.randint(1_00, payment.amount)
    if payment.kind is Kind.PAY or dice.random() < 0.25:
        return world.refund(payment, amount)
    return world.capture(payment, amount) if dice.random() < 0.6 else world.void(payment)


async def under_kills(world: World, work: Awaitable[object], *, kills: int, dice: random.Random) -> int:
    """Do some work while everything is killed now and then; returns how often requests were in flight."""
    working = asyncio.ensure_future(work)
    done = 0
    while not working.done() and done < kills:
        await asyncio.wait([working], timeout=dice.uniform(0, LONGEST_LIFE_SECONDS if done else FIRST_KILL_SECONDS))
        done += await kill_in_flight(world, dice)
    await working
    return done
