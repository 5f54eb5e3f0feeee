"""Many payments in one call are what each would be alone, whatever becomes of the others."""

import asyncio
from collections.abc import Sequence
from typing import Any

import httpx2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ewallet.gateway.domain import LARGE_BODIES
from ewallet.kernel.caller import Role
from ewallet.kernel.errors import InvariantBroken, Overloaded, Reason, Refusal, Refused
from ewallet.payment import messages
from ewallet.payment.messages import MAXIMUM_BULK, MAXIMUM_BULK_BYTES
from ewallet.payment.service import BULKS_AT_ONCE, Answered, PaymentService
from ewallet.wallet.messages import GroupOrder, GroupOutcome
from tests.support.payment import (
    CUSTOMER,
    MERCHANT,
    STRANGER,
    MemoryWallet,
    bearer,
    caller,
    order,
    paid,
    pay,
    payment_database,
    payment_service,
    refused,
    request_lost,
    served,
)

BULK = "/payment/bulk"
FUNDS = 10_000


@pytest.fixture
def wallet() -> MemoryWallet:
    return rich_wallet()


def rich_wallet() -> MemoryWallet:
    wallet = MemoryWallet()
    wallet.credit(CUSTOMER, FUNDS)
    return wallet


def in_bulk(key: str, *, amount: int = 1000, merchant_id: str = MERCHANT) -> messages.PaymentInBulk:
    return messages.PaymentInBulk(idempotency_key=key, merchant_id=merchant_id, amount=amount, currency="USD")


def body(*payments: messages.PaymentInBulk) -> dict[str, Any]:
    return {
        "payments": [
            {"idempotencyKey": each.idempotency_key, "merchantId": each.merchant_id, "amount": each.amount}
            | {"currency": each.currency}
            for each in payments
        ]
    }


async def send(client: httpx2.AsyncClient, *payments: messages.PaymentInBulk) -> list[dict[str, Any]]:
    answer = await client.post(BULK, json=body(*payments), headers=bearer())
    assert answer.status_code == 200, answer.text
    items: list[dict[str, Any]] = answer.json()["items"]
    return items


# --- over HTTP ----------------------------------------------------------------------------------------------------


async def test_each_payment_is_answered_in_its_place(sqlite_url: str, wallet: MemoryWallet) -> None:
    async with served(sqlite_url, wallet) as client:
        items = await send(
            client, in_bulk("a"), in_bulk("b", amount=FUNDS + 1), in_bulk("c", merchant_id=STRANGER), in_bulk("d")
        )

    assert [item["idempotencyKey"] for item in items] == ["a", "b", "c", "d"]
    assert [item["status"] for item in items] == [201, 402, 422, 201]
    assert (items[0]["payment"]["status"], items[0]["payment"]["amount"]) == ("SUCCESS", 1000)
    assert items[1]["problem"]["type"] == "/problems/insufficient-funds"
    assert items[1]["problem"]["failureReason"] == "INSUFFICIENT_FUNDS"
    assert items[2]["problem"]["instance"] == BULK
    assert wallet.balance(CUSTOMER) == FUNDS - 2000


async def test_the_same_call_again_gets_the_same_answers_and_moves_nothing(
    sqlite_url: str, wallet: MemoryWallet
) -> None:
    payments = [in_bulk("a"), in_bulk("b", amount=FUNDS), in_bulk("c")]
    async with served(sqlite_url, wallet) as client:
        first = await send(client, *payments)
        again = await send(client, *payments)

    assert [item["replayed"] for item in first + again] == [False] * 3 + [True] * 3
    assert [item | {"replayed": False} for item in again] == first
    assert wallet.balance(CUSTOMER) == FUNDS - 2000


@pytest.mark.parametrize(
    ("wrong", "pointer"),
    [
        ({"payments": []}, "/payments"),
        ({"payments": [{"idempotencyKey": "a", "amount": 1, "currency": "USD"}]}, "/payments/0/merchantId"),
        (body(in_bulk("a b")), "/payments/0/idempotencyKey"),
        (body(in_bulk("a"), in_bulk("b", amount=0)), "/payments/1/amount"),
        (body(*(in_bulk(f"k{number}") for number in range(MAXIMUM_BULK + 1))), "/payments"),
        (body(in_bulk("a")) | {"mode": "EACH"}, "/mode"),
    ],
    ids=["none", "a field is missing", "no key", "one amount", "too many", "a field too many"],
)
async def test_where_one_is_wrong_it_is_named_and_none_is_begun(
    sqlite_url: str, wallet: MemoryWallet, wrong: dict[str, Any], pointer: str
) -> None:
    async with served(sqlite_url, wallet) as client:
        answer = await client.post(BULK, json=wrong, headers=bearer())

    assert answer.status_code == 422
    assert answer.json()["errors"][0]["pointer"] == pointer
    assert not wallet.orders


@pytest.mark.parametrize(
    "wrong", [{}, body(in_bulk("a")) | {"credits": [{}]}], ids=["neither payments nor credits", "both"]
)
async def test_a_call_is_for_payments_or_for_credits(
    sqlite_url: str, wallet: MemoryWallet, wrong: dict[str, Any]
) -> None:
    async with served(sqlite_url, wallet) as client:
        answer = await client.post(BULK, json=wrong, headers=bearer())

    assert answer.status_code == 422


@pytest.mark.parametrize("role", [Role.MERCHANT, Role.ADMIN, Role.SERVICE])
async def test_only_customers_pay(sqlite_url: str, wallet: MemoryWallet, role: Role) -> None:
    async with served(sqlite_url, wallet) as client:
        answer = await client.post(BULK, json=body(in_bulk("a")), headers=bearer(role=role))

    assert answer.status_code == 403


def bug(_wallet: MemoryWallet, _order: GroupOrder) -> GroupOutcome:
    raise InvariantBroken("the first order that comes")


async def test_a_bug_that_one_of_them_meets_is_its_own(sqlite_url: str, wallet: MemoryWallet) -> None:
    wallet.faults = [bug]
    async with served(sqlite_url, wallet) as client:
        items = await send(client, in_bulk("a"), in_bulk("b"))

    assert [item["status"] for item in items] == [500, 201]
    assert items[0]["problem"]["type"] == "/problems/internal-error"


def test_the_edges_take_as_large_a_body_as_the_service() -> None:
    assert {BULK: MAXIMUM_BULK_BYTES} == LARGE_BODIES


# --- the use case -------------------------------------------------------------------------------------------------


async def test_a_key_is_the_same_key_in_a_call_of_its_own(database_url: str, wallet: MemoryWallet) -> None:
    with payment_database(database_url) as database:
        service = payment_service(database, wallet)
        alone = await paid(service, order(), "a")
        [in_company, other] = await service.initiate_each(caller(), [in_bulk("a"), in_bulk("b")])
        afterwards = await pay(service, order(), "b")

    assert in_company == Answered(alone, replayed=True)
    assert isinstance(other, Answered)
    assert afterwards == Answered(other.answer, replayed=True)
    assert wallet.groups_posted == 2


async def test_a_thousand_copies_that_race_move_each_payment_once(database_url: str) -> None:
    """Three copies of one call in each of two processes; the key decides, wherever the others are."""
    wallet = rich_wallet()
    orders = [in_bulk(f"key-{number}", amount=10) for number in range(166)]
    with payment_database(database_url) as one, payment_database(database_url) as two:
        services = [payment_service(database, wallet) for database in (one, two)]
        answers = await asyncio.gather(*(each.initiate_each(caller(), orders) for each in services * 3))
        settled = await payment_service(one, wallet).initiate_each(caller(), orders)

    assert wallet.balance(CUSTOMER) == FUNDS - 166 * 10
    assert len({payment_id(outcome) for outcome in settled}) == 166
    for outcomes in answers:
        for outcome, last in zip(outcomes, settled, strict=True):
            assert payment_id(outcome) in ("in progress", payment_id(last))


def payment_id(outcome: Answered | Refusal | Exception) -> str:
    if isinstance(outcome, Answered):
        assert isinstance(outcome.answer, messages.Payment), outcome.answer
        return outcome.answer.transaction_id
    assert isinstance(outcome, Refusal), outcome
    assert outcome.reason == "request-in-progress"
    return "in progress"


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_an_outcome_that_is_not_known_in_time_is_that_of_one_payment(
    database_url: str, wallet: MemoryWallet
) -> None:
    wallet.always = request_lost
    with payment_database(database_url) as database:
        service = payment_service(database, wallet, request_seconds=0.05)
        [unknown, reused] = await service.initiate_each(caller(), [in_bulk("a"), in_bulk("a", amount=7)])

    assert isinstance(unknown, Refused)
    assert unknown.refusal.reason is Reason.TIMEOUT
    assert isinstance(reused, Refusal)
    assert reused.reason is Reason.IDEMPOTENCY_KEY_REUSED


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_too_many_calls_at_once_are_refused_before_they_begin(database_url: str, wallet: MemoryWallet) -> None:
    wallet.gate = asyncio.Event()
    with payment_database(database_url) as database:
        service = payment_service(database, wallet)
        calls = [
            asyncio.create_task(service.initiate_each(caller(), [in_bulk(f"key-{number}")]))
            for number in range(BULKS_AT_ONCE)
        ]
        await wallet.called.acquire()
        with pytest.raises(Overloaded):
            await service.initiate_each(caller(), [in_bulk("late")])
        wallet.gate.set()
        await asyncio.gather(*calls)
        [after] = await service.initiate_each(caller(), [in_bulk("late")])

    assert isinstance(after, Answered)


AMOUNTS = st.sampled_from([1, 50, 999, 4000, FUNDS, FUNDS + 1])
ORDERS = st.lists(
    st.builds(
        in_bulk,
        st.sampled_from("abcdefgh"),
        amount=AMOUNTS,
        merchant_id=st.sampled_from([MERCHANT, STRANGER, CUSTOMER]),
    ),
    max_size=12,
)


async def one_by_one(service: PaymentService, orders: Sequence[messages.PaymentInBulk]) -> list[Answered | Refusal]:
    return [await service.initiate(caller(), each.alone, each.idempotency_key) for each in orders]


def told(outcome: Answered | Refusal | Exception) -> object:
    """All of an outcome but ids and times."""
    match outcome:
        case Answered(answer=messages.Payment() as payment):
            return (payment.status, payment.amount, payment.fee, payment.merchant_id, outcome.replayed)
        case Answered() | Refusal():
            return refused(outcome).reason, isinstance(outcome, Answered) and outcome.replayed
    raise outcome


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(ORDERS)
async def test_many_at_once_end_as_they_would_one_by_one(
    tmp_path_factory: pytest.TempPathFactory, orders: list[messages.PaymentInBulk]
) -> None:
    wallets = rich_wallet(), rich_wallet()
    folder = tmp_path_factory.mktemp("bulk")
    with (
        payment_database(f"sqlite:///{folder}/together.sqlite3") as database,
        payment_database(f"sqlite:///{folder}/alone.sqlite3") as other,
    ):
        together = await payment_service(database, wallets[0]).initiate_each(caller(), orders)
        alone = await one_by_one(payment_service(other, wallets[1]), orders)

    assert [told(each) for each in together] == [told(each) for each in alone]
    assert wallets[0].balances == wallets[1].balances
