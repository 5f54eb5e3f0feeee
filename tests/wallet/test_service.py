"""The wallet's use cases, on both databases: what is booked, refused, replayed, told and remembered."""

import asyncio
from collections.abc import AsyncIterator

import msgspec
import pytest
from sqlalchemy import Connection, select

from ewallet.kernel.caller import Caller, Role
from ewallet.kernel.clock import MICROSECONDS_PER_SECOND
from ewallet.kernel.errors import Reason, Refusal, Refused, unwrap
from ewallet.plumbing.http.contract import encode_cursor
from ewallet.plumbing.outbox import Event
from ewallet.wallet import store
from ewallet.wallet.domain.wallets import Change
from ewallet.wallet.messages import (
    GroupPosted,
    GroupRefused,
    LimitView,
    MoneyMoved,
    MovementType,
    MoveMoney,
    OpenWallet,
    SetLimits,
    Statement,
    TransferKind,
    ValidateWallet,
)
from ewallet.wallet.service import WalletService
from ewallet.wallet.worker import HoldExpiry
from tests.support.plumbing import before_each_statement
from tests.support.verifying import faults_in
from tests.support.wallet import (
    ADMIN,
    ALICE,
    BACK_END,
    BOB,
    NOW,
    available,
    credit,
    customer,
    fresh,
    group,
    hold,
    open_wallet,
    payment,
    running_wallet,
    transfer,
)


class Time:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> int:
        return self.now

    def pass_seconds(self, seconds: int) -> None:
        self.now += seconds * MICROSECONDS_PER_SECOND


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
async def wallet(database_url: str, time: Time) -> AsyncIterator[WalletService]:
    """Alice with 100.00 USD, and Bob, who is a merchant with nothing."""
    async with running_wallet(database_url, clock=time) as service:
        await open_wallet(service, ALICE, amount=100_00)
        await open_wallet(service, BOB, role=Role.MERCHANT)
        yield service


def move(owner: str = ALICE, amount: int = 10, currency: str = "USD", reference: str = "") -> MoveMoney:
    return MoveMoney(customer_id=owner, amount=amount, currency=currency, reference=reference or fresh("ref"))


def reason(answer: object) -> str:
    """The reason of a refusal of any sort."""
    assert isinstance(answer, Refusal | GroupRefused), answer
    return answer.reason.value


async def statement(wallet: WalletService, owner: str, *, limit: int = 20, **wanted: str | None) -> Statement:
    arguments = {"currency": None, "start": None, "end": None, "cursor": None, **wanted}
    return unwrap(await wallet.statement(ADMIN, owner, limit=limit, **arguments))


async def events(wallet: WalletService) -> list[Event]:
    def read(tx: Connection) -> list[str]:
        outbox = store.outbox.events
        return list(tx.execute(select(outbox.c.payload).order_by(outbox.c.sequence)).scalars())

    return [msgspec.json.decode(payload, type=Event) for payload in await wallet._database.reading(read)]


HUGE = encode_cursor(2**63)

# --- groups -------------------------------------------------------------------------------------------------------


async def test_a_payment_debits_the_payer_credits_the_merchant_and_takes_the_fee(wallet: WalletService) -> None:
    outcome = await wallet.post_group(payment(ALICE, BOB, 12_50, 25))

    assert outcome == GroupPosted(id=outcome.id, posted_at=NOW)
    assert await available(wallet, ALICE) == 87_50
    assert await available(wallet, BOB) == 12_25
    fees = await wallet._database.reading(lambda tx: store.accounts_by_id(tx, ["fees:USD"], lock=False))
    assert fees["fees:USD"].balance == 25
    assert faults_in(wallet) == []


async def test_a_repeated_group_gets_its_first_answer_and_moves_nothing(wallet: WalletService, time: Time) -> None:
    order = payment(ALICE, BOB, 12_50, 25)
    first = await wallet.post_group(order)
    time.pass_seconds(60)

    again = await wallet.post_group(msgspec.structs.replace(order, actor="service:recovery", request_id="req_other"))

    assert again == first
    assert await available(wallet, ALICE) == 87_50


async def test_a_refused_group_stays_refused_when_the_money_has_come(wallet: WalletService) -> None:
    order = payment(ALICE, BOB, 100_01, 25)
    first = await wallet.post_group(order)
    await credit(wallet, ALICE, 100_00)

    assert reason(first) == "insufficient-funds"
    assert await wallet.post_group(order) == first


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"transaction_id": "pay_other"}, "transaction_id"),
        ({"reference": "other"}, "reference"),
        ({"description": "other"}, "description"),
        ({"transfers": (transfer(ALICE, BOB, 1, id_="trf_1"),)}, "transfers[0].amount"),
        ({"transfers": (transfer(ALICE, BOB, 7, id_="trf_1", currency="EUR"),)}, "transfers[0].debitAccount"),
        ({"transfers": (transfer(ALICE, BOB, 7, id_="trf_1"), transfer(ALICE, BOB, 1))}, "transfers[1].id"),
        ({"transfers": ()}, "transfers[0].id"),
    ],
)
async def test_an_id_with_another_order_is_told_what_differs(
    wallet: WalletService, change: dict[str, object], named: str
) -> None:
    order = group(transfer(ALICE, BOB, 7, id_="trf_1"), id_="grp_1")
    await wallet.post_group(order)

    outcome = await wallet.post_group(msgspec.structs.replace(order, **change))

    assert isinstance(outcome, GroupRefused)
    assert outcome.reason is Reason.IDEMPOTENCY_KEY_REUSED
    assert outcome.detail == f"grp_1 exists with a different {named}."
    assert await available(wallet, ALICE) == 99_93


async def test_who_spends_belongs_to_the_order_too(wallet: WalletService) -> None:
    order = payment(ALICE, BOB, 7, 1)
    await wallet.post_group(order)

    for call in (wallet.post_group, wallet.abandon_group, wallet.try_group):
        outcome = await call(msgspec.structs.replace(order, spender=None))
        assert isinstance(outcome, GroupRefused)
        assert (outcome.verdict, outcome.reason) == ("id_already_taken", Reason.IDEMPOTENCY_KEY_REUSED)
        assert outcome.detail == f"{order.id} exists with a different spender."


async def test_a_refusal_names_the_rule_that_spoke(wallet: WalletService, time: Time) -> None:
    """``invalid-state`` alone would not tell whoever captures a hold that it has expired."""
    hold = transfer(ALICE, BOB, 10, kind=TransferKind.PENDING, timeout_seconds=1)
    await wallet.post_group(group(hold))
    time.pass_seconds(1)

    outcome = await wallet.post_group(group(transfer(ALICE, BOB, 10, kind=TransferKind.POST, pending_id=hold.id)))

    assert isinstance(outcome, GroupRefused)
    assert (outcome.verdict, outcome.reason) == ("pending_transfer_expired", Reason.INVALID_STATE)


async def test_a_try_waits_for_nobody(wallet: WalletService) -> None:
    """A quote must not stand in the way of payments, nor they in its own."""

    def try_meanwhile(tx: Connection) -> object:
        store.accounts_by_id(tx, ["usr_alice:USD", "usr_bob:USD", "fees:USD"], lock=True)
        trying = asyncio.run_coroutine_threadsafe(wallet.try_group(payment(ALICE, BOB, 1_00, 2)), loop)
        return trying.result(timeout=2)

    loop = asyncio.get_running_loop()

    assert isinstance(await wallet._database.writing(try_meanwhile), GroupPosted)


async def test_an_order_given_up_is_in_the_audit(wallet: WalletService) -> None:
    order = payment(ALICE, BOB, 1_00, 2)
    await wallet.abandon_group(order)

    trail = await wallet.audit_trail(ADMIN, subject=order.transaction_id, request_id=None, limit=10, cursor=None)

    [entry] = trail.items
    assert (entry.actor, entry.action, entry.result) == ("usr_payer", "wallet.abandon_group", "abandoned")
    assert (entry.detail["outcome"], entry.detail["group"]) == ("group_was_abandoned", order.id)


async def test_a_transfer_id_of_another_group_is_refused(wallet: WalletService) -> None:
    await wallet.post_group(group(transfer(ALICE, BOB, 7, id_="trf_1")))

    assert reason(await wallet.post_group(group(transfer(ALICE, BOB, 7, id_="trf_1")))) == "idempotency-key-reused"


@pytest.mark.parametrize(
    ("merchant", "currency", "expected"),
    [
        ("usr_nobody", "USD", "unknown-merchant"),
        ("usr_customer", "USD", "unknown-merchant"),
        (ALICE, "USD", "unknown-merchant"),
        ("cash", "USD", "unknown-merchant"),
        ("fees", "USD", "unknown-merchant"),
        ("usr_übel", "USD", "unknown-merchant"),
        ("usr_nobody", "EUR", "unknown-merchant"),
        (BOB, "EUR", "currency-mismatch"),
        ("usr_euro", "USD", "currency-mismatch"),
    ],
)
async def test_a_payment_needs_a_merchant_with_the_currency(
    wallet: WalletService, merchant: str, currency: str, expected: str
) -> None:
    await open_wallet(wallet, "usr_customer")
    await open_wallet(wallet, "usr_euro", role=Role.MERCHANT, currency="EUR")

    assert reason(await wallet.post_group(payment(ALICE, merchant, 100, 2, currency=currency))) == expected


async def test_an_unknown_payer_is_not_found(wallet: WalletService) -> None:
    assert reason(await wallet.post_group(payment("usr_nobody", BOB, 100, 2))) == "not-found"


@pytest.mark.parametrize("side", [ALICE, BOB])
async def test_frozen_money_moves_in_no_way(wallet: WalletService, side: str) -> None:
    """FROZEN against payment, credit, debit, hold, capture, refund."""
    await credit(wallet, BOB, 50_00)
    hold = transfer(ALICE, BOB, 5_00, kind=TransferKind.PENDING)
    await wallet.post_group(group(hold))
    await wallet.change_status(ADMIN, side, Change.FREEZE, "a doubt")

    for order in (
        payment(ALICE, BOB, 1_00, 2),
        group(transfer(ALICE, BOB, 1_00, kind=TransferKind.PENDING)),
        group(transfer(ALICE, BOB, 5_00, kind=TransferKind.POST, pending_id=hold.id)),
        group(transfer(BOB, ALICE, 1_00)),
    ):
        assert reason(await wallet.post_group(order)) == "wallet-frozen"
    assert reason((await wallet.credit(BACK_END, move(side), None)).answer) == "wallet-frozen"
    assert reason((await wallet.debit(BACK_END, move(side), None)).answer) == "wallet-frozen"

    await wallet.change_status(ADMIN, side, Change.UNFREEZE, "no doubt")
    assert isinstance(await wallet.post_group(payment(ALICE, BOB, 1_00, 2)), GroupPosted)


async def test_a_closed_wallet_takes_and_gives_nothing(wallet: WalletService) -> None:
    """CLOSED against payment, refund, credit, debit, hold, another currency, being unfrozen."""
    await wallet.change_status(ADMIN, BOB, Change.CLOSE, "he left")

    for order in (
        payment(ALICE, BOB, 1_00, 2),
        group(transfer(BOB, ALICE, 1_00)),
        group(transfer(ALICE, BOB, 1_00, kind=TransferKind.PENDING)),
    ):
        assert reason(await wallet.post_group(order)) == "wallet-closed"
    assert reason((await wallet.credit(BACK_END, move(BOB), None)).answer) == "wallet-closed"
    assert reason((await wallet.debit(BACK_END, move(BOB), None)).answer) == "wallet-closed"
    assert reason(await wallet.open_balance(ADMIN, BOB, "EUR")) == "wallet-closed"
    assert reason(await wallet.change_status(ADMIN, BOB, Change.UNFREEZE, "back?")) == "wallet-closed"


async def test_a_hold_expires_and_its_money_is_back(wallet: WalletService, time: Time) -> None:
    order = transfer(ALICE, BOB, 60_00, kind=TransferKind.PENDING, timeout_seconds=10)
    await wallet.post_group(group(order))
    expiry = HoldExpiry(wallet)

    assert await expiry.run_once() == 0
    assert await available(wallet, ALICE) == 40_00
    time.pass_seconds(10)
    assert await expiry.run_once() == 1
    assert await expiry.run_once() == 0

    assert await available(wallet, ALICE) == 100_00
    late = group(transfer(ALICE, BOB, 60_00, kind=TransferKind.POST, pending_id=order.id))
    assert reason(await wallet.post_group(late)) == "invalid-state"
    assert faults_in(wallet) == []


async def test_time_on_an_account_does_not_go_back(wallet: WalletService, time: Time) -> None:
    """Another process's clock may be behind; a statement must still be in order."""
    time.pass_seconds(-60)

    await credit(wallet, ALICE, 1)

    first, second = (await statement(wallet, ALICE)).items
    assert first.created_at >= second.created_at


# --- credit and debit ---------------------------------------------------------------------------------------------


async def test_a_movement_answers_what_was_booked(wallet: WalletService) -> None:
    moved = await wallet.debit(BACK_END, move(amount=30_00, reference="withdrawal 1"), None)

    assert moved.answer == MoneyMoved(
        transfer_id=moved.answer.transfer_id if isinstance(moved.answer, MoneyMoved) else "",
        customer_id=ALICE,
        type=MovementType.DEBIT,
        amount=30_00,
        currency="USD",
        available=70_00,
        reference="withdrawal 1",
        created_at="2026-09-21T14:13:20.000Z",
    )
    assert not moved.replayed


@pytest.mark.parametrize("amount", [30_00, 100_01], ids=["booked", "refused"])
async def test_a_repeated_reference_gets_the_first_answer(wallet: WalletService, amount: int) -> None:
    request = move(amount=amount, reference="withdrawal 1")
    first = await wallet.debit(BACK_END, request, None)
    await credit(wallet, ALICE, 500_00)

    again = await wallet.debit(Caller(BACK_END.subject, Role.SERVICE, "req_again"), request, None)

    assert again.replayed
    expected = first.answer
    if isinstance(expected, Refusal):
        assert isinstance(again.answer, Refusal)
        assert (again.answer.reason, again.answer.detail) == (expected.reason, expected.detail)
        assert again.answer.members == {"requestId": BACK_END.request_id}
    else:
        assert again.answer == expected


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"amount": 31_00}, "amount"),
        ({"currency": "EUR"}, "currency"),
        ({"customer_id": BOB}, "customerId"),
        ({"description": "x"}, "description"),
    ],
)
async def test_a_reference_is_not_used_for_two_requests(
    wallet: WalletService, change: dict[str, object], named: str
) -> None:
    request = move(amount=30_00, reference="withdrawal 1")
    await wallet.debit(BACK_END, request, None)

    moved = await wallet.debit(BACK_END, msgspec.structs.replace(request, **change), None)

    assert reason(moved.answer) == "idempotency-key-reused"
    assert isinstance(moved.answer, Refusal)
    assert f"different {named}:" in moved.answer.detail
    assert not moved.replayed


async def test_a_credit_does_not_repeat_a_debit(wallet: WalletService) -> None:
    request = move(amount=30_00, reference="withdrawal 1")
    await wallet.debit(BACK_END, request, None)

    assert reason((await wallet.credit(BACK_END, request, None)).answer) == "idempotency-key-reused"


async def test_references_and_keys_belong_to_their_caller(wallet: WalletService) -> None:
    request = move(amount=1_00, reference="same")

    for caller in (BACK_END, ADMIN):
        moved = await wallet.debit(caller, request, "same key")
        assert not moved.replayed

    assert await available(wallet, ALICE) == 98_00


async def test_a_key_belongs_to_one_request(wallet: WalletService) -> None:
    request = move(amount=1_00, reference="first")
    await wallet.debit(BACK_END, request, "key")

    assert (await wallet.debit(BACK_END, request, "key")).replayed
    assert (await wallet.debit(BACK_END, request, "another key")).replayed
    other = await wallet.debit(BACK_END, move(amount=1_00, reference="second"), "another key")

    assert reason(other.answer) == "idempotency-key-reused"
    assert await available(wallet, ALICE) == 99_00


@pytest.mark.parametrize(
    ("owner", "currency", "expected"),
    [
        ("usr_nobody", "USD", "not-found"),
        ("cash", "USD", "not-found"),
        ("fees", "USD", "not-found"),
        ("usr_nobody", "EUR", "not-found"),
        (ALICE, "EUR", "currency-mismatch"),
        (ALICE, "XYZ", "validation-error"),
    ],
)
async def test_a_movement_needs_a_wallet_with_the_currency(
    wallet: WalletService, owner: str, currency: str, expected: str
) -> None:
    assert reason((await wallet.credit(BACK_END, move(owner, currency=currency), None)).answer) == expected
    assert reason((await wallet.debit(BACK_END, move(owner, currency=currency), None)).answer) == expected
    assert faults_in(wallet) == []


async def test_more_than_can_be_counted_is_refused_not_lost(wallet: WalletService) -> None:
    def fill(tx: Connection) -> None:
        account = store.accounts_by_id(tx, ["usr_alice:USD"], lock=True)["usr_alice:USD"]
        account.credits_posted = 2**63 - 1
        store.update_accounts(tx, [account])

    await wallet._database.writing(fill)

    assert reason((await wallet.credit(BACK_END, move(amount=1), None)).answer) == "invalid-state"


# --- wallets ------------------------------------------------------------------------------------------------------


async def test_opening_what_is_open_changes_nothing(wallet: WalletService) -> None:
    before = await wallet.wallet(ADMIN, ALICE)

    await open_wallet(wallet, ALICE)

    assert await wallet.wallet(ADMIN, ALICE) == before


async def test_a_closed_wallet_is_open_already_but_gets_no_new_currency(wallet: WalletService) -> None:
    await wallet.change_status(ADMIN, BOB, Change.CLOSE, "he left")
    order = OpenWallet(owner=BOB, role=Role.MERCHANT, currency="USD", actor="a", request_id="r")

    await wallet.open_wallet(order)
    with pytest.raises(Refused):
        await wallet.open_wallet(msgspec.structs.replace(order, currency="EUR"))


async def test_a_wallet_gets_further_currencies(wallet: WalletService) -> None:
    view = unwrap(await wallet.open_balance(customer(ALICE), ALICE, "EUR"))
    again = unwrap(await wallet.open_balance(customer(ALICE), ALICE, "EUR"))

    assert [(balance.currency, balance.available) for balance in view.balances] == [("EUR", 0), ("USD", 100_00)]
    assert again == view
    await credit(wallet, ALICE, 5, currency="EUR")
    assert await available(wallet, ALICE, "EUR") == 5
    assert await available(wallet, ALICE, "USD") == 100_00


async def test_a_balance_needs_a_wallet_of_the_own_and_a_currency(wallet: WalletService) -> None:
    assert reason(await wallet.open_balance(customer(BOB), ALICE, "EUR")) == "not-found"
    assert reason(await wallet.open_balance(ADMIN, "usr_nobody", "EUR")) == "not-found"
    assert reason(await wallet.open_balance(ADMIN, ALICE, "XYZ")) == "validation-error"


async def test_other_peoples_wallets_look_as_if_they_were_not_there(wallet: WalletService) -> None:
    async def answers(owner: str) -> list[object]:
        everything = {"currency": None, "start": None, "end": None, "cursor": None}
        return [
            await wallet.wallet(customer(BOB), owner),
            await wallet.validate(customer(BOB), ValidateWallet(customer_id=owner, amount=1, currency="USD")),
            await wallet.statement(customer(BOB), owner, limit=1, **everything),
            await wallet.open_balance(customer(BOB), owner, "EUR"),
        ]

    others = await answers(ALICE)

    assert [reason(answer) for answer in others] == ["not-found"] * 4
    assert others == await answers("usr_nobody")


async def test_a_wallet_shows_what_is_held(wallet: WalletService) -> None:
    await wallet.post_group(group(transfer(ALICE, BOB, 60_00, kind=TransferKind.PENDING)))

    [balance] = unwrap(await wallet.wallet(customer(ALICE), ALICE)).balances

    assert (balance.available, balance.held) == (40_00, 60_00)


@pytest.mark.parametrize(
    ("change", "amount", "currency", "reasons"),
    [
        (None, 100_00, "USD", []),
        (None, 100_01, "USD", ["INSUFFICIENT_FUNDS"]),
        (None, 1, "EUR", ["CURRENCY_MISMATCH"]),
        (Change.FREEZE, 1, "USD", ["WALLET_FROZEN"]),
        (Change.FREEZE, 100_01, "USD", ["INSUFFICIENT_FUNDS", "WALLET_FROZEN"]),
        (Change.FREEZE, 1, "EUR", ["CURRENCY_MISMATCH", "WALLET_FROZEN"]),
    ],
)
async def test_validation_names_every_reason_at_once(
    wallet: WalletService, change: Change | None, amount: int, currency: str, reasons: list[str]
) -> None:
    if change is not None:
        await wallet.change_status(ADMIN, ALICE, change, "a doubt")
    request = ValidateWallet(customer_id=ALICE, amount=amount, currency=currency)

    validation = unwrap(await wallet.validate(customer(ALICE), request))

    assert (validation.valid, validation.reasons) == (not reasons, reasons)


async def test_validation_needs_a_currency_that_there_is(wallet: WalletService) -> None:
    request = ValidateWallet(customer_id=ALICE, amount=1, currency="XYZ")

    assert reason(await wallet.validate(customer(ALICE), request)) == "validation-error"


async def test_staff_find_no_wallet_where_there_is_none(wallet: WalletService) -> None:
    everything = {"currency": None, "start": None, "end": None, "cursor": None}

    for answer in (
        await wallet.wallet(ADMIN, "usr_nobody"),
        await wallet.limits(ADMIN, "usr_nobody"),
        await wallet.statement(ADMIN, "usr_übel", limit=1, **everything),
    ):
        assert reason(answer) == "not-found"


async def test_only_an_empty_wallet_closes_and_stays_closed(wallet: WalletService) -> None:
    assert reason(await wallet.change_status(ADMIN, ALICE, Change.CLOSE, "she left")) == "invalid-state"
    await wallet.debit(BACK_END, move(amount=100_00), None)

    closed = unwrap(await wallet.change_status(ADMIN, ALICE, Change.CLOSE, "she left"))

    assert closed.status == "CLOSED"
    validation = unwrap(await wallet.validate(ADMIN, ValidateWallet(customer_id=ALICE, amount=1, currency="USD")))
    assert validation.reasons == ["WALLET_CLOSED"]


async def test_a_status_that_is_there_already_is_left_alone(wallet: WalletService, time: Time) -> None:
    frozen = await wallet.change_status(ADMIN, ALICE, Change.FREEZE, "a doubt")
    time.pass_seconds(5)

    assert await wallet.change_status(ADMIN, ALICE, Change.FREEZE, "another doubt") == frozen
    assert [event.name for event in await events(wallet)].count("wallet.frozen") == 1


# --- limits -------------------------------------------------------------------------------------------------------

DAY = 24 * 3600


@pytest.fixture
async def limited(database_url: str, time: Time) -> AsyncIterator[WalletService]:
    """Alice with 1000.00 USD, of which she may spend 30.00 at once, 50.00 a day and 80.00 a month, and Bob."""
    limits = "USD=per_payment:3000,per_day:5000,per_month:8000"
    async with running_wallet(database_url, clock=time, limits=limits) as service:
        await open_wallet(service, ALICE, amount=1000_00)
        await open_wallet(service, BOB, role=Role.MERCHANT)
        yield service


def own_limits(**limits: int) -> SetLimits:
    return msgspec.structs.replace(SetLimits(per_payment=None, per_day=None, per_month=None), **limits)


async def limits_of(wallet: WalletService, owner: str = ALICE) -> LimitView:
    [view] = unwrap(await wallet.limits(customer(owner), owner)).limits
    return view


async def test_a_limit_is_named_with_what_is_left_of_it_and_the_answer_stays(limited: WalletService) -> None:
    await limited.post_group(payment(ALICE, BOB, 30_00, 60))
    order = payment(ALICE, BOB, 20_01, 40)

    refused = await limited.post_group(order)
    await limited.change_limits(ADMIN, ALICE, "USD", own_limits())

    assert isinstance(refused, GroupRefused)
    assert (refused.verdict, refused.reason) == ("exceeds_limit_per_day", Reason.LIMIT_EXCEEDED)
    assert refused.members == {"limit": "perDay", "allowed": 50_00, "left": 20_00}
    assert refused.detail == "The wallet's limit leaves 20.00 USD to spend today."
    assert await limited.post_group(order) == refused
    assert await available(limited, ALICE) == 970_00


async def test_linked_groups_count_towards_a_limit_one_behind_the_other(limited: WalletService) -> None:
    """What is left is named as it was when the last one's turn had come; then nothing of it has been spent."""
    orders = [payment(ALICE, BOB, amount, 40) for amount in (30_00, 20_01)]

    first, refused = await limited.post_linked(orders)
    posted = await limited.post_linked([payment(ALICE, BOB, amount, 40) for amount in (30_00, 20_00)])

    assert isinstance(first, GroupRefused)
    assert first.reason is Reason.BULK_REFUSED
    assert isinstance(refused, GroupRefused)
    assert refused.members == {"limit": "perDay", "allowed": 50_00, "left": 20_00}
    assert [type(outcome) for outcome in posted] == [GroupPosted] * 2
    assert (await limits_of(limited)).spent_today == 50_00


async def test_limits_and_what_is_left_are_shown(limited: WalletService, time: Time) -> None:
    await limited.post_group(payment(ALICE, BOB, 30_00, 60))
    time.pass_seconds(DAY)
    await limited.post_group(payment(ALICE, BOB, 10_00, 20))

    assert await limits_of(limited) == LimitView(
        currency="USD",
        per_payment=30_00,
        per_day=50_00,
        per_month=80_00,
        overridden=False,
        spent_today=10_00,
        left_today=40_00,
        spent_this_month=40_00,
        left_this_month=40_00,
    )


async def test_spending_is_counted_where_nothing_limits_it(wallet: WalletService) -> None:
    """Limits that are set at noon must know of the morning."""
    await wallet.post_group(payment(ALICE, BOB, 30_00, 60))

    view = await limits_of(wallet)
    await wallet.change_limits(ADMIN, ALICE, "USD", own_limits(per_day=30_01))

    assert (view.spent_today, view.left_today, view.spent_this_month, view.left_this_month) == (
        30_00,
        None,
        30_00,
        None,
    )
    assert reason(await wallet.post_group(payment(ALICE, BOB, 2, 1))) == "limit-exceeded"
    assert isinstance(await wallet.post_group(group(transfer(ALICE, BOB, 1), spender=ALICE)), GroupPosted)


async def test_own_limits_take_the_place_of_everybodys_until_they_are_taken_away(limited: WalletService) -> None:
    await limited.change_limits(ADMIN, ALICE, "USD", own_limits(per_payment=100_00))
    overridden = await limits_of(limited)
    assert isinstance(await limited.post_group(payment(ALICE, BOB, 100_00, 2)), GroupPosted)
    assert reason(await limited.post_group(payment(ALICE, BOB, 100_01, 2))) == "limit-exceeded"

    await limited.change_limits(ADMIN, ALICE, "USD", own_limits(per_payment=5_00))
    changed = await limits_of(limited)
    await limited.change_limits(ADMIN, ALICE, "USD", None)
    back = await limits_of(limited)

    assert (overridden.overridden, overridden.per_payment, overridden.per_day) == (True, 100_00, None)
    assert (changed.overridden, changed.per_payment) == (True, 5_00)
    assert (back.overridden, back.per_payment, back.left_today) == (False, 30_00, 0)
    assert reason(await limited.post_group(payment(ALICE, BOB, 2, 1))) == "limit-exceeded"


async def test_own_limits_are_for_a_balance_of_a_wallet(limited: WalletService) -> None:
    change = limited.change_limits

    assert reason(await change(ADMIN, "usr_nobody", "USD", own_limits())) == "not-found"
    assert reason(await change(ADMIN, "usr_übel", "USD", own_limits())) == "not-found"
    assert reason(await change(ADMIN, "cash", "USD", own_limits())) == "not-found"
    assert reason(await change(ADMIN, ALICE, "EUR", own_limits())) == "currency-mismatch"
    assert reason(await change(ADMIN, ALICE, "XYZ", None)) == "currency-mismatch"
    assert reason(await limited.limits(customer(BOB), ALICE)) == "not-found"


async def test_a_change_of_limits_is_in_the_audit(limited: WalletService) -> None:
    await limited.change_limits(ADMIN, ALICE, "USD", own_limits(per_day=7))
    await limited.change_limits(ADMIN, ALICE, "USD", None)

    trail = await limited.audit_trail(ADMIN, subject=ALICE, request_id="req_admin", limit=10, cursor=None)

    assert [(entry.actor, entry.action, entry.detail) for entry in trail.items] == [
        ("usr_admin", "wallet.change_limits", {"currency": "USD", "limits": None}),
        (
            "usr_admin",
            "wallet.change_limits",
            {"currency": "USD", "limits": {"per_payment": None, "per_day": 7, "per_month": None}},
        ),
    ]


async def test_a_hold_counts_until_it_is_released(limited: WalletService, time: Time) -> None:
    orders = [hold(ALICE, BOB, 30_00, timeout_seconds=10), hold(ALICE, BOB, 20_00)]
    for order in orders:
        assert isinstance(await limited.post_group(order), GroupPosted)
    assert reason(await limited.post_group(payment(ALICE, BOB, 2, 1))) == "limit-exceeded"

    time.pass_seconds(10)
    await limited.expire_holds()
    assert (await limits_of(limited)).spent_today == 20_00
    capture = transfer(ALICE, BOB, 4_90, kind=TransferKind.POST, pending_id=orders[1].transfers[0].id)
    await limited.post_group(group(capture, transfer(ALICE, "fees", 10)))

    assert (await limits_of(limited)).spent_today == 5_00
    assert faults_in(limited) == []


async def test_a_hold_that_is_released_a_day_later_gives_back_to_the_month_alone(
    limited: WalletService, time: Time
) -> None:
    order = hold(ALICE, BOB, 30_00)
    await limited.post_group(order)
    time.pass_seconds(DAY)
    await limited.post_group(payment(ALICE, BOB, 10_00, 1))

    release = transfer(ALICE, BOB, 30_00, kind=TransferKind.VOID, pending_id=order.transfers[0].id)
    await limited.post_group(group(release))

    view = await limits_of(limited)
    assert (view.spent_today, view.spent_this_month) == (10_00, 10_00)


async def test_what_is_no_payment_does_not_count(limited: WalletService) -> None:
    """A debit by the back end, a refund by the merchant, money that comes in."""
    await limited.debit(BACK_END, move(amount=90_00), None)
    await limited.post_group(payment(ALICE, BOB, 10_00, 1))
    await limited.post_group(group(transfer(BOB, ALICE, 5_00)))

    assert (await limits_of(limited)).spent_this_month == 10_00
    assert (await limits_of(limited, BOB)).spent_this_month == 0


async def test_a_try_knows_the_limits_too_and_counts_nothing(limited: WalletService) -> None:
    tried = await limited.try_group(payment(ALICE, BOB, 30_01, 1))
    await limited.try_group(payment(ALICE, BOB, 30_00, 1))

    assert isinstance(tried, GroupRefused)
    assert tried.members == {"limit": "perPayment", "allowed": 30_00, "left": 30_00}
    assert (await limits_of(limited)).spent_today == 0


async def test_validation_knows_the_limits_too(limited: WalletService) -> None:
    async def reasons(amount: int) -> list[str]:
        request = ValidateWallet(customer_id=ALICE, amount=amount, currency="USD")
        return unwrap(await limited.validate(customer(ALICE), request)).reasons

    assert await reasons(30_00) == []
    assert await reasons(30_01) == ["LIMIT_EXCEEDED"]
    assert await reasons(1000_01) == ["INSUFFICIENT_FUNDS", "LIMIT_EXCEEDED"]
    await limited.change_limits(ADMIN, ALICE, "USD", own_limits(per_day=29_99))
    assert await reasons(30_00) == ["LIMIT_EXCEEDED"]


async def test_limits_that_change_amid_a_batch_hold_for_what_comes_after_them(limited: WalletService) -> None:
    """All of these share one transaction: what is decided first is seen by the next."""
    outcomes = await asyncio.gather(
        limited.post_group(payment(ALICE, BOB, 30_00, 1)),
        limited.change_limits(ADMIN, ALICE, "USD", own_limits(per_day=30_01)),
        limited.post_group(payment(ALICE, BOB, 2, 1)),
        limited.change_limits(ADMIN, ALICE, "USD", None),
        limited.post_group(payment(ALICE, BOB, 20_00, 1)),
    )

    assert isinstance(outcomes[0], GroupPosted)
    assert reason(outcomes[2]) == "limit-exceeded"
    assert isinstance(outcomes[4], GroupPosted)


async def test_payments_without_own_limits_look_for_none(limited: WalletService) -> None:
    """The flag in the account's row tells whether there are any, so that most batches save a statement."""
    statements: list[str] = []

    with before_each_statement(limited._database, lambda statement, _: statements.append(statement)):
        await limited.post_group(payment(ALICE, BOB, 10_00, 1))
        assert not [statement for statement in statements if "wallet_limits" in statement]
        await limited.change_limits(ADMIN, ALICE, "USD", own_limits(per_day=30_01))
        statements.clear()
        await limited.post_group(payment(ALICE, BOB, 10_00, 1))

    assert len([statement for statement in statements if "wallet_limits" in statement]) == 1


# --- statement ----------------------------------------------------------------------------------------------------


async def test_a_statement_shows_each_side_its_own_view(wallet: WalletService) -> None:
    order = payment(ALICE, BOB, 12_50, 25)
    await wallet.post_group(order)

    alices = (await statement(wallet, ALICE)).items
    bobs = (await statement(wallet, BOB)).items

    assert [(e.type.value, e.amount, e.balance_after, e.counterparty) for e in alices] == [
        ("DEBIT", 25, 87_50, "fees"),
        ("DEBIT", 12_25, 87_75, BOB),
        ("CREDIT", 100_00, 100_00, "cash"),
    ]
    assert [(e.type.value, e.amount, e.balance_after, e.counterparty) for e in bobs] == [
        ("CREDIT", 12_25, 12_25, ALICE)
    ]
    assert bobs[0].transaction_id == order.transaction_id


async def test_a_hold_is_no_entry_until_it_is_posted(wallet: WalletService) -> None:
    holds = [transfer(ALICE, BOB, 10_00, kind=TransferKind.PENDING) for _ in range(2)]
    await wallet.post_group(group(*holds))
    await wallet.post_group(group(transfer(ALICE, BOB, 10_00, kind=TransferKind.VOID, pending_id=holds[0].id)))
    assert (await statement(wallet, BOB)).items == []

    await wallet.post_group(group(transfer(ALICE, BOB, 4_00, kind=TransferKind.POST, pending_id=holds[1].id)))

    assert [(entry.amount, entry.balance_after) for entry in (await statement(wallet, BOB)).items] == [(4_00, 4_00)]


async def test_pages_of_a_statement_join_without_gap_or_repetition(wallet: WalletService, time: Time) -> None:
    await wallet.open_balance(ADMIN, ALICE, "EUR")
    for number in range(1, 8):
        time.pass_seconds(1)
        await credit(wallet, ALICE, number, currency="EUR" if number % 2 else "USD")
    whole = (await statement(wallet, ALICE)).items

    pages, cursor = [], None
    while True:
        page = await statement(wallet, ALICE, limit=3, cursor=cursor)
        pages.append(len(page.items))
        assert page.items == whole[sum(pages[:-1]) : sum(pages)]
        cursor = page.next_cursor
        if cursor is None:
            break

    assert pages == [3, 3, 2]
    assert [entry.amount for entry in (await statement(wallet, ALICE, currency="EUR")).items] == [7, 5, 3, 1]
    assert (await statement(wallet, ALICE, currency="JPY")).items == []


async def test_a_statement_is_of_a_period_from_on_and_before(wallet: WalletService, time: Time) -> None:
    for number in (1, 2, 3):
        time.pass_seconds(1)
        await credit(wallet, ALICE, number)

    entries = (await statement(wallet, ALICE, start="2026-09-21T14:13:21Z", end="2026-09-21T15:13:23+01:00")).items

    assert [entry.amount for entry in entries] == [2, 1]


@pytest.mark.parametrize("wrong", ["yesterday", "2026-09-21", "2026-09-21T14:13:21", "0", ""])
@pytest.mark.parametrize("parameter", ["start", "end"])
async def test_a_time_that_is_none_is_refused(wallet: WalletService, parameter: str, wrong: str) -> None:
    arguments = {"currency": None, "start": None, "end": None, "cursor": None, parameter: wrong}

    assert reason(await wallet.statement(ADMIN, ALICE, limit=1, **arguments)) == "validation-error"


@pytest.mark.parametrize("wrong", ["x", encode_cursor("a"), encode_cursor(1, 2), encode_cursor(), HUGE])
async def test_a_cursor_of_another_list_is_refused(wallet: WalletService, wrong: str) -> None:
    with pytest.raises(Refused):
        await statement(wallet, ALICE, cursor=wrong)
    with pytest.raises(Refused):
        await wallet.audit_trail(ADMIN, subject=None, request_id=None, limit=1, cursor=wrong)


# --- events and audit ---------------------------------------------------------------------------------------------


async def test_owners_are_told_of_what_others_did_to_their_wallet(wallet: WalletService) -> None:
    await wallet.debit(BACK_END, move(amount=1_00, reference="withdrawal"), None)
    await wallet.debit(BACK_END, move(amount=999_00), None)
    await wallet.post_group(payment(ALICE, BOB, 1_00, 2))
    await wallet.change_status(ADMIN, ALICE, Change.FREEZE, "a doubt")
    await wallet.change_status(ADMIN, ALICE, Change.UNFREEZE, "no doubt")

    told = await events(wallet)

    assert [event.name for event in told] == ["wallet.credited", "wallet.debited", "wallet.frozen", "wallet.unfrozen"]
    assert {event.recipients for event in told} == {(ALICE,)}
    assert len({event.id for event in told}) == 4
    transfer_id = told[1].data.pop("transferId")
    assert transfer_id.startswith("trf_")
    assert told[1].data == {
        "customerId": ALICE,
        "amount": 1_00,
        "currency": "USD",
        "available": 99_00,
        "reference": "withdrawal",
        "description": None,
    }
    assert told[2].data == {"customerId": ALICE, "reason": "a doubt"}


async def test_the_audit_knows_who_did_what_with_what_result(wallet: WalletService) -> None:
    paid = payment(ALICE, BOB, 1_00, 2)
    await wallet.post_group(paid)
    await wallet.debit(BACK_END, move(amount=999_00, reference="too much"), None)
    await wallet.change_status(ADMIN, ALICE, Change.CLOSE, "she left")

    trail = await wallet.audit_trail(ADMIN, subject=ALICE, request_id=None, limit=10, cursor=None)
    of_payment = await wallet.audit_trail(ADMIN, subject=paid.transaction_id, request_id=None, limit=10, cursor=None)
    of_request = await wallet.audit_trail(ADMIN, subject=None, request_id="req_admin", limit=10, cursor=None)

    assert [(entry.actor, entry.action, entry.result) for entry in trail.items] == [
        ("usr_admin", "wallet.close", "invalid-state"),
        ("cli_backend", "wallet.debit", "insufficient-funds"),
        ("cli_backend", "wallet.credit", "ok"),
        ("service:auth", "wallet.open", "ok"),
    ]
    assert [(entry.actor, entry.action, entry.request_id) for entry in of_payment.items] == [
        ("usr_payer", "wallet.post_group", "req_group")
    ]
    assert [entry.action for entry in of_request.items] == ["wallet.close"]


async def test_the_audit_comes_in_pages(wallet: WalletService) -> None:
    first = await wallet.audit_trail(ADMIN, subject=None, request_id=None, limit=2, cursor=None)
    second = await wallet.audit_trail(ADMIN, subject=None, request_id=None, limit=2, cursor=first.next_cursor)

    assert [entry.sequence for entry in first.items + second.items] == [3, 2, 1]
    assert second.next_cursor is None
