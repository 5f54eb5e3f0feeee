"""Payments that are carried out all or none: whatever happens on the way, never a part of them."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ewallet.kernel.caller import Caller, Role
from ewallet.kernel.clock import system_clock
from ewallet.kernel.errors import OutcomeUnknown, Reason, Refusal, Refused
from ewallet.payment import messages, store
from ewallet.payment.domain.fees import FeeSchedule
from ewallet.payment.domain.operations import Intent
from ewallet.payment.domain.payments import PaymentStatus
from ewallet.payment.messages import MAXIMUM_BULK
from ewallet.payment.saga import GIVE_UP_SECONDS, LEASE_SECONDS
from ewallet.payment.service import Answered, PaymentService
from ewallet.payment.worker import Recovery
from ewallet.plumbing.http.doors import Door
from ewallet.wallet.client import HttpWallet
from ewallet.wallet.messages import CreditOrder, CreditOutcome, GroupOrder, GroupOutcome, OpenWallet
from ewallet.wallet.service import WalletService
from tests.conftest import Backend
from tests.support.payment import (
    CUSTOMER,
    MERCHANT,
    STRANGER,
    HandClock,
    bearer,
    caller,
    outbox_events,
    payment_database,
    payment_of,
    payment_service,
    refused,
    served,
)
from tests.support.verifying import faults_in
from tests.support.wallet import INTERNAL_SECRET, available, open_wallet, running_wallet, served_wallet

FUNDS = 10_000
BULK = "/payment/bulk"


class DiedError(Exception):
    """The process has come to its end here."""


@dataclass
class Line:
    """The way to the real wallet, on which the next calls about a bulk can be lost, before or behind the wallet."""

    wallet: WalletService
    losses: list[str] = field(default_factory=list)
    sent: list[int] = field(default_factory=list)
    always: str = ""

    async def open_wallet(self, order: OpenWallet) -> None:
        await self.wallet.open_wallet(order)

    async def post_group(self, order: GroupOrder) -> GroupOutcome:
        return await self.wallet.post_group(order)

    async def post_linked(self, orders: Sequence[GroupOrder]) -> Sequence[GroupOutcome]:
        self.sent.append(len(orders))
        loss = self.losses.pop(0) if self.losses else self.always
        if loss == "request":
            raise OutcomeUnknown("the request was lost")
        if loss == "dies before":
            raise DiedError
        outcomes = await self.wallet.post_linked(orders)
        if loss == "reply":
            raise OutcomeUnknown("the reply was lost")
        if loss == "dies behind":
            raise DiedError
        return outcomes

    async def try_group(self, order: GroupOrder) -> GroupOutcome:
        return await self.wallet.try_group(order)

    async def abandon_group(self, order: GroupOrder) -> GroupOutcome:
        return await self.wallet.abandon_group(order)

    async def book_credit(self, order: CreditOrder) -> CreditOutcome:
        return await self.wallet.book_credit(order)


@dataclass
class Platform:
    payment: PaymentService
    another: PaymentService
    wallet: WalletService
    line: Line
    clock: HandClock
    events: Callable[[], int]

    async def recover(self) -> int:
        self.clock.forward(seconds=LEASE_SECONDS + 1)
        return await Recovery(self.another.saga).run_once()


@pytest.fixture(params=["sqlite", "mariadb"])
async def platform(
    request: pytest.FixtureRequest, fresh_databases: Callable[[Backend], dict[str, str]]
) -> AsyncIterator[Platform]:
    """Two processes of payment and a wallet; the books of all are in order at the end."""
    urls = fresh_databases(request.param)
    with payment_database(urls["payment"]) as one, payment_database(urls["payment"]) as two:
        async with running_wallet(urls["wallet"]) as wallet:
            await open_wallet(wallet, CUSTOMER, amount=FUNDS)
            await open_wallet(wallet, STRANGER)
            await open_wallet(wallet, MERCHANT, role=Role.MERCHANT)
            line, clock = Line(wallet), HandClock()
            first, second = (payment_service(each, line, clock=clock, request_seconds=5.0) for each in (one, two))
            yield Platform(first, second, wallet, line, clock, lambda: len(outbox_events(one)))
            assert faults_in(first) == []
            assert faults_in(wallet) == []


def in_bulk(key: str, *, amount: int = 1000, merchant_id: str = MERCHANT) -> messages.PaymentInBulk:
    return messages.PaymentInBulk(idempotency_key=key, merchant_id=merchant_id, amount=amount, currency="USD")


def many(number: int = 3, *, amount: int = 1000, name: str = "k") -> list[messages.PaymentInBulk]:
    return [in_bulk(f"{name}-{place}", amount=amount) for place in range(number)]


async def together(
    service: PaymentService, orders: Sequence[messages.PaymentInBulk], *, by: Caller | None = None
) -> list[Answered]:
    answers = await service.initiate_all(by or caller(), orders)
    assert not isinstance(answers, Refusal), answers
    return answers


def reasons(answers: Sequence[Answered]) -> list[str]:
    """How each ended: ok, or the problem."""
    return [refused(each).reason.value if isinstance(each.answer, Refusal) else "ok" for each in answers]


# --- the wallet's verdict -----------------------------------------------------------------------------------------


async def test_all_are_paid_when_all_can_be(platform: Platform) -> None:
    answers = await together(platform.payment, many(3))

    assert [payment_of(each).status for each in answers] == ["SUCCESS"] * 3
    assert await available(platform.wallet, CUSTOMER) == FUNDS - 3000
    assert await available(platform.wallet, MERCHANT) == 3 * 980
    assert platform.events() == 3


@pytest.mark.parametrize(
    ("orders", "expected"),
    [
        ([in_bulk("a"), in_bulk("b", merchant_id=STRANGER), in_bulk("c")], "unknown-merchant"),
        ([in_bulk("a", amount=FUNDS), in_bulk("b"), in_bulk("c")], "insufficient-funds"),
    ],
    ids=["one can never be paid", "not enough for all"],
)
async def test_none_is_paid_when_one_is_refused(
    platform: Platform, orders: list[messages.PaymentInBulk], expected: str
) -> None:
    answers = await together(platform.payment, orders)

    assert reasons(answers) == ["bulk-refused", expected, "bulk-refused"]
    assert await available(platform.wallet, CUSTOMER) == FUNDS
    assert platform.events() == 3


async def test_held_money_is_held_for_all_or_for_none(platform: Platform) -> None:
    held = [
        messages.PaymentInBulk(
            idempotency_key=f"{amount}", merchant_id=MERCHANT, amount=amount, currency="USD", capture=False
        )
        for amount in (4000, 5000)
    ]

    answers = await together(platform.payment, held)
    too_much = await together(platform.payment, [in_bulk("a", amount=900), in_bulk("b", amount=101)])

    assert [payment_of(each).status for each in answers] == ["AUTHORIZED"] * 2
    assert reasons(too_much) == ["bulk-refused", "insufficient-funds"]
    assert await available(platform.wallet, CUSTOMER) == 1000


# --- copies -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("amount", [1000, 4000], ids=["paid", "refused"])
async def test_the_same_call_again_gets_the_same_answers(platform: Platform, amount: int) -> None:
    first = await together(platform.payment, many(3, amount=amount))
    again = await together(platform.another, many(3, amount=amount))

    assert [each.replayed for each in first + again] == [False] * 3 + [True] * 3
    assert [each.answer for each in again] == [each.answer for each in first]
    assert platform.line.sent == [3]


async def test_copies_that_race_move_all_once(platform: Platform) -> None:
    orders = many(20, amount=100)
    calls = [each.initiate_all(caller(), orders) for each in (platform.payment, platform.another) * 3]

    outcomes = await asyncio.gather(*calls)
    settled = await together(platform.payment, orders)

    for outcome in outcomes:
        if isinstance(outcome, Refusal):
            assert outcome.reason is Reason.REQUEST_IN_PROGRESS
        else:
            assert [each.answer for each in outcome] == [each.answer for each in settled]
    assert await available(platform.wallet, CUSTOMER) == FUNDS - 2000


@pytest.mark.parametrize(
    "other",
    [
        many(2),
        many(4),
        many(3)[::-1],
        many(3, amount=999),
        [*many(2), in_bulk("new")],
        [in_bulk("new"), in_bulk("k-0")],
    ],
    ids=["a part", "more", "another order", "other amounts", "a part and another", "one of them"],
)
async def test_another_call_with_any_of_the_keys_is_refused_whole(
    platform: Platform, other: list[messages.PaymentInBulk]
) -> None:
    await together(platform.payment, many(3))

    answer = await platform.another.initiate_all(caller(), other)

    assert refused_call(answer) is Reason.IDEMPOTENCY_KEY_REUSED
    assert await available(platform.wallet, CUSTOMER) == FUNDS - 3000
    assert platform.line.sent == [3]


def refused_call(answer: list[Answered] | Refusal) -> Reason:
    assert isinstance(answer, Refusal), answer
    return answer.reason


async def test_a_key_that_was_used_alone_refuses_the_call_and_one_of_the_call_is_known_alone(
    platform: Platform,
) -> None:
    alone = await platform.payment.initiate(caller(), in_bulk("k-1").alone, "k-1")
    refused_whole = await platform.payment.initiate_all(caller(), many(3))
    answers = await together(platform.payment, many(2, name="other"))
    again = await platform.another.initiate(caller(), in_bulk("other-1").alone, "other-1")

    assert isinstance(alone, Answered)
    assert refused_call(refused_whole) is Reason.IDEMPOTENCY_KEY_REUSED
    assert again == Answered(answers[1].answer, replayed=True)
    assert await available(platform.wallet, CUSTOMER) == FUNDS - 3000


async def test_a_key_of_a_call_that_is_under_way_is_in_progress_alone(platform: Platform) -> None:
    platform.line.losses = ["dies before"]
    with pytest.raises(DiedError):
        await platform.payment.initiate_all(caller(), many(3))

    for service in (platform.payment, platform.another):
        alone = await service.initiate(caller(), in_bulk("k-1").alone, "k-1")
        assert isinstance(alone, Refusal)
        assert alone.reason is Reason.REQUEST_IN_PROGRESS
    assert refused_call(await platform.another.initiate_all(caller(), many(3))) is Reason.REQUEST_IN_PROGRESS
    assert await available(platform.wallet, CUSTOMER) == FUNDS
    assert await platform.recover() == 3


@pytest.mark.parametrize(
    ("orders", "pointer"),
    [
        ([in_bulk("a"), in_bulk("a")], "/payments/1/idempotencyKey"),
        ([in_bulk("a"), messages.PaymentInBulk(idempotency_key="b", merchant_id=MERCHANT, amount=1, currency="XXY")],
         "/payments/1/currency"),
    ],
    ids=["a key twice", "no currency"],
)  # fmt: skip
@pytest.mark.parametrize("platform", ["sqlite"], indirect=True)
async def test_what_is_wrong_in_one_refuses_the_call(
    platform: Platform, orders: list[messages.PaymentInBulk], pointer: str
) -> None:
    answer = await platform.payment.initiate_all(caller(), orders)

    assert isinstance(answer, Refusal)
    assert [error.pointer for error in answer.errors] == [pointer]
    assert platform.line.sent == []


# --- what goes wrong on the way -----------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", ["request", "reply"])
async def test_what_is_lost_on_the_way_is_asked_for_again_whole(platform: Platform, loss: str) -> None:
    platform.line.losses = [loss, loss]

    answers = await together(platform.payment, many(3))

    assert reasons(answers) == ["ok"] * 3
    assert platform.line.sent == [3, 3, 3]
    assert await available(platform.wallet, CUSTOMER) == FUNDS - 3000


@pytest.mark.parametrize("amount", [100, 1000], ids=["paid", "refused"])
@pytest.mark.parametrize("death", ["dies before", "dies behind"])
async def test_recovery_goes_on_with_all_of_them(platform: Platform, death: str, amount: int) -> None:
    """More than it takes over at once: with the first of them it has them all."""
    orders = many(70, amount=amount)
    platform.line.losses = [death]
    with pytest.raises(DiedError):
        await platform.payment.initiate_all(caller(), orders)

    assert await platform.recover() == 70
    assert await platform.recover() == 0

    assert platform.line.sent == [70, 70]
    answers = await together(platform.payment, orders)
    paid = amount == 100
    assert reasons(answers).count("ok") == (70 if paid else 0)
    assert reasons(answers).count("insufficient-funds") == (0 if paid else 1)
    assert await available(platform.wallet, CUSTOMER) == (FUNDS - 7000 if paid else FUNDS)
    assert platform.events() == 70


async def test_recovery_leaves_alone_what_reconciliation_has_settled_of_them(platform: Platform) -> None:
    platform.line.losses = ["dies behind"]
    with pytest.raises(DiedError):
        await platform.payment.initiate_all(caller(), many(3))
    pending = await platform.payment.list_payments(caller(), status=PaymentStatus.PENDING, **EVERYTHING)
    member = pending.items[1].transaction_id
    [payment] = await platform.payment._database.reading(lambda tx: store.find(tx, [member]))
    await platform.another.saga.finish(Intent(payment))

    assert await platform.recover() == 3
    assert reasons(await together(platform.payment, many(3))) == ["ok"] * 3
    assert platform.events() == 3
    assert await available(platform.wallet, CUSTOMER) == FUNDS - 3000


EVERYTHING: dict[str, Any] = {"since": None, "until": None, "limit": 100, "cursor": None}


async def test_an_earlier_call_is_answered_though_today_s_fee_would_refuse_it(platform: Platform) -> None:
    first = await together(platform.payment, many(2))
    dear = FeeSchedule.parse("USD=0+1000", default_basis_points=0)
    service = payment_service(platform.payment._database, platform.line, clock=platform.clock, fees=dear)

    again = await together(service, many(2))
    refusal = await service.initiate_all(caller(), [in_bulk("new", amount=5000), *many(2, name="small")])

    assert [each.answer for each in again] == [each.answer for each in first]
    assert isinstance(refusal, Refusal)
    assert (refusal.reason, refusal.errors[0].pointer) == (Reason.AMOUNT_TOO_SMALL, "/payments/1/amount")


async def test_what_cannot_be_finished_is_given_up_whole_and_stays_so(platform: Platform) -> None:
    platform.line.losses = ["dies before"]
    with pytest.raises(DiedError):
        await platform.payment.initiate_all(caller(), many(3))
    platform.clock.forward(seconds=LEASE_SECONDS + 1)
    recovery = Recovery(platform.another.saga)
    platform.line.always = "dies before"
    assert await recovery.run_once() == 0
    platform.clock.forward(seconds=GIVE_UP_SECONDS)

    assert await recovery.run_once() == 3

    answers = await together(platform.payment, many(3))
    assert reasons(answers) == ["abandoned"] * 3
    assert await available(platform.wallet, CUSTOMER) == FUNDS


async def test_an_outcome_that_is_not_known_in_time_is_the_call_s(platform: Platform) -> None:
    platform.line.always = "request"
    service = payment_service(platform.payment._database, platform.line, clock=platform.clock, request_seconds=0.5)

    with pytest.raises(Refused) as unknown:
        await service.initiate_all(caller(), many(3))

    assert unknown.value.refusal.reason is Reason.TIMEOUT
    platform.line.always = ""
    assert await platform.recover() == 3
    assert reasons(await together(platform.payment, many(3))) == ["ok"] * 3


async def test_calls_and_payments_that_race_for_the_same_money_never_leave_a_part(platform: Platform) -> None:
    """Money for three calls of ten thirds each: whoever comes first takes whole calls."""
    calls = [many(10, amount=300, name=f"call-{number}") for number in range(4)]
    singles = [in_bulk(f"single-{number}", amount=300) for number in range(5)]

    outcomes = await asyncio.gather(
        *(
            together(service, orders)
            for service, orders in zip([platform.payment, platform.another] * 2, calls, strict=True)
        )
    )
    alone = await asyncio.gather(
        *(platform.another.initiate(caller(), each.alone, each.idempotency_key) for each in singles)
    )

    paid = [reasons(outcome).count("ok") for outcome in outcomes]
    assert sorted(paid) == [0, 10, 10, 10]
    single = sum(isinstance(each, Answered) and not isinstance(each.answer, Refusal) for each in alone)
    assert await available(platform.wallet, CUSTOMER) == FUNDS - 300 * (sum(paid) + single)


# --- against an oracle --------------------------------------------------------------------------------------------

AMOUNTS = st.sampled_from([50, 999, 3000, FUNDS])
CALLS = st.lists(
    st.lists(
        st.tuples(st.sampled_from([1, 999, 3000, FUNDS]), st.sampled_from([MERCHANT] * 9 + [STRANGER])),
        min_size=1,
        max_size=5,
    ),
    max_size=6,
)


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(CALLS)
async def test_any_calls_end_as_a_purse_of_coins_would(
    tmp_path_factory: pytest.TempPathFactory, calls: list[list[tuple[int, str]]]
) -> None:
    """The oracle: a call is paid if everybody in it can be paid, and there is enough for all."""
    folder, purse = tmp_path_factory.mktemp("bulk"), FUNDS
    with payment_database(f"sqlite:///{folder}/payment.sqlite3") as database:
        async with running_wallet(f"sqlite:///{folder}/wallet.sqlite3") as wallet:
            await open_wallet(wallet, CUSTOMER, amount=FUNDS)
            await open_wallet(wallet, STRANGER)
            await open_wallet(wallet, MERCHANT, role=Role.MERCHANT)
            service = payment_service(database, wallet)
            for number, call in enumerate(calls):
                orders = [
                    in_bulk(f"{number}-{place}", amount=amount, merchant_id=merchant)
                    for place, (amount, merchant) in enumerate(call)
                ]
                wanted = sum(order.amount for order in orders)
                payable = wanted <= purse and all(order.merchant_id == MERCHANT for order in orders)
                purse -= wanted if payable else 0

                ended = reasons(await together(service, orders))

                assert ended.count("ok") == (len(orders) if payable else 0)
                assert ended.count("bulk-refused") == (0 if payable else len(orders) - 1)
                assert await available(wallet, CUSTOMER) == purse
            assert faults_in(service) == []
            assert faults_in(wallet) == []


# --- over HTTP ----------------------------------------------------------------------------------------------------


def body(orders: Sequence[messages.PaymentInBulk]) -> dict[str, Any]:
    return {
        "mode": "all-or-nothing",
        "payments": [
            {"idempotencyKey": each.idempotency_key, "merchantId": each.merchant_id, "amount": each.amount}
            | {"currency": each.currency}
            for each in orders
        ],
    }


@pytest.fixture(params=["direct", "http"])
async def client(
    request: pytest.FixtureRequest, fresh_databases: Callable[[Backend], dict[str, str]]
) -> AsyncIterator[httpx2.AsyncClient]:
    """Payment over HTTP, with both ways in which it reaches the wallet, each on another database."""
    urls = fresh_databases("sqlite" if request.param == "direct" else "mariadb")
    async with served_wallet(urls["wallet"]) as wallet:
        await open_wallet(wallet.service, CUSTOMER, amount=FUNDS)
        await open_wallet(wallet.service, MERCHANT, role=Role.MERCHANT)
        door = Door("http://wallet", caller="payment", secret=INTERNAL_SECRET, clock=system_clock)
        await door.close()
        door._client = wallet.client
        async with served(urls["payment"], wallet.service if request.param == "direct" else HttpWallet(door)) as client:
            yield client


async def test_a_thousand_payments_are_one_call_and_one_order(client: httpx2.AsyncClient) -> None:
    """Which is far more than another body may have."""
    orders = [
        messages.PaymentInBulk(idempotency_key=f"{place:>0100}", merchant_id=MERCHANT, amount=10, currency="USD")
        for place in range(MAXIMUM_BULK)
    ]
    answer = await client.post(BULK, json=body(orders), headers=bearer())
    again = await client.post(BULK, json=body(orders), headers=bearer())

    assert (answer.status_code, again.status_code) == (200, 200), answer.text
    assert {item["status"] for item in answer.json()["items"]} == {201}
    assert [item["idempotencyKey"] for item in answer.json()["items"]] == [each.idempotency_key for each in orders]
    assert [item | {"replayed": False} for item in again.json()["items"]] == answer.json()["items"]


async def test_one_that_is_refused_is_told_from_those_it_takes_along(client: httpx2.AsyncClient) -> None:
    answer = await client.post(BULK, json=body([in_bulk("a"), in_bulk("b", amount=FUNDS)]), headers=bearer())
    reused = await client.post(BULK, json=body([in_bulk("a")]), headers=bearer())

    items = answer.json()["items"]
    assert [item["status"] for item in items] == [422, 402]
    assert items[0]["problem"]["type"] == "/problems/bulk-refused"
    assert items[0]["problem"]["failureReason"] == "BULK_REFUSED"
    assert (reused.status_code, reused.json()["type"]) == (422, "/problems/idempotency-key-reused")


async def test_credits_are_booked_each_for_itself(client: httpx2.AsyncClient) -> None:
    credit = {"customerId": CUSTOMER, "amount": 1, "currency": "USD", "reference": "a"}

    answer = await client.post(
        BULK, json={"mode": "all-or-nothing", "credits": [credit]}, headers=bearer(role=Role.ADMIN)
    )

    assert answer.status_code == 422
