"""What holds, captures, voids, expiries and refunds promise on both databases, whatever happens on the way."""

import asyncio
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from sqlalchemy import Connection

from ewallet.kernel.caller import Role
from ewallet.kernel.errors import Reason, Refusal, Refused
from ewallet.payment import messages, store
from ewallet.payment.domain.fees import FeeSchedule
from ewallet.payment.domain.operations import Operation
from ewallet.payment.service import Answered, PaymentService
from ewallet.payment.worker import Recovery
from ewallet.plumbing.database import Database
from ewallet.wallet.messages import GroupRefused
from tests.support.payment import (
    ADMIN,
    CUSTOMER,
    HOLD_SECONDS,
    MERCHANT,
    SHOP,
    STRANGER,
    DiedError,
    Fault,
    HandClock,
    MemoryWallet,
    Operate,
    authorized,
    broken_for,
    caller,
    capture,
    closed,
    commits_lost,
    died_after,
    died_before,
    frozen,
    no_room,
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
    refusing,
    reply_lost,
    request_lost,
    states,
    void,
)
from tests.support.plumbing import before_each_statement
from tests.support.verifying import faults_in

FUNDS = 10_000
LEASE_AND_A_BIT = 5.1
ON_SQLITE = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
"""For a promise that no database could break."""

ENDING = pytest.mark.parametrize("end", [capture, void])
EVERY = pytest.mark.parametrize("operate", [capture, void, refund])


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    with payment_database(database_url) as database:
        yield database


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def wallet(clock: HandClock) -> MemoryWallet:
    wallet = MemoryWallet(clock=clock)
    wallet.credit(CUSTOMER, FUNDS)
    return wallet


@pytest.fixture
def service(database: Database, wallet: MemoryWallet, clock: HandClock) -> PaymentService:
    return payment_service(database, wallet, clock=clock)


async def ready_for(operate: Operate, service: PaymentService, wallet: MemoryWallet) -> str:
    """A payment that the operation can be done to; for a refund the merchant has the fee beside."""
    if operate is refund:
        wallet.credit(MERCHANT, 20)
        return (await paid(service, order())).transaction_id
    return await authorized(service)


def money(wallet: MemoryWallet) -> tuple[int, int, int, int]:
    """What the customer has left and has held, the merchant has, and the platform has earned."""
    return wallet.balance(CUSTOMER), wallet.held, wallet.balance(MERCHANT), wallet.fees()


# --- holding and ending a hold ------------------------------------------------------------------------------------


async def test_a_payment_without_capture_holds_the_money_and_tells_both_sides(
    database: Database, service: PaymentService, wallet: MemoryWallet
) -> None:
    payment = await paid(service, order(amount=1250, capture=False))

    assert (payment.status, payment.amount, payment.authorized_amount) == ("AUTHORIZED", 1250, 1250)
    assert (payment.fee, payment.net_amount) == (25, 1225), "what the fee would be if all of it were captured"
    assert money(wallet) == (FUNDS - 1250, 1250, 0, 0)
    assert await states(service, payment.transaction_id) == [("PENDING", CUSTOMER), ("AUTHORIZED", CUSTOMER)]
    [event] = outbox_events(database)
    assert (event.name, event.recipients) == ("payment.authorized", (CUSTOMER, MERCHANT))


async def test_a_capture_takes_what_is_held(database: Database, service: PaymentService, wallet: MemoryWallet) -> None:
    payment_id = await authorized(service)

    payment = payment_of(await capture(service, payment_id))

    assert (payment.status, payment.amount, payment.fee, payment.net_amount) == ("SUCCESS", 1000, 20, 980)
    assert money(wallet) == (FUNDS - 1000, 0, 980, 20)
    assert await now(service, payment_id) == payment
    assert [state for state, _ in await states(service, payment_id)] == ["PENDING", "AUTHORIZED", "SUCCESS"]
    assert (await states(service, payment_id))[-1] == ("SUCCESS", MERCHANT)
    told = outbox_events(database)
    assert [event.name for event in told] == ["payment.authorized", "payment.succeeded"]
    assert told[1].data["netAmount"] == 980


async def test_a_part_captured_releases_the_rest_and_has_its_own_fee(
    service: PaymentService, wallet: MemoryWallet
) -> None:
    payment_id = await authorized(service)

    payment = payment_of(await capture(service, payment_id, amount=125))

    assert (payment.amount, payment.fee, payment.net_amount, payment.authorized_amount) == (125, 2, 123, 1000)
    assert money(wallet) == (FUNDS - 125, 0, 123, 2)
    assert faults_in(service) == []


async def test_the_fee_of_a_capture_is_todays(
    database: Database, service: PaymentService, wallet: MemoryWallet
) -> None:
    payment_id = await authorized(service)
    dearer = payment_service(database, wallet, fees=FeeSchedule.parse("USD=0+30", default_basis_points=0))

    payment = payment_of(await capture(dearer, payment_id))

    assert (payment.fee, wallet.fees()) == (30, 30)


async def test_a_void_releases_what_is_held(service: PaymentService, wallet: MemoryWallet) -> None:
    payment_id = await authorized(service)

    payment = payment_of(await void(service, payment_id))

    assert (payment.status, payment.amount, payment.refunded_amount) == ("VOIDED", 1000, 0)
    assert money(wallet) == (FUNDS, 0, 0, 0)
    assert (await states(service, payment_id))[-1] == ("VOIDED", MERCHANT)


async def test_a_hold_that_nobody_ends_expires_by_itself(
    database: Database, service: PaymentService, clock: HandClock
) -> None:
    payment_id = await authorized(service)
    recovery = Recovery(service.saga)
    clock.forward(seconds=HOLD_SECONDS)
    assert await recovery.run_once() == 0, "the last microsecond is still the merchant's"
    clock.forward(seconds=1)

    assert await recovery.run_once() == 1

    assert (await states(service, payment_id))[-1] == ("EXPIRED", "service:platform")
    assert refused(await capture(service, payment_id)).reason is Reason.INVALID_STATE
    assert [event.name for event in outbox_events(database)] == ["payment.authorized", "payment.expired"]
    assert await recovery.run_once() == 0
    assert faults_in(service) == []


@ENDING
async def test_a_hold_that_was_ended_does_not_expire(
    service: PaymentService, wallet: MemoryWallet, clock: HandClock, end: Operate
) -> None:
    payment_id = await authorized(service)
    before = payment_of(await end(service, payment_id, None))
    orders = len(wallet.orders)
    clock.forward(seconds=HOLD_SECONDS + 1)

    await Recovery(service.saga).run_once()

    assert await now(service, payment_id) == before
    assert len(wallet.orders) == orders, "the wallet was asked for nothing"
    assert await Recovery(service.saga).run_once() == 0


@ENDING
async def test_who_comes_after_the_end_of_the_hold_finds_it_expired(
    service: PaymentService, clock: HandClock, end: Operate
) -> None:
    """The wallet says so before the platform's own expiry has looked; both lead to the same state."""
    payment_id = await authorized(service)
    clock.forward(seconds=HOLD_SECONDS + 1)

    refusal = refused(await end(service, payment_id, None))

    assert (refusal.status, refusal.reason) == (409, Reason.INVALID_STATE)
    assert (await now(service, payment_id)).status == "EXPIRED"
    await Recovery(service.saga).run_once()
    assert [state for state, _ in await states(service, payment_id)] == ["PENDING", "AUTHORIZED", "EXPIRED"]
    assert faults_in(service) == []


# --- what is refused ----------------------------------------------------------------------------------------------


@EVERY
async def test_what_the_state_forbids_is_refused_kept_and_audited(
    service: PaymentService, wallet: MemoryWallet, operate: Operate
) -> None:
    payment_id = await authorized(service)
    if operate is not refund:
        await void(service, payment_id)
    orders = len(wallet.orders)

    refusal = refused(await operate(service, payment_id, "key"))

    assert (refusal.status, refusal.reason) == (409, Reason.INVALID_STATE)
    assert refusal.members == {
        "requestId": "req_shop",
        "transactionId": payment_id,
        "failureReason": "INVALID_STATE",
    }
    copy = await operate(service, payment_id, "key")
    assert isinstance(copy, Answered)
    assert (copy.answer, copy.replayed) == (refusal, True)
    assert len(wallet.orders) == orders
    [record, *_] = (await service.audit_trail(ADMIN, subject=payment_id, request_id=None, limit=9, cursor=None)).items
    assert (record.actor, record.action, record.result) == (MERCHANT, f"payment.{operate.__name__}", "invalid-state")


@EVERY
async def test_an_operation_is_audited_when_it_is_begun_and_when_it_has_ended(
    service: PaymentService, wallet: MemoryWallet, operate: Operate
) -> None:
    """Somebody who removes what is under way must not go unnoticed: see ``verify``."""
    payment_id = await ready_for(operate, service, wallet)

    await operate(service, payment_id)

    trail = await service.audit_trail(ADMIN, subject=payment_id, request_id=None, limit=2, cursor=None)
    action = f"payment.{operate.__name__}"
    assert [(record.action, record.result) for record in trail.items] == [(action, "ok"), (action, "begun")]


@ON_SQLITE
@EVERY
async def test_a_payment_of_somebody_else_is_not_there(
    service: PaymentService, wallet: MemoryWallet, operate: Operate
) -> None:
    payment_id = await ready_for(operate, service, wallet)
    other = caller(STRANGER, Role.MERCHANT)

    for by, wanted in ((other, payment_id), (SHOP, "pay_00000000000000000000000000")):
        assert refused(await operate(service, wanted, None, by=by)).reason is Reason.NOT_FOUND


@ON_SQLITE
@EVERY
async def test_an_administrator_may_do_it_too(service: PaymentService, wallet: MemoryWallet, operate: Operate) -> None:
    payment_id = await ready_for(operate, service, wallet)

    answered = await operate(service, payment_id, None, by=ADMIN)

    assert isinstance(answered, Answered)
    assert (await states(service, payment_id))[-1][1] == ADMIN.subject


@ON_SQLITE
async def test_no_more_is_captured_than_was_authorized(service: PaymentService) -> None:
    payment_id = await authorized(service)

    refusal = refused(await capture(service, payment_id, amount=1001))

    assert (refusal.status, refusal.errors[0].pointer) == (422, "/amount")
    assert payment_of(await capture(service, payment_id, amount=1000)).status == "SUCCESS"


@ON_SQLITE
async def test_a_capture_that_the_fee_would_eat_up_is_not_stored_but_its_copies_are_answered(
    database: Database, service: PaymentService, wallet: MemoryWallet
) -> None:
    dearer = payment_service(database, wallet, fees=FeeSchedule.parse("USD=0+30", default_basis_points=0))
    payment_id = await authorized(service)
    assert refused(await capture(dearer, payment_id, "key", amount=30)).reason is Reason.AMOUNT_TOO_SMALL

    first = await capture(service, payment_id, "key", amount=30)
    copy = await capture(dearer, payment_id, "key", amount=30)

    assert payment_of(copy) == payment_of(first)
    assert refused(await capture(dearer, payment_id, "key", amount=29)).reason is Reason.IDEMPOTENCY_KEY_REUSED


async def test_a_capture_refused_for_now_leaves_the_hold(service: PaymentService, wallet: MemoryWallet) -> None:
    payment_id = await authorized(service)
    wallet.faults = [frozen]

    assert refused(await capture(service, payment_id, "key")).reason is Reason.WALLET_FROZEN

    assert (await now(service, payment_id)).status == "AUTHORIZED"
    assert wallet.held == 1000
    assert payment_of(await capture(service, payment_id)).status == "SUCCESS"
    assert refused(await capture(service, payment_id, "key")).reason is Reason.WALLET_FROZEN


@pytest.mark.parametrize(("operate", "reason"), [(capture, Reason.WALLET_FROZEN), (refund, Reason.INSUFFICIENT_FUNDS)])
async def test_a_refusal_of_the_wallet_is_answered_again_though_another_try_succeeds(
    service: PaymentService, wallet: MemoryWallet, operate: Operate, reason: Reason
) -> None:
    payment_id = await ready_for(operate, service, wallet)
    wallet.faults = [refusing("for_now", reason)]
    first = await operate(service, payment_id, "key")
    assert refused(first).reason is reason

    assert not isinstance(refused_or_answer(await operate(service, payment_id)), Refusal)
    assert refused(await operate(service, payment_id, "key")) == refused(first)


def refused_or_answer(answered: Answered | Refusal) -> object:
    return answered.answer if isinstance(answered, Answered) else answered


async def test_a_capture_refused_for_good_releases_its_hold(
    database: Database, service: PaymentService, wallet: MemoryWallet
) -> None:
    payment_id = await authorized(service)
    wallet.faults = [closed]

    refusal = refused(await capture(service, payment_id, "key"))

    assert refusal.reason is Reason.WALLET_CLOSED
    assert money(wallet) == (FUNDS, 0, 0, 0)
    history = await service.history(ADMIN, payment_id)
    assert isinstance(history, messages.PaymentHistory)
    assert (history.items[-1].status, history.items[-1].reason) == ("VOIDED", "WALLET_CLOSED")
    assert outbox_events(database)[-1].name == "payment.voided"
    assert refused(await capture(service, payment_id, "key")) == refusal


# --- refunds ------------------------------------------------------------------------------------------------------


async def test_a_refund_goes_out_of_the_merchants_wallet_and_the_fee_is_kept(
    database: Database, service: PaymentService, wallet: MemoryWallet
) -> None:
    wallet.credit(MERCHANT, 100)
    payment_id = (await paid(service, order())).transaction_id

    part = refund_of(await refund(service, payment_id, amount=300, reason="torn page"))
    rest = refund_of(await refund(service, payment_id))

    assert (part.amount, part.status, part.reason, part.transaction_id) == (300, "SUCCESS", "torn page", payment_id)
    assert (rest.amount, rest.status, rest.reason) == (700, "SUCCESS", None)
    assert money(wallet) == (FUNDS, 0, 80, 20)
    payment = await now(service, payment_id)
    assert (payment.status, payment.refunded_amount, payment.amount) == ("REFUNDED", 1000, 1000)
    assert [state for state, _ in await states(service, payment_id)][-2:] == ["PARTIALLY_REFUNDED", "REFUNDED"]
    assert [event.data["amount"] for event in outbox_events(database)[1:]] == [300, 700]
    assert faults_in(service) == []


async def test_a_merchant_who_cannot_cover_a_refund_is_told_and_the_part_is_free_again(
    service: PaymentService,
) -> None:
    payment_id = (await paid(service, order())).transaction_id

    refusal = refused(await refund(service, payment_id))

    assert (refusal.status, refusal.reason) == (402, Reason.INSUFFICIENT_FUNDS)
    assert (await now(service, payment_id)).status == "SUCCESS"
    assert refund_of(await refund(service, payment_id, amount=980)).status == "SUCCESS"


async def test_concurrent_parts_never_refund_more_than_was_paid(
    database_url: str, service: PaymentService, wallet: MemoryWallet, clock: HandClock
) -> None:
    """Two processes, forty parts of 100 of a payment of 1000."""
    wallet.credit(MERCHANT, 10_000)
    payment_id = (await paid(service, order())).transaction_id
    with payment_database(database_url) as other_database:
        services = [service, payment_service(other_database, wallet, clock=clock)]

        answers = await asyncio.gather(*(refund(each, payment_id, amount=100) for _ in range(20) for each in services))

    succeeded = [answered for answered in answers if not isinstance(refused_or_answer(answered), Refusal)]
    assert len(succeeded) == 10
    assert {refused(answered).reason for answered in answers if answered not in succeeded} == {Reason.INVALID_STATE}
    payment = await now(service, payment_id)
    assert (payment.status, payment.refunded_amount) == ("REFUNDED", 1000)
    assert wallet.balance(CUSTOMER) == FUNDS
    assert len(await states(service, payment_id)) == 12
    assert faults_in(service) == []


async def test_what_a_refund_has_set_aside_no_other_takes(service: PaymentService, wallet: MemoryWallet) -> None:
    payment_id = (await paid(service, order())).transaction_id
    wallet.gate = asyncio.Event()
    running = asyncio.create_task(refund(service, payment_id, amount=700))
    for _call in range(2):
        await wallet.called.acquire()

    refusal = refused(await refund(service, payment_id, amount=301))

    assert refusal.detail == "Of this payment 3.00 USD is left to refund."
    wallet.gate.set()
    assert refund_of(await running).status == "SUCCESS"


async def test_the_refunds_of_a_payment_are_listed_newest_first_failed_ones_too(
    service: PaymentService, clock: HandClock
) -> None:
    payment_id = (await paid(service, order())).transaction_id
    await capture(service, payment_id)
    for amount in (100, 2000, 200):
        clock.forward(seconds=1)
        await refund(service, payment_id, amount=amount)

    whole = await service.refunds(SHOP, payment_id, limit=9, cursor=None)
    assert isinstance(whole, messages.RefundList)
    first = await service.refunds(caller(), payment_id, limit=2, cursor=None)
    assert isinstance(first, messages.RefundList)
    second = await service.refunds(ADMIN, payment_id, limit=2, cursor=first.next_cursor)
    assert isinstance(second, messages.RefundList)

    assert [(each.amount, each.status, each.failure_reason) for each in whole.items] == [
        (200, "SUCCESS", None),
        (2000, "FAILED", "INVALID_STATE"),
        (100, "SUCCESS", None),
    ]
    assert first.items + second.items == whole.items
    assert second.next_cursor is None
    assert isinstance(await service.refunds(caller(STRANGER), payment_id, limit=9, cursor=None), Refusal)


# --- idempotency --------------------------------------------------------------------------------------------------


async def test_copies_get_the_first_answers_again_whatever_has_been_done_since(
    service: PaymentService, wallet: MemoryWallet, clock: HandClock
) -> None:
    initiated = await pay(service, order(capture=False), "key")
    payment_id = payment_of(initiated).transaction_id
    clock.forward(seconds=1)
    captured = await capture(service, payment_id, "key", amount=500)
    clock.forward(seconds=1)
    refunded = await refund(service, payment_id, "another", amount=100)
    orders = len(wallet.orders)

    copies = [
        await pay(service, order(capture=False), "key"),
        await capture(service, payment_id, "key", amount=500),
        await refund(service, payment_id, "another", amount=100),
    ]

    assert [copy.answer for copy in copies if isinstance(copy, Answered)] == [
        first.answer for first in (initiated, captured, refunded) if isinstance(first, Answered)
    ]
    assert all(isinstance(copy, Answered) and copy.replayed for copy in copies)
    assert len(wallet.orders) == orders


async def test_a_void_is_answered_again(service: PaymentService) -> None:
    payment_id = await authorized(service)
    first = await void(service, payment_id, "key")

    assert payment_of(await void(service, payment_id, "key")) == payment_of(first)


@EVERY
async def test_50_concurrent_copies_are_one_operation_with_50_equal_answers(
    service: PaymentService, wallet: MemoryWallet, operate: Operate
) -> None:
    payment_id = await ready_for(operate, service, wallet)

    copies = await asyncio.gather(*(operate(service, payment_id, "key") for _ in range(50)))

    assert all(isinstance(copy, Answered) for copy in copies)
    assert all(refused_or_answer(copy) == refused_or_answer(copies[0]) for copy in copies)
    assert sum(isinstance(copy, Answered) and not copy.replayed for copy in copies) == 1
    assert wallet.groups_posted == 2


@EVERY
async def test_copies_in_two_processes_are_one_operation(
    database_url: str, service: PaymentService, wallet: MemoryWallet, clock: HandClock, operate: Operate
) -> None:
    payment_id = await ready_for(operate, service, wallet)
    with payment_database(database_url) as other_database:
        services = [service, payment_service(other_database, wallet, clock=clock)]

        async def first_answer(service: PaymentService) -> Answered:
            while True:
                answered = await operate(service, payment_id, "key")
                if isinstance(answered, Answered):
                    return answered
                assert answered.reason is Reason.REQUEST_IN_PROGRESS

        answers = await asyncio.gather(*(first_answer(each) for each in services for _ in range(8)))

    assert all(answered.answer == answers[0].answer for answered in answers)
    assert wallet.groups_posted == 2


async def test_a_key_belongs_to_one_operation(service: PaymentService, wallet: MemoryWallet) -> None:
    first, second = await authorized(service), await authorized(service)
    await capture(service, first, "key")
    orders = len(wallet.orders)

    others = [
        await capture(service, first, "key", amount=999),
        await capture(service, second, "key"),
        await void(service, first, "key"),
        await refund(service, first, "key"),
    ]

    assert [refused(other).reason for other in others] == [Reason.IDEMPOTENCY_KEY_REUSED] * 4
    assert len(wallet.orders) == orders
    assert payment_of(await capture(service, second, "key", by=ADMIN)).status == "SUCCESS", "another caller's key"


async def test_one_key_for_two_payments_in_two_processes_is_one_operation(
    database_url: str, service: PaymentService, wallet: MemoryWallet, clock: HandClock
) -> None:
    payments = [await authorized(service), await authorized(service)]
    with payment_database(database_url) as other_database:
        services = [service, payment_service(other_database, wallet, clock=clock)]

        answers = await asyncio.gather(*(map(capture, services, payments, ["key", "key"])))

    lost = [refused(answered).reason for answered in answers if isinstance(answered, Refusal)]
    assert lost == [Reason.IDEMPOTENCY_KEY_REUSED]
    assert wallet.held == 1000


async def test_a_key_taken_after_we_looked_leads_to_the_winner(mariadb_url: str, wallet: MemoryWallet) -> None:
    """Two processes look, find nothing and insert; the loser's insert fails, and it reads the winner's row."""
    with payment_database(mariadb_url) as database, payment_database(mariadb_url) as other_database:
        service, other = payment_service(database, wallet), payment_service(other_database, wallet)
        first, second = await authorized(service), await authorized(service)
        await capture(other, first, "key")
        [winner] = other_database.read(lambda tx: store.find_operations_by_identity(tx, [f"{MERCHANT} key"]))
        other_database.transact(
            lambda tx: tx.execute(store.operations.delete().where(store.operations.c.id == winner.id))
        )

        def win_before_the_insert(statement: str, parameters: Sequence[Any]) -> None:
            if statement.startswith("INSERT INTO payment_operations") and winner.identity in parameters:
                other_database.transact(lambda tx: put_back(tx, winner))

        with before_each_statement(database, win_before_the_insert):
            assert refused(await capture(service, second, "key")).reason is Reason.IDEMPOTENCY_KEY_REUSED

    assert wallet.held == 1000


def put_back(tx: Connection, winner: Operation) -> None:
    if not store.find_operations(tx, [winner.id]):
        store.create_operations(tx, [(winner, store.NO_LEASE)])


@EVERY
async def test_two_equal_operations_without_a_key_are_two(
    service: PaymentService, wallet: MemoryWallet, operate: Operate
) -> None:
    payment_id = await ready_for(operate, service, wallet)
    await operate(service, payment_id)

    assert refused(await operate(service, payment_id)).reason is Reason.INVALID_STATE


# --- one end for each hold ----------------------------------------------------------------------------------------


async def test_of_captures_voids_and_the_expiry_of_one_hold_exactly_one_wins(
    database: Database, database_url: str, service: PaymentService, wallet: MemoryWallet, clock: HandClock
) -> None:
    """In two processes at the very end of the hold, so that the platform's own expiry is among them."""
    with payment_database(database_url) as other_database:
        other = payment_service(other_database, wallet, clock=clock)
        payment_ids = [await authorized(service, amount=100) for _ in range(12)]
        make_expiries_due(database)

        async def end(payment_id: str) -> list[Answered | Refusal]:
            ends = [
                capture(service, payment_id),
                void(other, payment_id),
                capture(other, payment_id, amount=60),
                void(service, payment_id),
            ]
            return await asyncio.gather(*ends)

        recovering = [asyncio.create_task(Recovery(each.saga).run_once()) for each in (service, other)]
        answers = await asyncio.gather(*(end(payment_id) for payment_id in payment_ids))
        await asyncio.gather(*recovering)

    for payment_id, of_one in zip(payment_ids, answers, strict=True):
        won = [payment_of(each) for each in of_one if not isinstance(refused_or_answer(each), Refusal)]
        payment = await now(service, payment_id)
        assert {refused(each).reason for each in of_one if isinstance(refused_or_answer(each), Refusal)} == {
            Reason.INVALID_STATE
        }
        assert won == ([] if payment.status == "EXPIRED" else [payment])
        assert [state for state, _ in await states(service, payment_id)] == ["PENDING", "AUTHORIZED", payment.status]
    assert wallet.held == 0
    assert faults_in(service) == []


def make_expiries_due(database: Database) -> None:
    """Let the platform look for ends of holds before they are there."""
    database.transact(lambda tx: tx.execute(store.operations.update().values(lease_until=0)))


# --- an unclear wallet, and recovery points -----------------------------------------------------------------------


@ON_SQLITE
@EVERY
@pytest.mark.parametrize("fault", [request_lost, reply_lost, no_room])
async def test_an_unclear_answer_is_asked_for_again_with_the_same_ids(
    service: PaymentService, wallet: MemoryWallet, operate: Operate, fault: Fault
) -> None:
    payment_id = await ready_for(operate, service, wallet)
    wallet.orders.clear()
    wallet.faults = [fault, fault, fault]

    assert not isinstance(refused_or_answer(await operate(service, payment_id)), Refusal)

    assert wallet.orders == [wallet.orders[0]] * 4


@ON_SQLITE
@EVERY
async def test_an_unknown_outcome_is_a_timeout_and_never_a_failure(
    database: Database, wallet: MemoryWallet, clock: HandClock, operate: Operate
) -> None:
    service = payment_service(database, wallet, clock=clock, request_seconds=0.5)
    payment_id = await ready_for(operate, service, wallet)
    before = await now(service, payment_id)
    wallet.always = reply_lost

    with pytest.raises(Refused) as raised:
        await operate(service, payment_id, "key")

    assert raised.value.refusal.status == 504
    assert raised.value.refusal.members == {"transactionId": payment_id}
    assert await now(service, payment_id) == before


ENDS = {"capture": "SUCCESS", "void": "VOIDED", "refund": "REFUNDED"}


async def left_behind(operate: Operate, dead: PaymentService, wallet: MemoryWallet, *, fault: Fault) -> str:
    """What a process leaves that dies after T1, or after T2: the id of the payment."""
    payment_id = await ready_for(operate, dead, wallet)
    wallet.faults = [fault]
    with pytest.raises(DiedError):
        await operate(dead, payment_id, "key")
    assert refused(await operate(dead, payment_id, "key")).reason is Reason.REQUEST_IN_PROGRESS
    return payment_id


@EVERY
@pytest.mark.parametrize("fault", [died_before, died_after])
async def test_continues_from_operation_begun_and_from_operation_moved(
    service: PaymentService, wallet: MemoryWallet, clock: HandClock, operate: Operate, fault: Fault
) -> None:
    payment_id = await left_behind(operate, service, wallet, fault=fault)
    database = service._database
    restarted = payment_service(database, wallet, clock=clock)
    assert await Recovery(restarted.saga).run_once() == 0, "the lease has not run out"
    clock.forward(seconds=LEASE_AND_A_BIT)

    assert await Recovery(restarted.saga).run_once() == 1

    assert (await states(restarted, payment_id))[-1] == (ENDS[operate.__name__], "service:platform")
    assert wallet.groups_posted == 2
    assert len(outbox_events(database)) == 2
    copy = await operate(restarted, payment_id, "key")
    assert isinstance(copy, Answered)
    assert copy.replayed
    assert not isinstance(copy.answer, Refusal)
    assert await Recovery(restarted.saga).run_once() == 0
    assert faults_in(restarted) == []


@pytest.mark.parametrize("fault", [died_before, died_after])
async def test_continues_from_hold_begun_and_from_hold_placed(
    database: Database, service: PaymentService, wallet: MemoryWallet, clock: HandClock, fault: Fault
) -> None:
    """The hold ends when the wallet says, also where the one who asked for it never heard of it."""
    wallet.faults = [fault]
    with pytest.raises(DiedError):
        await service.initiate(caller(), order(capture=False), "key")
    [payment_id] = [payment.id for payment in database.read(lambda tx: store.page(tx, limit=9))]
    clock.forward(seconds=LEASE_AND_A_BIT)
    recovery = Recovery(payment_service(database, wallet, clock=clock).saga)

    assert await recovery.run_once() == 1

    assert (await states(service, payment_id))[-1] == ("AUTHORIZED", "service:platform")
    assert money(wallet) == (FUNDS - 1000, 1000, 0, 0)
    clock.forward(seconds=HOLD_SECONDS + 1)
    assert await recovery.run_once() == 1
    assert (await now(service, payment_id)).status == "EXPIRED"


@pytest.mark.parametrize("fault", [died_before, died_after])
async def test_continues_from_capture_refused_and_from_hold_released(
    database: Database, service: PaymentService, wallet: MemoryWallet, clock: HandClock, fault: Fault
) -> None:
    """The process dies between the refusal for good and the release, or between the release and writing it down."""
    payment_id = await authorized(service)
    wallet.faults = [closed, fault]
    with pytest.raises(DiedError):
        await capture(service, payment_id, "key")
    clock.forward(seconds=LEASE_AND_A_BIT)

    assert await Recovery(payment_service(database, wallet, clock=clock).saga).run_once() == 1

    assert (await now(service, payment_id)).status == "VOIDED"
    assert money(wallet) == (FUNDS, 0, 0, 0)
    assert refused(await capture(service, payment_id, "key")).reason is Reason.WALLET_CLOSED


@pytest.mark.parametrize("fault", [died_before, died_after])
async def test_continues_from_expiry_begun(
    database: Database, service: PaymentService, wallet: MemoryWallet, clock: HandClock, fault: Fault
) -> None:
    payment_id = await authorized(service)
    clock.forward(seconds=HOLD_SECONDS + 1)
    wallet.faults = [fault]
    assert await Recovery(service.saga).run_once() == 0
    clock.forward(seconds=LEASE_AND_A_BIT)

    assert await Recovery(payment_service(database, wallet, clock=clock).saga).run_once() == 1

    assert (await states(service, payment_id))[-1] == ("EXPIRED", "service:platform")


@EVERY
async def test_two_recoveries_never_drive_one_operation(
    database_url: str, service: PaymentService, wallet: MemoryWallet, clock: HandClock, operate: Operate
) -> None:
    await left_behind(operate, service, wallet, fault=died_after)
    wallet.orders.clear()
    clock.forward(seconds=LEASE_AND_A_BIT)
    with payment_database(database_url) as other_database:
        other = payment_service(other_database, wallet, clock=clock)
        recoveries = [Recovery(service.saga), Recovery(other.saga)]

        counts = await asyncio.gather(*(recovery.run_once() for recovery in recoveries))

    assert sorted(counts) == [0, 1]
    assert len(wallet.orders) == 1


@EVERY
async def test_a_request_that_is_slower_than_recovery_answers_what_recovery_stored(
    database: Database, service: PaymentService, wallet: MemoryWallet, clock: HandClock, operate: Operate
) -> None:
    payment_id = await ready_for(operate, service, wallet)
    patient = payment_service(database, wallet, clock=clock)
    wallet.gate, wallet.called = asyncio.Event(), asyncio.Semaphore(0)
    slow = asyncio.create_task(operate(patient, payment_id, "key"))
    await wallet.called.acquire()
    clock.forward(seconds=LEASE_AND_A_BIT)
    recovering = asyncio.create_task(Recovery(payment_service(database, wallet, clock=clock).saga).run_once())
    await wallet.called.acquire()
    wallet.gate.set()

    answered, recovered = await asyncio.gather(slow, recovering)

    assert recovered == 1
    assert not isinstance(refused_or_answer(answered), Refusal)
    assert len(outbox_events(database)) == 2
    assert wallet.groups_posted == 2
    assert faults_in(service) == []


@EVERY
async def test_a_commit_whose_word_is_lost_changes_nothing(
    database: Database, wallet: MemoryWallet, operate: Operate
) -> None:
    """T1, then T3, is committed, the driver says it is not, and it is done again with the same ids."""
    patient = payment_service(database, wallet)
    for commit in (1, 2):
        payment_id = await ready_for(operate, patient, wallet)
        with commits_lost(database, times=commit):
            assert not isinstance(refused_or_answer(await operate(patient, payment_id)), Refusal)
        assert (await states(patient, payment_id))[-1] == (ENDS[operate.__name__], MERCHANT)

    assert wallet.groups_posted == 4
    assert len(outbox_events(database)) == 4
    assert faults_in(patient) == []


# --- giving up ----------------------------------------------------------------------------------------------------

A_MINUTE_OF_ROUNDS = 12


async def recover_for_a_minute(service: PaymentService, clock: HandClock) -> int:
    """As many rounds of recovery as find something to do in a good minute; how often something was finished."""
    finished = 0
    for _round in range(A_MINUTE_OF_ROUNDS):
        clock.forward(seconds=LEASE_AND_A_BIT)
        finished += await Recovery(service.saga).run_once()
    return finished


@pytest.mark.parametrize(
    ("operate", "left"),
    [(capture, "AUTHORIZED"), (void, "AUTHORIZED"), (refund, "SUCCESS")],
)
async def test_what_the_wallet_cannot_do_is_abandoned_behind_a_tombstone(
    service: PaymentService, wallet: MemoryWallet, clock: HandClock, operate: Operate, left: str
) -> None:
    payment_id = await left_behind(operate, service, wallet, fault=died_before)
    wallet.always = broken_for(wallet.orders[-1].id)
    late = wallet.orders[-1]

    assert await recover_for_a_minute(service, clock) == 0, "not before a minute is over"
    clock.forward(seconds=LEASE_AND_A_BIT)
    assert await Recovery(service.saga).run_once() == 1

    refusal = refused(await operate(service, payment_id, "key"))
    assert (refusal.status, refusal.reason) == (409, Reason.ABANDONED)
    assert (await now(service, payment_id)).status == left
    assert isinstance(wallet.apply(late), GroupRefused), "a late copy of the order finds the tombstone"
    assert faults_in(service) == []


async def test_a_payment_that_the_wallet_cannot_make_fails_as_abandoned(
    database: Database, service: PaymentService, wallet: MemoryWallet, clock: HandClock
) -> None:
    wallet.faults = [died_before]
    with pytest.raises(DiedError):
        await service.initiate(caller(), order(), "key")
    wallet.always = broken_for(wallet.orders[0].id)

    await recover_for_a_minute(service, clock)
    clock.forward(seconds=LEASE_AND_A_BIT)
    await Recovery(service.saga).run_once()

    assert refused(await pay(service, order(), "key")).reason is Reason.ABANDONED
    assert [event.name for event in outbox_events(database)] == ["payment.failed"]
    assert money(wallet) == (FUNDS, 0, 0, 0)


@EVERY
async def test_what_was_done_after_all_is_found_when_it_is_given_up(
    service: PaymentService, wallet: MemoryWallet, clock: HandClock, operate: Operate
) -> None:
    """The wallet has done it and breaks whenever it is asked again: that is no failure."""
    payment_id = await left_behind(operate, service, wallet, fault=died_after)
    wallet.always = broken_for(wallet.orders[-1].id)

    await recover_for_a_minute(service, clock)
    clock.forward(seconds=LEASE_AND_A_BIT)
    await Recovery(service.saga).run_once()

    assert (await now(service, payment_id)).status == ENDS[operate.__name__]


@ON_SQLITE
async def test_a_wallet_that_is_away_for_long_is_waited_for(
    database: Database, wallet: MemoryWallet, clock: HandClock
) -> None:
    service = payment_service(database, wallet, clock=clock, request_seconds=0.1)
    payment_id = await left_behind(capture, payment_service(database, wallet, clock=clock), wallet, fault=died_before)
    wallet.away = True
    assert await recover_for_a_minute(service, clock) == 0
    assert await recover_for_a_minute(service, clock) == 0
    wallet.away = False
    clock.forward(seconds=LEASE_AND_A_BIT)

    assert await Recovery(service.saga).run_once() == 1

    assert (await now(service, payment_id)).status == "SUCCESS"


@ON_SQLITE
async def test_an_expiry_is_never_given_up(service: PaymentService, wallet: MemoryWallet, clock: HandClock) -> None:
    """Else the payment would stay authorized for ever, though its money is free."""
    payment_id = await authorized(service)
    clock.forward(seconds=HOLD_SECONDS)
    wallet.always = died_before
    await recover_for_a_minute(service, clock)
    await recover_for_a_minute(service, clock)
    wallet.always = None
    clock.forward(seconds=LEASE_AND_A_BIT)

    assert await Recovery(service.saga).run_once() == 1

    assert (await now(service, payment_id)).status == "EXPIRED"


# --- quotes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("amount", "merchant_id", "reasons"),
    [
        (1250, MERCHANT, []),
        (FUNDS, MERCHANT, []),
        (FUNDS + 1, MERCHANT, ["INSUFFICIENT_FUNDS"]),
        (1250, STRANGER, ["UNKNOWN_MERCHANT"]),
    ],
    ids=["some", "all", "too much", "no merchant"],
)
async def test_a_quote_is_what_a_payment_would_come_to_and_writes_nothing(
    service: PaymentService, wallet: MemoryWallet, amount: int, merchant_id: str, reasons: list[str]
) -> None:
    quote = await service.quote(caller(), quoted(merchant_id, amount))

    assert isinstance(quote, messages.Quote)
    assert (quote.would_succeed, quote.reasons) == (not reasons, reasons)
    assert (quote.amount, quote.fee, quote.net_amount) == (amount, amount // 50, amount - amount // 50)
    assert money(wallet) == (FUNDS, 0, 0, 0)
    assert service._database.read(lambda tx: store.page(tx, limit=9)) == []
    answered = await pay(service, order(merchant_id, amount))
    assert isinstance(answered.answer, Refusal) == bool(reasons)


@ON_SQLITE
async def test_a_quote_tells_of_an_amount_that_the_fee_would_eat_up(database: Database, wallet: MemoryWallet) -> None:
    service = payment_service(database, wallet, fees=FeeSchedule.parse("USD=0+30", default_basis_points=0))

    quote = await service.quote(caller(), quoted(MERCHANT, 30))

    assert isinstance(quote, messages.Quote)
    assert (quote.fee, quote.net_amount, quote.reasons) == (30, 0, ["AMOUNT_TOO_SMALL"])


@ON_SQLITE
async def test_a_quote_in_no_currency_is_refused(service: PaymentService) -> None:
    asked = messages.QuotePayment(merchant_id=MERCHANT, amount=1, currency="XYZ")

    assert refused_quote(await service.quote(caller(), asked)).errors[0].pointer == "/currency"


def refused_quote(quote: messages.Quote | Refusal) -> Refusal:
    assert isinstance(quote, Refusal)
    return quote


def quoted(merchant_id: str, amount: int) -> messages.QuotePayment:
    return messages.QuotePayment(merchant_id=merchant_id, amount=amount, currency="USD")
