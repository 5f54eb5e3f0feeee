"""Payments with the real wallet: whatever happens on the way, the books of both agree to the last minor unit."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

import pytest

from ewallet.kernel.caller import Role
from ewallet.kernel.errors import OutcomeUnknown, Refusal, Refused
from ewallet.payment import messages
from ewallet.payment.service import PaymentService
from ewallet.payment.worker import Recovery
from ewallet.wallet.domain.wallets import Change
from ewallet.wallet.messages import GroupOrder, GroupOutcome, OpenWallet
from ewallet.wallet.service import WalletService
from tests.conftest import Backend
from tests.support.payment import (
    ADMIN,
    CUSTOMER,
    HOLD_SECONDS,
    MERCHANT,
    STRANGER,
    TWO_PERCENT,
    HandClock,
    caller,
    order,
    outbox_events,
    paid,
    pay,
    payment_database,
)
from tests.support.wallet import available, open_wallet, running_wallet

FUNDS = 100_000


@dataclass
class LossyWallet:
    """The wallet behind a line that loses requests and replies, each with the same odds."""

    wallet: WalletService
    random: random.Random
    odds: float = 0.0
    lost: int = field(default=0)

    async def open_wallet(self, order: OpenWallet) -> None:
        await self.wallet.open_wallet(order)

    async def post_group(self, order: GroupOrder) -> GroupOutcome:
        self._maybe_lose("request")
        outcome = await self.wallet.post_group(order)
        self._maybe_lose("reply")
        return outcome

    async def try_group(self, order: GroupOrder) -> GroupOutcome:
        return await self.wallet.try_group(order)

    async def abandon_group(self, order: GroupOrder) -> GroupOutcome:
        return await self.wallet.abandon_group(order)

    def _maybe_lose(self, what: str) -> None:
        if self.random.random() < self.odds:
            self.lost += 1
            raise OutcomeUnknown(f"the {what} was lost")


@dataclass
class Platform:
    payment: PaymentService
    wallet: WalletService
    line: LossyWallet
    clock: HandClock
    events: Callable[[], int]

    async def balances(self) -> tuple[int, int]:
        return await available(self.wallet, CUSTOMER), await available(self.wallet, MERCHANT)


@pytest.fixture(params=["sqlite", "mariadb"])
async def platform(
    request: pytest.FixtureRequest, fresh_databases: Callable[[Backend], dict[str, str]]
) -> AsyncIterator[Platform]:
    """Payment and wallet with a database each; CUSTOMER has money, MERCHANT and STRANGER have none."""
    urls = fresh_databases(request.param)
    with payment_database(urls["payment"]) as database:
        async with running_wallet(urls["wallet"]) as wallet:
            await open_wallet(wallet, CUSTOMER, amount=FUNDS)
            await open_wallet(wallet, STRANGER)
            await open_wallet(wallet, MERCHANT, role=Role.MERCHANT)
            line, clock = LossyWallet(wallet, random.Random(7)), HandClock()
            payment = PaymentService(
                database,
                line,
                fees=TWO_PERCENT,
                hold_seconds=HOLD_SECONDS,
                clock=clock,
                events_added=lambda: None,
                request_seconds=2.0,
            )
            yield Platform(payment, wallet, line, clock, lambda: len(outbox_events(database)))
            assert payment.verify() == []
            assert wallet.verify() == []


async def fail(platform: Platform, asked: messages.InitiatePayment) -> str:
    """The reason why a payment failed."""
    refusal = (await pay(platform.payment, asked)).answer
    assert isinstance(refusal, Refusal), refusal
    return str(refusal.members["failureReason"])


async def test_what_the_customer_pays_is_what_merchant_and_fees_receive(platform: Platform) -> None:
    amounts = [1, 24, 25, 26, 74, 75, 76, 12_345]

    payments = [await paid(platform.payment, order(amount=amount)) for amount in amounts]

    assert await platform.balances() == (FUNDS - sum(amounts), sum(payment.net_amount for payment in payments))
    assert [payment.amount - payment.fee for payment in payments] == [payment.net_amount for payment in payments]
    assert [payment.fee for payment in payments] == [TWO_PERCENT.fee_on(amount, "USD") for amount in amounts]


@pytest.mark.parametrize(("change", "reason"), [(Change.FREEZE, "WALLET_FROZEN"), (Change.CLOSE, "WALLET_CLOSED")])
async def test_money_neither_reaches_nor_leaves_a_wallet_that_may_not_move_it(
    platform: Platform, change: Change, reason: str
) -> None:
    changed = await platform.wallet.change_status(ADMIN, MERCHANT, change, "a reason")
    assert not isinstance(changed, Refusal)

    assert await fail(platform, order()) == reason
    if change is Change.FREEZE:
        await platform.wallet.change_status(ADMIN, MERCHANT, Change.UNFREEZE, "a reason")
        await platform.wallet.change_status(ADMIN, CUSTOMER, Change.FREEZE, "a reason")
        assert await fail(platform, order()) == reason
    assert await platform.balances() == (FUNDS, 0)


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        (order(amount=FUNDS + 1), "INSUFFICIENT_FUNDS"),
        (order(currency="EUR"), "CURRENCY_MISMATCH"),
        (order(STRANGER), "UNKNOWN_MERCHANT"),
        (order(CUSTOMER), "UNKNOWN_MERCHANT"),
        (order("usr_nobody"), "UNKNOWN_MERCHANT"),
        (order("cash"), "UNKNOWN_MERCHANT"),
        (order("fees"), "UNKNOWN_MERCHANT"),
        (order("a:USD"), "UNKNOWN_MERCHANT"),
    ],
)
async def test_what_the_wallet_refuses_moves_nothing(
    platform: Platform, asked: messages.InitiatePayment, reason: str
) -> None:
    assert await fail(platform, asked) == reason
    assert await platform.balances() == (FUNDS, 0)


async def test_of_200_concurrent_payments_exactly_those_succeed_that_there_is_money_for(platform: Platform) -> None:
    answers = await asyncio.gather(*(pay(platform.payment, order(amount=FUNDS // 10)) for _ in range(200)))

    assert sum(isinstance(answered.answer, messages.Payment) for answered in answers) == 10
    assert await platform.balances() == (0, FUNDS // 100 * 98)
    assert platform.events() == 200


async def test_a_line_that_loses_every_third_message_loses_no_money(platform: Platform) -> None:
    """Requests and replies get lost, clients repeat with the same key, recovery does the rest: each is paid once."""
    platform.line.odds = 1 / 3

    asked = [
        platform.payment.initiate(caller(), order(amount=100), f"key-{number}")
        for number in range(60)
        for _ in range(3)
    ]
    outcomes = await asyncio.gather(*asked, return_exceptions=True)

    unclear = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
    assert all(isinstance(error, Refused) and error.refusal.status == 504 for error in unclear)
    platform.line.odds = 0
    platform.clock.forward(seconds=6)
    await Recovery(platform.payment.saga).run_once()

    answers = await asyncio.gather(*(pay(platform.payment, order(amount=100), f"key-{n}") for n in range(60)))
    assert platform.line.lost > 0
    assert all(answered.replayed for answered in answers)
    assert await platform.balances() == (FUNDS - 60 * 100, 60 * 98)
    assert platform.events() == 60
