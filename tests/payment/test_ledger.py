"""Payments with the real wallet: whatever happens on the way, the books of both agree to the last minor unit."""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field

import pytest

from ewallet.kernel.caller import Role
from ewallet.kernel.clock import system_clock
from ewallet.kernel.errors import OutcomeUnknown, Reason, Refusal, Refused
from ewallet.payment import messages
from ewallet.payment.service import PaymentService
from ewallet.payment.worker import Recovery
from ewallet.wallet.domain.wallets import Change
from ewallet.wallet.messages import CreditBooked, CreditOrder, CreditOutcome, GroupOrder, GroupOutcome, OpenWallet
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
    authorized,
    caller,
    capture,
    now,
    order,
    outbox_events,
    paid,
    pay,
    payment_database,
    payment_of,
    payment_service,
    refund,
    refund_of,
    refused,
    void,
)
from tests.support.verifying import faults_in
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

    async def post_linked(self, orders: Sequence[GroupOrder]) -> Sequence[GroupOutcome]:
        self._maybe_lose("request")
        outcomes = await self.wallet.post_linked(orders)
        self._maybe_lose("reply")
        return outcomes

    async def try_group(self, order: GroupOrder) -> GroupOutcome:
        return await self.wallet.try_group(order)

    async def abandon_group(self, order: GroupOrder) -> GroupOutcome:
        return await self.wallet.abandon_group(order)

    async def book_credit(self, order: CreditOrder) -> CreditOutcome:
        self._maybe_lose("request")
        outcome = await self.wallet.book_credit(order)
        self._maybe_lose("reply")
        return outcome

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
                request_seconds=20.0,  # that of 200 at once every answer comes, on a busy machine too
            )
            yield Platform(payment, wallet, line, clock, lambda: len(outbox_events(database)))
            assert faults_in(payment) == []
            assert faults_in(wallet) == []


async def test_credits_in_bulk_over_a_line_that_loses_things_are_booked_once(platform: Platform) -> None:
    """Whatever was not answered is asked for again, in calls that become shorter."""
    orders = [
        messages.CreditInBulk(customer_id=STRANGER, amount=10 + number, currency="USD", reference=f"salary-{number}")
        for number in range(50)
    ]
    platform.line.odds = 0.3
    back_end, unanswered = caller("cli_payroll", Role.SERVICE), orders
    for _ in range(40):
        outcomes = await platform.payment.credit_each(back_end, unanswered)
        answers = zip(unanswered, outcomes, strict=True)
        unanswered = [order for order, outcome in answers if not isinstance(outcome, CreditBooked)]
        if not unanswered:
            break

    assert not unanswered
    assert platform.line.lost > 0
    assert await available(platform.wallet, STRANGER) == sum(order.amount for order in orders)


async def test_a_limit_that_stands_against_a_payment_is_named_and_named_again(
    fresh_databases: Callable[[Backend], dict[str, str]],
) -> None:
    urls = fresh_databases("sqlite")
    with payment_database(urls["payment"]) as database:
        async with running_wallet(urls["wallet"], limits="USD=per_day:1000") as wallet:
            await open_wallet(wallet, CUSTOMER, amount=FUNDS)
            await open_wallet(wallet, MERCHANT, role=Role.MERCHANT)
            service = payment_service(database, wallet)
            held = await authorized(service, 700)

            first = await pay(service, order(amount=301), "key")
            copy = await pay(service, order(amount=301), "key")

            assert refused(first).reason is Reason.LIMIT_EXCEEDED
            assert refused(first).members["left"] == 300
            assert (copy.answer, copy.replayed) == (first.answer, True)
            await capture(service, held, amount=500)
            assert (await paid(service, order(amount=500))).status == "SUCCESS", "what was not captured counts no more"


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


# --- holds and refunds --------------------------------------------------------------------------------------------


async def wallet_of(platform: Platform, owner: str) -> tuple[int, int]:
    """What is available and what is held."""
    wallet = await platform.wallet.wallet(ADMIN, owner)
    assert not isinstance(wallet, Refusal)
    return wallet.balances[0].available, wallet.balances[0].held


async def test_a_hold_a_capture_and_refunds_leave_the_books_in_balance(platform: Platform) -> None:
    service = platform.payment
    payment_id = await authorized(service, 1000)
    assert await wallet_of(platform, CUSTOMER) == (FUNDS - 1000, 1000)

    captured = payment_of(await capture(service, payment_id, amount=750))
    assert (captured.fee, await platform.balances()) == (15, (FUNDS - 750, 735))
    refunds = [refund_of(await refund(service, payment_id, amount=amount)) for amount in (250, 485)]

    assert {each.status for each in refunds} == {"SUCCESS"}
    assert await platform.balances() == (FUNDS - 15, 0)
    assert refused(await refund(service, payment_id)).reason is Reason.INSUFFICIENT_FUNDS
    assert await wallet_of(platform, CUSTOMER) == (FUNDS - 15, 0)


async def test_of_200_concurrent_holds_exactly_those_are_placed_that_there_is_money_for(platform: Platform) -> None:
    asked = order(amount=FUNDS // 10, capture=False)

    answers = [
        answered.answer for answered in await asyncio.gather(*(pay(platform.payment, asked) for _ in range(200)))
    ]

    held = [answer for answer in answers if isinstance(answer, messages.Payment)]
    assert len(held) == 10
    assert await wallet_of(platform, CUSTOMER) == (0, FUNDS)
    ends = [capture if number % 2 else void for number in range(10)]
    await asyncio.gather(
        *(end(platform.payment, payment.transaction_id) for end, payment in zip(ends, held, strict=True))
    )
    assert await wallet_of(platform, CUSTOMER) == (FUNDS // 2, 0)


@pytest.mark.parametrize("frozen", [CUSTOMER, MERCHANT], ids=["customer", "merchant"])
async def test_frozen_money_is_neither_held_nor_captured_nor_refunded_but_released(
    platform: Platform, frozen: str
) -> None:
    """A hold may end while a wallet is frozen, because nothing moves then; MISTAKES 21."""
    service = platform.payment
    to_capture, to_void = await authorized(service), await authorized(service)
    to_refund = (await paid(service, order())).transaction_id
    await platform.wallet.change_status(ADMIN, frozen, Change.FREEZE, "a reason")

    assert await fail(platform, order(capture=False)) == "WALLET_FROZEN"
    assert refused(await capture(service, to_capture)).reason is Reason.WALLET_FROZEN
    assert refused(await refund(service, to_refund)).reason is Reason.WALLET_FROZEN
    assert payment_of(await void(service, to_void)).status == "VOIDED"

    await platform.wallet.change_status(ADMIN, frozen, Change.UNFREEZE, "a reason")
    assert payment_of(await capture(service, to_capture)).status == "SUCCESS"
    assert refund_of(await refund(service, to_refund)).status == "SUCCESS"


async def test_a_wallet_with_a_hold_does_not_close_and_nothing_goes_to_a_closed_one(platform: Platform) -> None:
    service = platform.payment
    payment_id = await authorized(service, FUNDS)
    for owner in (CUSTOMER, MERCHANT):
        closing = await platform.wallet.change_status(ADMIN, owner, Change.CLOSE, "a reason")
        assert isinstance(closing, Refusal)
        assert closing.reason is Reason.INVALID_STATE
    await capture(service, payment_id)
    await platform.wallet.change_status(ADMIN, CUSTOMER, Change.CLOSE, "a reason")

    assert refused(await refund(service, payment_id, amount=1)).reason is Reason.WALLET_CLOSED


async def test_an_expired_hold_is_free_again_and_stays_so(platform: Platform) -> None:
    """Both services end it, each by its own clock; whoever comes later finds it ended."""
    database = platform.payment._database
    short = PaymentService(
        database, platform.line, fees=TWO_PERCENT, hold_seconds=1, clock=system_clock, events_added=lambda: None
    )
    payment_id = await authorized(short)
    async with asyncio.timeout(20):
        while (await now(short, payment_id)).status == "AUTHORIZED":
            await Recovery(short.saga).run_once()
            await asyncio.sleep(0.05)
    await platform.wallet.expire_holds()

    assert (await now(short, payment_id)).status == "EXPIRED"
    assert await wallet_of(platform, CUSTOMER) == (FUNDS, 0)
    assert refused(await capture(short, payment_id)).reason is Reason.INVALID_STATE


async def test_a_line_that_loses_every_third_message_ends_each_hold_once(platform: Platform) -> None:
    service = platform.payment
    payment_ids = [await authorized(service, 100) for _ in range(30)]
    platform.line.odds = 1 / 3
    await asyncio.gather(
        *(end(service, payment_id) for payment_id in payment_ids for end in (capture, void)), return_exceptions=True
    )
    platform.line.odds = 0
    platform.clock.forward(seconds=6)
    await Recovery(service.saga).run_once()

    states = Counter([(await now(service, payment_id)).status for payment_id in payment_ids])

    assert platform.line.lost > 0
    assert states.keys() <= {"SUCCESS", "VOIDED"}
    assert await wallet_of(platform, CUSTOMER) == (FUNDS - 100 * states["SUCCESS"], 0)
    assert (await platform.balances())[1] == 98 * states["SUCCESS"]


async def test_a_quote_names_what_the_wallet_would_say_and_changes_no_balance(platform: Platform) -> None:
    async def reasons(amount: int, merchant_id: str = MERCHANT, currency: str = "USD") -> list[str]:
        asked = messages.QuotePayment(merchant_id=merchant_id, amount=amount, currency=currency)
        quote = await platform.payment.quote(caller(), asked)
        assert isinstance(quote, messages.Quote)
        assert quote.would_succeed == (not quote.reasons)
        return quote.reasons

    assert await reasons(FUNDS) == []
    assert await reasons(FUNDS + 1) == ["INSUFFICIENT_FUNDS"]
    assert await reasons(1, STRANGER) == ["UNKNOWN_MERCHANT"]
    assert await reasons(1, currency="EUR") == ["CURRENCY_MISMATCH"]
    await platform.wallet.change_status(ADMIN, MERCHANT, Change.FREEZE, "a reason")
    assert await reasons(1) == ["WALLET_FROZEN"]
    assert await platform.balances() == (FUNDS, 0)
