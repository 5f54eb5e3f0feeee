"""One contract for both doors of the wallet: called directly, and over HTTP."""

import asyncio
from collections.abc import AsyncIterator

import msgspec
import pytest

from ewallet.kernel.caller import Role
from ewallet.kernel.clock import system_clock
from ewallet.kernel.errors import OutcomeUnknown, Reason
from ewallet.plumbing.http.doors import Door
from ewallet.plumbing.reconciling import Case, Compared, KeptEvent
from ewallet.wallet.client import HttpWallet, WalletBooks, WalletClient
from ewallet.wallet.messages import (
    CreditBooked,
    CreditOrder,
    CreditRefused,
    GroupOrder,
    GroupOutcome,
    GroupPosted,
    GroupRefused,
    MoveMoney,
    OpenWallet,
    StoredOrders,
)
from ewallet.wallet.service import Moved
from ewallet.wallet.store import outbox
from tests.support.wallet import (
    ALICE,
    BACK_END,
    BOB,
    INTERNAL_SECRET,
    ServedWallet,
    available,
    credit,
    payment,
    served_wallet,
)


@pytest.fixture
async def served(sqlite_url: str) -> AsyncIterator[ServedWallet]:
    async with served_wallet(sqlite_url) as wallet:
        yield wallet


@pytest.fixture
async def http(served: ServedWallet) -> HttpWallet:
    door = Door("http://wallet", caller="payment", secret=INTERNAL_SECRET, clock=system_clock)
    await door.close()
    door._client = served.client
    return HttpWallet(door)


@pytest.fixture(params=["direct", "http"])
def wallet(request: pytest.FixtureRequest, served: ServedWallet, http: HttpWallet) -> WalletBooks:
    return served.service if request.param == "direct" else http


def opening(owner: str, role: Role = Role.CUSTOMER) -> OpenWallet:
    return OpenWallet(owner=owner, role=role, currency="USD", actor="service:auth", request_id="req_open")


@pytest.fixture
async def people(served: ServedWallet, wallet: WalletClient) -> None:
    await wallet.open_wallet(opening(ALICE))
    await wallet.open_wallet(opening(BOB, Role.MERCHANT))
    await credit(served.service, ALICE, 100_00)


async def test_a_wallet_opened_twice_is_open(wallet: WalletClient, served: ServedWallet) -> None:
    await wallet.open_wallet(opening(ALICE))
    await wallet.open_wallet(opening(ALICE))

    assert await available(served.service, ALICE) == 0


@pytest.mark.usefixtures("people")
async def test_a_group_is_posted_once(wallet: WalletClient, served: ServedWallet) -> None:
    order = payment(ALICE, BOB, 10_00, 20)

    first, again = await wallet.post_group(order), await wallet.post_group(order)

    assert isinstance(first, GroupPosted)
    assert again == first
    assert await available(served.service, ALICE) == 90_00


@pytest.mark.usefixtures("people")
async def test_a_refusal_is_a_value_and_stays(wallet: WalletClient) -> None:
    order = payment(ALICE, BOB, 100_01, 20)

    first, again = await wallet.post_group(order), await wallet.post_group(order)

    assert isinstance(first, GroupRefused)
    assert (first.reason, again) == (Reason.INSUFFICIENT_FUNDS, first)


@pytest.mark.usefixtures("people")
@pytest.mark.parametrize(("amount", "sort"), [(100_00, GroupPosted), (100_01, GroupRefused)])
async def test_a_try_says_what_a_post_would_and_stores_nothing(
    wallet: WalletClient, served: ServedWallet, amount: int, sort: type
) -> None:
    order = payment(ALICE, BOB, amount, 20)

    tried = await wallet.try_group(order)

    assert type(tried) is sort
    assert await available(served.service, ALICE) == 100_00
    another_under_the_id = msgspec.structs.replace(order, reference="another")
    assert type(await wallet.post_group(another_under_the_id)) is sort


@pytest.mark.usefixtures("people")
async def test_a_group_that_was_abandoned_is_refused_for_good(wallet: WalletClient, served: ServedWallet) -> None:
    """The tombstone of DESIGN section 5, rule 4: the order itself may arrive after its sender has given it up."""
    order = payment(ALICE, BOB, 10_00, 20)

    abandoned = await wallet.abandon_group(order)

    assert isinstance(abandoned, GroupRefused)
    assert (abandoned.verdict, abandoned.reason) == ("group_was_abandoned", Reason.ABANDONED)
    assert await wallet.post_group(order) == await wallet.try_group(order) == abandoned
    assert await wallet.abandon_group(order) == abandoned
    assert await available(served.service, ALICE) == 100_00


@pytest.mark.usefixtures("people")
@pytest.mark.parametrize("amount", [100_00, 100_01], ids=["posted", "refused"])
async def test_a_group_with_an_outcome_is_not_abandoned_any_more(wallet: WalletClient, amount: int) -> None:
    order = payment(ALICE, BOB, amount, 20)
    outcome = await wallet.post_group(order)

    assert await wallet.abandon_group(order) == outcome
    assert await wallet.post_group(order) == outcome


@pytest.mark.usefixtures("people")
async def test_orders_come_back_as_they_were_sent_in_their_sequence_with_their_outcomes(wallet: WalletBooks) -> None:
    """Without who asked, which only the audit knows. Credits, like the one before, are no orders of another service."""
    orders = [payment(ALICE, BOB, 1_00, 2), payment(ALICE, BOB, 100_01, 2), payment(ALICE, BOB, 2_00, 4)]
    orders[2] = msgspec.structs.replace(orders[2], spender=ALICE, memo={"hash": "abc", "metadata": {"table": "7"}})
    outcomes = [await wallet.post_group(order) for order in orders]

    page = await wallet.orders_after(0)

    sent = [msgspec.structs.replace(order, actor="") for order in orders]
    assert [(each.order, each.outcome) for each in page.items] == list(zip(sent, outcomes, strict=True))
    assert page.after is not None
    assert await wallet.orders_after(page.after) == StoredOrders(items=[], after=None)
    assert await wallet.find_orders([orders[1].id, "grp_unknown"]) == page.items[1:2]


@pytest.mark.usefixtures("people")
async def test_users_without_a_wallet_are_named(wallet: WalletBooks) -> None:
    assert await wallet.without_wallet([ALICE, "usr_nobody", BOB]) == ["usr_nobody"]


@pytest.mark.usefixtures("people")
async def test_what_notification_knows_and_the_wallet_does_not_is_booked_again(
    wallet: WalletBooks, served: ServedWallet
) -> None:
    data = {"customerId": ALICE, "transferId": "trf_lost", "amount": 5_00, "currency": "USD", "reference": "lost"}
    memo = {"actor": "cli_backend", "requestId": "req_lost", "key": "key-lost"}
    served.listener.kept = [KeptEvent("wallet.debited", {**data, "description": None}, memo)]

    compared, again = await wallet.repeat_movements(0), await wallet.repeat_movements(0)

    case = Case("trf_lost", "a debit was told, but the wallet had lost it", 5_00, "USD", "booked again", settled=True)
    assert compared == Compared([case], 1)
    assert again == Compared([], 1)
    assert await wallet.repeat_movements(1) == Compared([], None)
    assert await available(served.service, ALICE) == 95_00


@pytest.mark.usefixtures("people")
async def test_what_is_found_lost_twice_is_booked_once(wallet: WalletBooks, served: ServedWallet) -> None:
    """As by two reconciliations at once: both look before either of them books."""
    data = {"customerId": ALICE, "transferId": "trf_lost", "amount": 5_00, "currency": "USD", "reference": "lost"}
    memo = {"actor": "cli_backend", "requestId": "req_lost", "key": "key-lost"}
    served.listener.kept = [KeptEvent("wallet.debited", {**data, "description": None}, memo)] * 2

    compared = await wallet.repeat_movements(0)

    assert [(case.done, case.settled) for case in compared.cases] == [("booked again", True)] * 2
    assert await available(served.service, ALICE) == 95_00


@pytest.mark.usefixtures("people")
async def test_what_the_wallet_has_told_and_nobody_knows_is_told_again(
    wallet: WalletBooks, served: ServedWallet
) -> None:
    """Exactly as it was told first; what notification has is not told again."""
    for _ in range(1000):
        if not served.service._database.read(outbox.waiting):
            break
        await asyncio.sleep(0.01)  # what waits there is under way
    [first] = served.listener.events
    assert await wallet.repeat_events(0) == Compared([], 3)
    served.listener.forgotten.add(first.id)

    compared = await wallet.repeat_events(0)

    what = f"wallet.credited of {ALICE} was told, but lost"
    assert compared.cases == [Case(first.id, what, 100_00, "USD", "told again", settled=True)]
    assert served.listener.events == [first, first]


@pytest.mark.usefixtures("people")
async def test_another_memo_makes_another_order(wallet: WalletClient) -> None:
    order = payment(ALICE, BOB, 1_00, 2)
    await wallet.post_group(order)

    outcome = await wallet.post_group(msgspec.structs.replace(order, memo={"hash": "abc"}))

    assert isinstance(outcome, GroupRefused)
    assert "different memo" in outcome.detail


@pytest.mark.usefixtures("people")
async def test_linked_groups_are_posted_together_once(wallet: WalletClient, served: ServedWallet) -> None:
    orders = [payment(ALICE, BOB, 10_00, 20) for _ in range(3)]

    first, again = await wallet.post_linked(orders), await wallet.post_linked(orders)

    assert [type(outcome) for outcome in first] == [GroupPosted] * 3
    assert again == first == [await wallet.post_group(order) for order in orders]
    assert await available(served.service, ALICE) == 70_00


@pytest.mark.usefixtures("people")
async def test_linked_groups_are_refused_together_for_good(wallet: WalletClient, served: ServedWallet) -> None:
    """Each by itself, too, whoever asks for it afterwards; what comes behind them finds the money."""
    orders = [payment(ALICE, BOB, amount, 20) for amount in (60_00, 60_00, 10_00)]

    first, again = await wallet.post_linked(orders), await wallet.post_linked(orders)

    reasons = [outcome.reason for outcome in first if isinstance(outcome, GroupRefused)]
    assert reasons == [Reason.BULK_REFUSED, Reason.INSUFFICIENT_FUNDS, Reason.BULK_REFUSED]
    assert again == first == [await wallet.post_group(order) for order in orders]
    assert await available(served.service, ALICE) == 100_00
    assert isinstance(await wallet.post_group(payment(ALICE, BOB, 100_00, 20)), GroupPosted)


@pytest.mark.usefixtures("people")
async def test_one_linked_group_that_was_given_up_gives_up_all(wallet: WalletClient, served: ServedWallet) -> None:
    """So whoever gives them up one by one, and meets a late copy of all, never leaves a part."""
    orders = [payment(ALICE, BOB, 10_00, 20) for _ in range(3)]
    await wallet.abandon_group(orders[1])

    outcomes = await wallet.post_linked(orders)

    reasons = [outcome.reason for outcome in outcomes if isinstance(outcome, GroupRefused)]
    assert reasons == [Reason.BULK_REFUSED, Reason.ABANDONED, Reason.BULK_REFUSED]
    assert [await wallet.abandon_group(order) for order in orders] == outcomes
    assert await available(served.service, ALICE) == 100_00


@pytest.mark.usefixtures("people")
async def test_another_order_by_the_id_of_a_linked_group_moves_nothing_of_the_others(
    wallet: WalletClient, served: ServedWallet
) -> None:
    orders = [payment(ALICE, BOB, 10_00, 20) for _ in range(2)]
    await wallet.post_group(msgspec.structs.replace(orders[0], reference="another"))

    outcomes = await wallet.post_linked(orders)

    reasons = [outcome.reason for outcome in outcomes if isinstance(outcome, GroupRefused)]
    assert reasons == [Reason.IDEMPOTENCY_KEY_REUSED, Reason.BULK_REFUSED]
    assert await available(served.service, ALICE) == 90_00


@pytest.mark.usefixtures("people")
async def test_a_credit_is_booked_once_for_its_reference_and_its_refusal_stays(
    wallet: WalletClient, served: ServedWallet
) -> None:
    """As if its actor had asked for it here, with the same reference."""
    request = MoveMoney(customer_id=ALICE, amount=5_00, currency="USD", reference="salary")
    order = CreditOrder(credit=request, idempotency_key=None, actor=BACK_END.subject, request_id="req_salary")
    lost = msgspec.structs.replace(order, credit=msgspec.structs.replace(request, currency="EUR", reference="lost"))

    first, again = await wallet.book_credit(order), await wallet.book_credit(order)
    refused, once_more = await wallet.book_credit(lost), await wallet.book_credit(lost)
    alone = await served.service.credit(BACK_END, request, "k")

    assert isinstance(first, CreditBooked)
    assert again == CreditBooked(answer=first.answer, replayed=True)
    assert alone == Moved(first.answer, replayed=True)
    assert isinstance(refused, CreditRefused)
    assert (refused.answer.reason, refused.replayed) == (Reason.CURRENCY_MISMATCH, False)
    assert once_more == CreditRefused(answer=refused.answer, replayed=True)
    assert await available(served.service, ALICE) == 105_00


@pytest.mark.usefixtures("people")
async def test_many_orders_at_once_get_each_its_own_outcome(wallet: WalletClient, served: ServedWallet) -> None:
    """More than a body holds: a description may be long, and a body has 64 KiB."""
    orders = [
        msgspec.structs.replace(payment(ALICE, BOB, 3_00, 6), description="🎉" * 500, reference="é" * 255)
        for _ in range(80)
    ]

    outcomes = await asyncio.gather(*(wallet.post_group(order) for order in orders))

    assert [outcome.id for outcome in outcomes] == [order.id for order in orders]
    assert [type(outcome) for outcome in outcomes] == [GroupPosted] * 33 + [GroupRefused] * 47
    assert await available(served.service, ALICE) == 1_00


@pytest.mark.usefixtures("people")
async def test_an_order_that_fails_on_the_machinery_leaves_its_neighbours_alone(
    http: HttpWallet, served: ServedWallet, monkeypatch: pytest.MonkeyPatch
) -> None:
    orders = [payment(ALICE, BOB, 3_00, 6) for _ in range(3)]
    post_group = served.service.post_group

    async def fails_for_one(order: GroupOrder) -> GroupOutcome:
        if order.id == orders[1].id:
            raise RuntimeError("the machinery")
        return await post_group(order)

    monkeypatch.setattr(served.service, "post_group", fails_for_one)

    outcomes = await asyncio.gather(*(http.post_group(order) for order in orders), return_exceptions=True)

    assert [type(outcome) for outcome in outcomes] == [GroupPosted, OutcomeUnknown, GroupPosted]
