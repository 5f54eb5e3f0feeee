"""Many credits in one call are what each would be alone: `POST /wallet/credit`, whatever becomes of the others."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx2
import pytest

from ewallet.kernel.caller import Role
from ewallet.kernel.clock import system_clock
from ewallet.kernel.errors import OutcomeUnknown, Refusal
from ewallet.payment import messages
from ewallet.payment.messages import MAXIMUM_BULK
from ewallet.plumbing.http.doors import Door
from ewallet.wallet.client import HttpWallet, WalletClient
from ewallet.wallet.messages import CreditBooked, CreditOrder, CreditOutcome, CreditRefused, MoneyMoved
from ewallet.wallet.service import Moved
from tests.conftest import Backend
from tests.support.payment import bearer, payment_database, payment_service, served
from tests.support.verifying import faults_in
from tests.support.wallet import (
    ALICE,
    BACK_END,
    BOB,
    INTERNAL_SECRET,
    ServedWallet,
    available,
    open_wallet,
    running_wallet,
    served_wallet,
)

BULK = "/payment/bulk"


def in_bulk(
    reference: str, *, amount: int = 1000, owner: str = ALICE, currency: str = "USD", key: str | None = None
) -> messages.CreditInBulk:
    return messages.CreditInBulk(
        customer_id=owner, amount=amount, currency=currency, reference=reference, idempotency_key=key
    )


def body(*orders: messages.CreditInBulk) -> dict[str, Any]:
    return {
        "credits": [
            {"customerId": each.customer_id, "amount": each.amount, "currency": each.currency}
            | {"reference": each.reference, "idempotencyKey": each.idempotency_key}
            for each in orders
        ]
    }


# --- over HTTP ----------------------------------------------------------------------------------------------------


@pytest.fixture
async def wallet(fresh_databases: Callable[[Backend], dict[str, str]]) -> AsyncIterator[ServedWallet]:
    """The real wallet, with two customers in it."""
    async with served_wallet(fresh_databases("sqlite")["wallet"]) as wallet:
        for owner in (ALICE, BOB):
            await open_wallet(wallet.service, owner)
        yield wallet


@pytest.fixture(params=["direct", "http"])
async def door(request: pytest.FixtureRequest, wallet: ServedWallet) -> WalletClient:
    """Both ways in which payment reaches the wallet."""
    if request.param == "direct":
        return wallet.service
    door = Door("http://wallet", caller="payment", secret=INTERNAL_SECRET, clock=system_clock)
    await door.close()
    door._client = wallet.client
    return HttpWallet(door)


@pytest.fixture
async def client(sqlite_url: str, door: WalletClient) -> AsyncIterator[httpx2.AsyncClient]:
    async with served(sqlite_url, door) as client:
        yield client


async def send(client: httpx2.AsyncClient, *orders: messages.CreditInBulk) -> list[dict[str, Any]]:
    answer = await client.post(BULK, json=body(*orders), headers=bearer(BACK_END.subject, Role.SERVICE))
    assert answer.status_code == 200, answer.text
    items: list[dict[str, Any]] = answer.json()["items"]
    return items


async def test_each_credit_is_answered_in_its_place(client: httpx2.AsyncClient, wallet: ServedWallet) -> None:
    items = await send(
        client,
        in_bulk("a", key="k"),
        in_bulk("b", owner="usr_nobody"),
        in_bulk("c", currency="EUR"),
        in_bulk("d", currency="XXY"),
        in_bulk("a", amount=7),
        in_bulk("e", owner=BOB, amount=5),
    )

    assert [item["idempotencyKey"] for item in items] == ["k", "b", "c", "d", "a", "e"]
    assert [item["status"] for item in items] == [201, 404, 422, 422, 422, 201]
    assert [item["problem"]["type"].rpartition("/")[2] for item in items[1:5]] == [
        "not-found",
        "currency-mismatch",
        "validation-error",
        "idempotency-key-reused",
    ]
    assert items[3]["problem"]["errors"][0]["pointer"] == "/currency"
    assert (items[0]["credit"]["available"], items[0]["credit"]["reference"]) == (1000, "a")
    assert (await available(wallet.service, ALICE), await available(wallet.service, BOB)) == (1000, 5)


async def test_the_same_call_again_gets_the_same_answers_and_moves_nothing(
    client: httpx2.AsyncClient, wallet: ServedWallet
) -> None:
    orders = [in_bulk("a"), in_bulk("b", owner="usr_nobody"), in_bulk("c")]
    first, again = await send(client, *orders), await send(client, *orders)

    assert [item["replayed"] for item in first + again] == [False] * 3 + [True] * 3
    assert [item | {"replayed": False} for item in again] == first
    assert await available(wallet.service, ALICE) == 2000


@pytest.mark.parametrize(
    ("wrong", "pointer"),
    [
        ({"credits": []}, "/credits"),
        (body(in_bulk("a"), in_bulk("b", amount=0)), "/credits/1/amount"),
        (body(in_bulk("a", key="a b")), "/credits/0/idempotencyKey"),
        (body(*(in_bulk(f"r{number}") for number in range(MAXIMUM_BULK + 1))), "/credits"),
    ],
    ids=["none", "one amount", "no key", "too many"],
)
@pytest.mark.parametrize("door", ["direct"], indirect=True)
async def test_where_one_is_wrong_it_is_named_and_none_is_booked(
    client: httpx2.AsyncClient, wallet: ServedWallet, wrong: dict[str, Any], pointer: str
) -> None:
    answer = await client.post(BULK, json=wrong, headers=bearer(role=Role.ADMIN))

    assert answer.status_code == 422
    assert answer.json()["errors"][0]["pointer"] == pointer
    assert await available(wallet.service, ALICE) == 0


@pytest.mark.parametrize("role", [Role.CUSTOMER, Role.MERCHANT])
@pytest.mark.parametrize("door", ["direct"], indirect=True)
async def test_only_staff_credits(client: httpx2.AsyncClient, wallet: ServedWallet, role: Role) -> None:
    answer = await client.post(BULK, json=body(in_bulk("a")), headers=bearer(ALICE, role))

    assert answer.status_code == 403
    assert await available(wallet.service, ALICE) == 0


async def test_what_became_of_one_that_was_lost_on_the_way_is_found_by_repeating_the_call(
    client: httpx2.AsyncClient, wallet: ServedWallet, monkeypatch: pytest.MonkeyPatch
) -> None:
    book = wallet.service.book_credit

    async def reply_lost(order: CreditOrder) -> CreditOutcome:
        await book(order)
        raise OutcomeUnknown("the reply was lost")

    with monkeypatch.context() as line:
        line.setattr(wallet.service, "book_credit", reply_lost)
        [lost] = await send(client, in_bulk("a"))
    [found] = await send(client, in_bulk("a"))

    assert (lost["status"], lost["problem"]["type"]) == (504, "/problems/timeout")
    assert (found["status"], found["replayed"], found["credit"]["amount"]) == (201, True, 1000)
    assert await available(wallet.service, ALICE) == 1000


# --- the use case -------------------------------------------------------------------------------------------------


async def test_a_reference_is_the_same_reference_in_a_call_of_its_own(sqlite_url: str, wallet: ServedWallet) -> None:
    alone = await wallet.service.credit(BACK_END, in_bulk("a").alone, "key")
    with payment_database(sqlite_url) as database:
        service = payment_service(database, wallet.service)
        [in_company, other] = await service.credit_each(BACK_END, [in_bulk("a"), in_bulk("b", key="another")])
        [reused] = await service.credit_each(BACK_END, [in_bulk("c", key="key")])
    afterwards = await wallet.service.credit(BACK_END, in_bulk("b").alone, "another")

    assert isinstance(alone.answer, MoneyMoved)
    assert in_company == CreditBooked(answer=alone.answer, replayed=True)
    assert isinstance(other, CreditBooked)
    assert afterwards == Moved(other.answer, replayed=True)
    assert isinstance(reused, CreditRefused)
    assert reused.answer.reason == "idempotency-key-reused"


@pytest.mark.parametrize("backend", ["sqlite", "mariadb"])
async def test_copies_of_one_call_that_race_book_each_credit_once(
    fresh_databases: Callable[[Backend], dict[str, str]], backend: Backend
) -> None:
    """Two copies in each of two processes, and the same credits as calls of their own."""
    urls, orders = fresh_databases(backend), [in_bulk(f"salary-{number}", amount=10 + number) for number in range(60)]
    async with running_wallet(urls["wallet"]) as one, running_wallet(urls["wallet"]) as two:
        await open_wallet(one, ALICE)
        with payment_database(urls["payment"]) as database:
            services = [payment_service(database, wallet) for wallet in (one, two)]
            answers, alone = await asyncio.gather(
                asyncio.gather(*(each.credit_each(BACK_END, orders) for each in services * 2)),
                asyncio.gather(*(two.credit(BACK_END, each.alone, None) for each in orders)),
            )

        assert await available(one, ALICE) == sum(each.amount for each in orders)
        assert faults_in(one) == []
    for place, moved in enumerate(alone):
        assert not isinstance(moved.answer, Refusal)
        outcomes = [each[place] for each in answers]
        assert {_transfer_id(outcome) for outcome in outcomes} == {moved.answer.transfer_id}
        replayed = [moved.replayed, *(isinstance(each, CreditBooked) and each.replayed for each in outcomes)]
        assert replayed.count(False) == 1


def _transfer_id(outcome: CreditOutcome | Exception) -> str:
    assert isinstance(outcome, CreditBooked), outcome
    return outcome.answer.transfer_id
