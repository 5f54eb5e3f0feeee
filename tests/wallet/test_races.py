"""Many at once: several wallet services on one database, as several processes would be, and what must hold then."""

import asyncio
import random
import threading
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import msgspec
import pytest
from sqlalchemy import event, text

from ewallet.kernel.caller import Role
from ewallet.kernel.errors import OutcomeUnknown, Reason, Refusal, unwrap
from ewallet.plumbing.database import open_database
from ewallet.wallet.domain.wallets import Change
from ewallet.wallet.messages import (
    GroupOrder,
    GroupPosted,
    GroupRefused,
    MoneyMoved,
    MoveMoney,
    OpenWallet,
    SetLimits,
    TransferKind,
)
from ewallet.wallet.service import WalletService
from tests.support.plumbing import ManualClock, before_each_statement
from tests.support.verifying import faults_in
from tests.support.wallet import (
    ADMIN,
    ALICE,
    BACK_END,
    BOB,
    CAROL,
    NOW,
    available,
    fresh,
    group,
    hold,
    open_wallet,
    payment,
    running_wallet,
    transfer,
)


@pytest.fixture
async def two_wallets(database_url: str) -> AsyncIterator[tuple[WalletService, WalletService]]:
    """Two services with connections of their own on one database."""
    async with running_wallet(database_url) as first, running_wallet(database_url) as second:
        yield first, second


Two = tuple[WalletService, WalletService]


@contextmanager
def meeting_before(statement: str, services: Two) -> Iterator[None]:
    """Let both services come to a statement before either goes on, where the database lets them.

    SQLite has one writer at a time: the first waits in vain for the second, and goes on.
    """
    barrier = threading.Barrier(2)

    def wait(running: str, _parameters: Sequence[Any]) -> None:
        if running.startswith(statement):
            with suppress(threading.BrokenBarrierError):
                barrier.wait(0.5 if services[0]._database.dialect == "sqlite" else 10)
            barrier.abort()

    with ExitStack() as stack:
        for service in services:
            stack.enter_context(before_each_statement(service._database, wait))
        yield


async def test_200_debits_of_10_from_100_exactly_ten_succeed(two_wallets: Two) -> None:
    await open_wallet(two_wallets[0], ALICE, amount=100_00)

    def debit(number: int) -> MoveMoney:
        return MoveMoney(customer_id=ALICE, amount=10_00, currency="USD", reference=f"withdrawal {number}")

    answers = await asyncio.gather(*(two_wallets[n % 2].debit(BACK_END, debit(n), None) for n in range(200)))

    refused = [moved.answer.reason for moved in answers if isinstance(moved.answer, Refusal)]
    assert refused == [Reason.INSUFFICIENT_FUNDS] * 190
    left = sorted(moved.answer.available for moved in answers if isinstance(moved.answer, MoneyMoved))
    assert left == [n * 10_00 for n in range(10)]
    assert await available(two_wallets[1], ALICE) == 0
    assert faults_in(two_wallets[0]) == []


async def test_3000_transfers_over_6_wallets_keep_every_cent(two_wallets: Two) -> None:
    owners = [f"usr_{number}" for number in range(6)]
    for owner in owners:
        await open_wallet(two_wallets[0], owner, amount=1_000)
    chance = random.Random(20)
    pairs = [chance.sample(owners, 2) for _ in range(3_000)]
    orders = [group(transfer(payer, payee, chance.randint(1, 400))) for payer, payee in pairs]

    outcomes = await asyncio.gather(*(two_wallets[n % 2].post_group(order) for n, order in enumerate(orders)))

    expected = Counter(dict.fromkeys(owners, 1_000))
    for order, outcome in zip(orders, outcomes, strict=True):
        if isinstance(outcome, GroupPosted):
            moved = order.transfers[0]
            expected[moved.debit_account.partition(":")[0]] -= moved.amount
            expected[moved.credit_account.partition(":")[0]] += moved.amount
    assert {owner: await available(two_wallets[0], owner) for owner in owners} == dict(expected)
    assert min(expected.values()) >= 0
    assert sum(expected.values()) == 6_000
    assert {outcome.reason for outcome in outcomes if isinstance(outcome, GroupRefused)} <= {Reason.INSUFFICIENT_FUNDS}
    assert faults_in(two_wallets[1]) == []


async def test_linked_groups_that_race_with_copies_and_tombstones_never_move_a_part(two_wallets: Two) -> None:
    """Ten bulks of four, money for six of them: copies in both processes, and for each a tombstone on its third."""
    await open_wallet(two_wallets[0], ALICE, amount=24_00)
    await open_wallet(two_wallets[0], BOB, role=Role.MERCHANT)
    bulks = [[payment(ALICE, BOB, 1_00, 2) for _ in range(4)] for _ in range(10)]

    asked = [wallet.post_linked(bulk) for bulk in bulks for wallet in two_wallets * 2]
    given_up = [two_wallets[number % 2].abandon_group(bulk[2]) for number, bulk in enumerate(bulks)]
    await asyncio.gather(*asked, *given_up)

    moved = 0
    for bulk in bulks:
        posted = [isinstance(outcome, GroupPosted) for outcome in await two_wallets[0].post_linked(bulk)]
        assert len(set(posted)) == 1
        moved += sum(posted)
    assert moved <= 24
    assert await available(two_wallets[1], ALICE) == 24_00 - moved * 1_00
    assert faults_in(two_wallets[0]) == []


async def test_one_reference_50_times_moves_once_and_answers_50_times_the_same(two_wallets: Two) -> None:
    await open_wallet(two_wallets[0], ALICE)
    request = MoveMoney(customer_id=ALICE, amount=5, currency="USD", reference="salary")

    answers = await asyncio.gather(*(two_wallets[n % 2].credit(BACK_END, request, "key") for n in range(50)))

    assert len({msgspec.json.encode(moved.answer) for moved in answers}) == 1
    assert [moved.replayed for moved in answers].count(False) == 1
    assert await available(two_wallets[0], ALICE) == 5


async def test_one_key_for_two_references_moves_once_and_tells_the_other(two_wallets: Two) -> None:
    """Two currencies, so that not even ``cash`` is common to both: only the key's unique row can decide."""
    wanted = {"USD": ALICE, "EUR": BOB}
    for currency, owner in wanted.items():
        await open_wallet(two_wallets[0], owner, currency=currency)
    requests = [
        MoveMoney(customer_id=owner, amount=5, currency=currency, reference=f"for {owner}")
        for currency, owner in wanted.items()
    ]

    with meeting_before("INSERT INTO wallet_keys", two_wallets):
        answers = await asyncio.gather(
            *(each.credit(BACK_END, request, "key") for each, request in zip(two_wallets, requests, strict=True))
        )

    reasons = [moved.answer.reason for moved in answers if isinstance(moved.answer, Refusal)]
    assert reasons == [Reason.IDEMPOTENCY_KEY_REUSED]
    assert sorted([await available(two_wallets[0], owner, currency) for currency, owner in wanted.items()]) == [0, 5]
    assert faults_in(two_wallets[0]) == []


async def test_one_id_for_orders_without_a_common_account_is_decided_once(two_wallets: Two) -> None:
    """No lock makes one wait for the other: the unique id decides, and the loser learns which field differs."""
    for owner in ("usr_1", "usr_2", "usr_3", "usr_4"):
        await open_wallet(two_wallets[0], owner, amount=100)
    orders = [group(transfer("usr_1", "usr_2", 1), id_="grp_1"), group(transfer("usr_3", "usr_4", 1), id_="grp_1")]

    with meeting_before("INSERT INTO wallet_groups", two_wallets):
        outcomes = await asyncio.gather(
            *(each.post_group(order) for each, order in zip(two_wallets, orders, strict=True))
        )

    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["GroupPosted", "GroupRefused"]
    refused = next(outcome for outcome in outcomes if isinstance(outcome, GroupRefused))
    assert refused.reason is Reason.IDEMPOTENCY_KEY_REUSED
    assert "transfers[0].id" in refused.detail
    assert faults_in(two_wallets[0]) == []


async def test_one_id_for_the_same_refused_order_gets_one_answer(two_wallets: Two) -> None:
    order = payment("usr_nobody", "usr_noone", 100, 2)

    with meeting_before("INSERT INTO wallet_groups", two_wallets):
        first, second = await asyncio.gather(*(each.post_group(order) for each in two_wallets))

    assert isinstance(first, GroupRefused)
    assert first == second


@pytest.mark.parametrize(
    ("order", "meeting"),
    [
        (group(transfer(ALICE, BOB, 100)), "SELECT id, owner, role"),
        (group(transfer("usr_nobody", "usr_noone", 100)), "INSERT INTO wallet_groups"),
    ],
    ids=["the lock of an account", "the unique id"],
)
async def test_an_order_posted_and_given_up_at_once_has_one_outcome(
    two_wallets: Two, order: GroupOrder, meeting: str
) -> None:
    await open_wallet(two_wallets[0], ALICE, amount=100)
    await open_wallet(two_wallets[0], BOB)

    with meeting_before(meeting, two_wallets):
        posted, abandoned = await asyncio.gather(two_wallets[0].post_group(order), two_wallets[1].abandon_group(order))

    assert posted == abandoned
    assert await available(two_wallets[1], ALICE) == (0 if isinstance(posted, GroupPosted) else 100)
    assert faults_in(two_wallets[0]) == []


@pytest.mark.parametrize("table", ["wallet_wallets", "wallet_accounts"])
async def test_two_who_open_the_same_at_the_same_moment_end_with_one(two_wallets: Two, table: str) -> None:
    """With ``wallet_accounts`` they open wallets of two people and meet at the platform's new accounts."""
    owners = (ALICE, ALICE) if table == "wallet_wallets" else (ALICE, BOB)

    with meeting_before(f"INSERT INTO {table}", two_wallets):
        await asyncio.gather(*(open_wallet(each, owner) for each, owner in zip(two_wallets, owners, strict=True)))

    for owner in owners:
        assert await available(two_wallets[0], owner) == 0
    assert faults_in(two_wallets[0]) == []


async def test_a_refusal_without_any_account_is_decided_once(two_wallets: Two) -> None:
    order = payment("usr_nobody", "usr_noone", 100, 2)

    outcomes = await asyncio.gather(*(two_wallets[n % 2].post_group(order) for n in range(20)))

    assert outcomes == [outcomes[0]] * 20
    assert isinstance(outcomes[0], GroupRefused)


async def test_opposite_transfers_in_parallel_all_end_without_an_error(two_wallets: Two) -> None:
    """Locked in no order, more than half of these would die in a deadlock."""
    for owner in (ALICE, BOB, CAROL):
        await open_wallet(two_wallets[0], owner, amount=100_000)
    pairs = [(ALICE, BOB), (BOB, ALICE), (BOB, CAROL), (CAROL, BOB), (CAROL, ALICE), (ALICE, CAROL)]

    async def lonely(number: int) -> object:
        return await two_wallets[number % 2].post_group(group(transfer(*pairs[number % 6], 1)))

    outcomes = [outcome for _ in range(10) for outcome in await asyncio.gather(*(lonely(n) for n in range(30)))]

    assert {type(outcome) for outcome in outcomes} == {GroupPosted}
    assert faults_in(two_wallets[0]) == []


async def test_200_holds_at_once_never_hold_more_than_there_is(two_wallets: Two) -> None:
    await open_wallet(two_wallets[0], ALICE, amount=100)
    await open_wallet(two_wallets[0], BOB)
    orders = [group(transfer(ALICE, BOB, 7, kind=TransferKind.PENDING)) for _ in range(200)]

    outcomes = await asyncio.gather(*(two_wallets[n % 2].post_group(order) for n, order in enumerate(orders)))

    assert [type(outcome) for outcome in outcomes].count(GroupPosted) == 14
    assert await available(two_wallets[0], ALICE) == 2
    assert faults_in(two_wallets[0]) == []


# --- limits -------------------------------------------------------------------------------------------------------


@pytest.fixture
async def two_limited(database_url: str) -> AsyncIterator[Two]:
    """Two services on one database where 100.00 may be spent a day; Alice has 1000.00, Bob is a merchant."""
    limits = "USD=per_day:10000"  # and the clocks stand still, so that no midnight comes in between
    async with (
        running_wallet(database_url, clock=lambda: NOW, limits=limits) as first,
        running_wallet(database_url, clock=lambda: NOW, limits=limits) as second,
    ):
        await open_wallet(first, ALICE, amount=1000_00)
        await open_wallet(first, BOB, role=Role.MERCHANT)
        yield first, second


async def spent_today(wallet: WalletService) -> int:
    [view] = unwrap(await wallet.limits(ADMIN, ALICE)).limits
    return view.spent_today


async def test_200_payments_of_10_with_a_limit_of_100_a_day_exactly_ten_succeed(two_limited: Two) -> None:
    orders = [payment(ALICE, BOB, 10_00, 20) for _ in range(200)]

    outcomes = await asyncio.gather(*(two_limited[n % 2].post_group(order) for n, order in enumerate(orders)))

    refused = [outcome for outcome in outcomes if isinstance(outcome, GroupRefused)]
    assert {outcome.reason for outcome in refused} == {Reason.LIMIT_EXCEEDED}
    assert {outcome.members["left"] for outcome in refused} == {0}
    assert len(outcomes) - len(refused) == 10
    assert await available(two_limited[1], ALICE) == 900_00
    assert await spent_today(two_limited[1]) == 100_00
    assert faults_in(two_limited[0]) == []


async def test_holds_made_and_ended_at_once_never_pass_the_limit_and_are_counted_exactly(two_limited: Two) -> None:
    """What one releases another may take: in the order of the ledger, no moment has more than the limit."""
    chance = random.Random(7)

    async def hold_and_end(number: int) -> int:
        first, second = two_limited[number % 2], two_limited[number // 2 % 2]
        amount, kind = chance.randint(5_00, 30_00), chance.choice([TransferKind.VOID, TransferKind.POST])
        order = hold(ALICE, BOB, amount)
        if isinstance(await first.post_group(order), GroupRefused):
            return 0
        ended = amount if kind is TransferKind.VOID else amount // 2
        end = transfer(ALICE, BOB, ended, kind=kind, pending_id=order.transfers[0].id)
        assert isinstance(await second.post_group(group(end)), GroupPosted)
        return 0 if kind is TransferKind.VOID else ended

    taken = sum(await asyncio.gather(*(hold_and_end(number) for number in range(120))))

    assert 0 < taken <= 100_00
    assert await spent_today(two_limited[0]) == taken
    assert max(spent_at_each_step(two_limited[0])) <= 100_00
    assert faults_in(two_limited[1]) == []


def spent_at_each_step(wallet: WalletService) -> Iterator[int]:
    """What Alice had spent after each transfer, recomputed from the transfers alone."""
    columns = "SELECT id, kind, amount, pending_id FROM wallet_transfers"
    query = text(f"{columns} WHERE debit_account = 'usr_alice:USD' ORDER BY sequence")
    held: dict[str, int] = {}
    spent = 0
    for id_, kind, amount, pending_id in wallet._database.read(lambda tx: tx.execute(query).all()):
        if kind == TransferKind.PENDING:
            held[id_] = amount
            spent += amount
        else:
            spent -= held.pop(pending_id) - (amount if kind == TransferKind.POST else 0)
        yield spent


async def test_a_limit_lowered_amid_payments_holds_for_all_that_come_after_it(two_limited: Two) -> None:
    paying = [asyncio.create_task(two_limited[n % 2].post_group(payment(ALICE, BOB, 1_00, 2))) for n in range(60)]

    lower = SetLimits(per_payment=None, per_day=5_00, per_month=None)
    await two_limited[1].change_limits(ADMIN, ALICE, "USD", lower)
    spent = await spent_today(two_limited[0])
    late = await asyncio.gather(*(each.post_group(payment(ALICE, BOB, 1_00, 2)) for each in two_limited * 5))
    outcomes = [*await asyncio.gather(*paying), *late]

    assert await spent_today(two_limited[0]) == max(spent, 5_00)
    assert [type(outcome) for outcome in outcomes].count(GroupPosted) * 1_00 == max(spent, 5_00)


async def test_limits_set_and_taken_away_at_once_end_as_one_of_the_two(two_limited: Two) -> None:
    own = SetLimits(per_payment=1, per_day=2, per_month=3)

    for wanted in [(own, None), (None, own)] * 5:
        await asyncio.gather(
            *(each.change_limits(ADMIN, ALICE, "USD", limits) for each, limits in zip(two_limited, wanted, strict=True))
        )
        [view] = unwrap(await two_limited[0].limits(ADMIN, ALICE)).limits
        assert (view.overridden, view.per_payment, view.per_day) in ((True, 1, 2), (False, None, 100_00))


# --- holds, wallets, answers --------------------------------------------------------------------------------------


async def test_a_hold_is_posted_voided_or_expired_once_whoever_is_first(two_wallets: Two) -> None:
    await open_wallet(two_wallets[0], ALICE, amount=100)
    await open_wallet(two_wallets[0], BOB)
    held = transfer(ALICE, BOB, 60, kind=TransferKind.PENDING)
    await two_wallets[0].post_group(group(held))
    ends = [
        group(transfer(ALICE, BOB, 60, kind=kind, pending_id=held.id))
        for kind in (TransferKind.POST, TransferKind.VOID) * 10
    ]

    outcomes = await asyncio.gather(*(two_wallets[n // 2 % 2].post_group(order) for n, order in enumerate(ends)))

    assert [type(outcome) for outcome in outcomes].count(GroupPosted) == 1
    assert {outcome.reason for outcome in outcomes if isinstance(outcome, GroupRefused)} == {Reason.INVALID_STATE}
    assert faults_in(two_wallets[0]) == []


async def test_a_hold_that_two_workers_expire_at_once_is_released_once(database_url: str) -> None:
    clock = ManualClock(NOW)
    async with running_wallet(database_url, clock=clock) as first, running_wallet(database_url, clock=clock) as second:
        await open_wallet(first, ALICE, amount=100)
        await open_wallet(first, BOB)
        await first.post_group(hold(ALICE, BOB, 60, timeout_seconds=10))
        clock.pass_seconds(10)

        with meeting_before("SELECT id, owner, role", (first, second)):
            released = await asyncio.gather(first.expire_holds(), second.expire_holds())

        assert sorted(released) == [0, 1]
        assert await available(second, ALICE) == 100
        assert faults_in(first) == []


async def test_a_hold_that_one_process_calls_expired_no_other_one_finishes(database_url: str) -> None:
    """Their clocks differ: the one behind would still find the hold alive, and the payment would have two ends."""
    clock, ahead = ManualClock(NOW), ManualClock(NOW)
    async with running_wallet(database_url, clock=ahead) as first, running_wallet(database_url, clock=clock) as second:
        await open_wallet(second, ALICE, amount=100)
        await open_wallet(second, BOB)
        held = transfer(ALICE, BOB, 60, kind=TransferKind.PENDING, timeout_seconds=10)
        await second.post_group(group(held))
        clock.pass_seconds(9)
        ahead.pass_seconds(10)
        void, post = (
            group(transfer(ALICE, BOB, 1), transfer(ALICE, BOB, 60, kind=kind, pending_id=held.id))
            for kind in (TransferKind.VOID, TransferKind.POST)
        )

        refusals = [await first.post_group(void), await second.post_group(post)]

        assert [refusal.verdict for refusal in refusals if isinstance(refusal, GroupRefused)] == [
            "pending_transfer_expired",
            "pending_transfer_expired",
        ]
        assert await available(second, ALICE) == 100
        assert faults_in(second) == []


async def test_one_wallet_opened_by_two_at_once_is_one_wallet(two_wallets: Two) -> None:
    """The second of them, or of the platform's accounts, must not overwrite money that is there meanwhile."""
    orders = [
        OpenWallet(owner=owner, role=Role.CUSTOMER, currency=currency, actor="a", request_id="r")
        for owner in (ALICE, BOB)
        for currency in ("USD", "EUR", "JPY")
    ]

    await asyncio.gather(*(each.open_wallet(order) for order in orders for each in two_wallets))

    view = await two_wallets[0].wallet(ADMIN, ALICE)
    assert not isinstance(view, Refusal)
    assert [balance.currency for balance in view.balances] == ["EUR", "JPY", "USD"]


async def test_a_wallet_frozen_amid_payments_has_not_paid_after_it(two_wallets: Two) -> None:
    await open_wallet(two_wallets[0], ALICE, amount=1_000)
    await open_wallet(two_wallets[0], BOB, role=Role.MERCHANT)
    paying = [asyncio.create_task(two_wallets[n % 2].post_group(payment(ALICE, BOB, 10, 1))) for n in range(60)]

    frozen = await two_wallets[1].change_status(ADMIN, ALICE, Change.FREEZE, "a doubt")
    after = await available(two_wallets[0], ALICE)
    outcomes = await asyncio.gather(*paying)

    assert not isinstance(frozen, Refusal)
    assert await available(two_wallets[0], ALICE) == after
    assert 1_000 - after == 10 * [type(outcome) for outcome in outcomes].count(GroupPosted)


async def test_a_balance_opened_while_the_wallet_is_frozen_is_frozen(two_wallets: Two) -> None:
    await open_wallet(two_wallets[0], ALICE)

    await asyncio.gather(
        two_wallets[0].change_status(ADMIN, ALICE, Change.FREEZE, "a doubt"),
        two_wallets[1].open_balance(ADMIN, ALICE, "EUR"),
    )
    request = MoveMoney(customer_id=ALICE, amount=5, currency="EUR", reference=fresh("ref"))
    moved = await two_wallets[0].credit(BACK_END, request, None)

    assert isinstance(moved.answer, Refusal)
    assert moved.answer.reason is Reason.WALLET_FROZEN


async def test_a_commit_that_fails_has_moved_nothing_and_the_same_id_succeeds(database_url: str) -> None:
    async with running_wallet(database_url) as wallet:
        await open_wallet(wallet, ALICE, amount=100)
        await open_wallet(wallet, BOB)
        order = group(transfer(ALICE, BOB, 10))
        engine = wallet._database._writer

        def fail(_connection: object) -> None:
            raise OutcomeUnknown("the disk is gone")

        event.listen(engine, "commit", fail)
        with pytest.raises(OutcomeUnknown):
            await wallet.post_group(order)
        event.remove(engine, "commit", fail)

        assert await available(wallet, ALICE) == 100
        assert isinstance(await wallet.post_group(order), GroupPosted)
        assert await available(wallet, ALICE) == 90


async def test_a_lost_answer_is_found_again_by_another_process(database_url: str) -> None:
    """The money has moved, the process died before it could say so; the same order then says that it has."""
    async with running_wallet(database_url) as dying:
        await open_wallet(dying, ALICE, amount=100)
        await open_wallet(dying, BOB)
        order = group(transfer(ALICE, BOB, 10))
        first = await dying.post_group(order)

    database = open_database(database_url, "wallet")
    try:
        heir = WalletService(database, clock=lambda: 1)
        assert await heir.post_group(order) == first
        assert await available(heir, ALICE) == 90
    finally:
        database.close()


async def test_a_client_that_goes_away_leaves_nothing_locked(two_wallets: Two) -> None:
    await open_wallet(two_wallets[0], ALICE, amount=100)
    await open_wallet(two_wallets[0], BOB)
    gone = asyncio.create_task(two_wallets[0].post_group(group(transfer(ALICE, BOB, 10))))
    await asyncio.sleep(0)
    gone.cancel()
    await asyncio.wait([gone])

    async with asyncio.timeout(3):
        assert isinstance(await two_wallets[1].post_group(group(transfer(ALICE, BOB, 10))), GroupPosted)
    assert faults_in(two_wallets[0]) == []
