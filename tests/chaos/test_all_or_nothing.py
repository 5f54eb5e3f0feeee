"""Payments that are all or nothing are killed at each step: in the end all of them were made, and each once."""

import asyncio
from http import HTTPStatus

import pytest

from tests.chaos.arming import Action, Arming
from tests.chaos.orders import Order
from tests.chaos.wire import Answer, NoAnswer
from tests.chaos.world import World, Worlds

PAYMENTS = 40
FIRES_WITHIN_SECONDS = 60
ENDS_WITHIN_SECONDS = 60

KILLS = (
    Arming("commit.after", Action.KILL, "payment", "payment.begin.written"),
    Arming("commit.before", Action.KILL, "wallet", "wallet.batch.written"),
    Arming("commit.after", Action.KILL, "wallet", "wallet.batch.written"),
    Arming("commit.before", Action.KILL, "payment", "payment.settle.written"),
)
"""Behind T1, on both sides of T2's commit, and in front of T3's: recovery goes on with all, or finds them paid."""


@pytest.mark.parametrize("kill", KILLS, ids=str)
async def test_what_dies_half_way_is_never_done_half(chaos: Worlds, kill: Arming) -> None:
    """Nobody repeats the call before it has come to its end by itself."""
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
        async with asyncio.timeout(ENDS_WITHIN_SECONDS):
            ended = False
            while not ended:
                await asyncio.sleep(0.2)
                ended = await ask(world, orders)
        tally = await world.tally(faults=1)

    assert all(order.acknowledged for order in orders)
    assert not tally.wrong, "\n\n".join(tally.wrong)


async def ask(world: World, orders: list[Order]) -> bool:
    """All of some payments or none; the accountant gets the answers. False: the first call is still in progress."""
    for order in orders:
        order.sent = True
    body = {"mode": "all-or-nothing", "payments": [{**order.body, "idempotencyKey": order.key} for order in orders]}
    answer = await world.clients.wire.call("POST", "/payment/bulk", body, token=orders[0].by.token)
    if answer.status == HTTPStatus.CONFLICT:
        return False
    assert answer.status == HTTPStatus.OK, answer
    for order, item in zip(orders, answer.body["items"], strict=True):
        order.answers.append(Answer(item["status"], item.get("payment") or item["problem"]))
    return True
