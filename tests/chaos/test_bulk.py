"""Many payments in one call are killed like any other: each was done once, or is done once the call is repeated."""

import asyncio
from typing import Any

import pytest

from tests.chaos.arming import Action, Arming
from tests.chaos.orders import Order
from tests.chaos.wire import Answer, NoAnswer
from tests.chaos.world import World, Worlds

PAYMENTS = 40
FIRES_WITHIN_SECONDS = 60

KILLS = (
    Arming("commit.after", Action.KILL, "payment", "payment.begin.written"),
    Arming("commit.after", Action.KILL, "wallet", "wallet.batch.written"),
    Arming("commit.before", Action.KILL, "payment", "payment.settle.written"),
)
"""Behind T1, behind T2 and in front of T3: each intent is found again, and whether its money has moved."""


@pytest.mark.parametrize("kill", KILLS, ids=str)
async def test_a_call_that_dies_half_way_is_finished_by_its_repetition(chaos: Worlds, kill: Arming) -> None:
    async with chaos.world("together") as world:
        customer, merchants = world.cast.customers[0], world.cast.merchants
        orders = [world.pay(customer, merchants[number % len(merchants)], 100 + number) for number in range(PAYMENTS)]
        home = world.victims.home_of("payment")
        trigger = await world.victims.arm(home, kill)
        asking = asyncio.create_task(ask(world, orders))
        await trigger.fired(FIRES_WITHIN_SECONDS)
        with pytest.raises(NoAnswer):
            await asking
        await world.victims.restart(home)
        while not all(order.acknowledged for order in orders):
            await ask(world, orders)
            await asyncio.sleep(0.2)
        tally = await world.tally(faults=1)

    assert not tally.wrong, "\n\n".join(tally.wrong)


async def ask(world: World, orders: list[Order]) -> None:
    """All of some payments in one call; the accountant gets the answer to each. NoAnswer: the call broke."""
    for order in orders:
        order.sent = True
    body = {"payments": [_in_bulk(order) for order in orders]}
    answer = await world.clients.wire.call("POST", "/payment/bulk", body, token=orders[0].by.token)
    assert answer.status == 200, answer
    for order, item in zip(orders, answer.body["items"], strict=True):
        order.answers.append(Answer(item["status"], item.get("payment") or item["problem"]))


def _in_bulk(order: Order) -> dict[str, Any]:
    return {**order.body, "idempotencyKey": order.key}
