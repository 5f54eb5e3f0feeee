"""For each mutant what has to happen for it to do harm, and the check that must find the harm."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from tests.chaos import accountant
from tests.chaos.accountant import Check, Report
from tests.chaos.arming import Action, Arming
from tests.chaos.orders import Order
from tests.chaos.world import FUNDS, World, Worlds

COPIES = 20
FIRES_WITHIN_SECONDS = 5
GIVEN_SECONDS = 8.0
"""More than the six in which recovery and the relay of a restarted process are done."""

Scenario = Callable[[World], Awaitable[None]]

SETTLE_COMMITTED = Arming("commit.after", Action.KILL, "payment", "payment.settle.written")
BEGIN_COMMITTED = Arming("commit.after", Action.KILL, "payment", "payment.begin.written")
WALLET_COMMIT_FAILS = Arming("commit.before", Action.BROKEN, "wallet", "wallet.batch.written")


@dataclass(frozen=True, slots=True)
class Hunt:
    """A mutant by its name, what makes it do harm, and who finds it; in ``seconds`` the platform could mend it."""

    mutant: str
    scenario: Scenario
    found_by: Check
    seconds: float = 0.5


async def hunt(worlds: Worlds, wanted: Hunt, *, mutated: bool = True) -> Report:
    """Let the scenario happen, to the mutant or to the product as it is; the accountant's report."""
    async with worlds.world("together", mutant=wanted.mutant if mutated else "") as world:
        await wanted.scenario(world)
        return await world.audited(within_seconds=wanted.seconds if mutated else GIVEN_SECONDS)


# --- what has to happen -------------------------------------------------------------------------------------------


async def _credited(world: World) -> None:
    for _ in range(3):
        await world.clients.carry_out(world.credit(world.cast.customers[0], 5_00))


async def _credited_once(world: World) -> None:
    await world.clients.carry_out(world.credit(world.cast.customers[0], 5_00))


async def _paid(world: World) -> None:
    await world.clients.carry_out(_payment(world))


async def _paid_in_copies(world: World) -> None:
    order = _payment(world)
    await asyncio.gather(*(world.clients.carry_out(order) for _ in range(COPIES)))


async def _refused_and_asked_again(world: World) -> None:
    customer = world.cast.customers[0]
    order = world.debit(customer, FUNDS + 1_00)
    await world.clients.carry_out(order)
    await world.clients.carry_out(world.credit(customer, 1_00))
    await world.clients.carry_out(order)


async def _overdrawn(world: World) -> None:
    customers, merchants = world.cast.customers, world.cast.merchants
    await world.clients.carry_out(world.pay(customers[0], merchants[0], FUNDS + 1_00))


def _payment(world: World) -> Order:
    return world.pay(world.cast.customers[0], world.cast.merchants[0], 10_00)


def _while(arming: Arming, order_of: Callable[[World], Order] = _payment) -> Scenario:
    """An order while something happens; what that kills is started again."""

    async def scenario(world: World) -> None:
        trigger = await world.victims.arm("ewallet", arming)
        asking = asyncio.create_task(world.clients.carry_out(order_of(world), within_seconds=GIVEN_SECONDS))
        await trigger.fired(FIRES_WITHIN_SECONDS)
        if arming.action == Action.KILL:
            await world.victims.restart("ewallet")
        await asking

    return scenario


def _credit(world: World) -> Order:
    return world.credit(world.cast.customers[0], 5_00)


HUNTS = (
    Hunt(
        "a_failed_commit_is_answered_as_success",
        _while(WALLET_COMMIT_FAILS, _credit),
        accountant.what_was_acknowledged_is_there,
    ),
    Hunt(
        "a_refusal_is_not_kept",
        _refused_and_asked_again,
        accountant.nothing_is_posted_that_was_not_asked_or_was_refused,
    ),
    Hunt(
        "a_key_is_checked_and_then_written",
        _paid_in_copies,
        accountant.one_payment_a_key_and_one_posting_a_step,
    ),
    Hunt(
        "the_fee_is_booked_afterwards",
        _while(Arming("payment.settle.before", Action.KILL)),
        accountant.every_group_is_whole,
    ),
    Hunt(
        "a_balance_is_read_before_it_is_locked",
        _credited,
        accountant.every_balance_is_the_sum_of_its_entries_and_was_never_below_zero,
    ),
    Hunt(
        "nobody_looks_for_more_than_there_is",
        _overdrawn,
        accountant.every_balance_is_the_sum_of_its_entries_and_was_never_below_zero,
    ),
    Hunt(
        "nobody_finishes_what_a_dead_process_began",
        _while(BEGIN_COMMITTED),
        accountant.every_payment_has_ended,
    ),
    Hunt(
        "a_timeout_is_taken_for_a_refusal",
        _while(Arming("payment.move.after", Action.LOST)),
        accountant.success_is_what_was_posted_and_kept,
    ),
    Hunt(
        "a_timeout_is_compensated",
        _while(Arming("payment.move.after", Action.LOST)),
        accountant.every_group_is_whole,
    ),
    Hunt(
        "an_event_is_written_after_the_commit",
        _while(SETTLE_COMMITTED),
        accountant.everybody_is_told_once,
        seconds=GIVEN_SECONDS,
    ),
    Hunt(
        "an_event_is_not_known_again",
        _while(Arming("relay.deliver.after", Action.KILL, "payment")),
        accountant.everybody_is_told_once,
        seconds=GIVEN_SECONDS,
    ),
    Hunt("an_audit_record_is_dropped", _paid, accountant.the_audit_is_whole),
)
