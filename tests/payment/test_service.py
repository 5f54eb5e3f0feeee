"""What a payment promises on both databases, whatever the wallet, the connections and the clients do."""

import asyncio
import time
from collections.abc import Iterator

import pytest

from ewallet.kernel.caller import Role
from ewallet.kernel.errors import InvariantBroken, OutcomeUnknown, Overloaded, Reason, Refused
from ewallet.payment import messages, store
from ewallet.payment.domain.fees import FeeSchedule
from ewallet.payment.service import Answered, PaymentService
from ewallet.payment.worker import Recovery
from ewallet.plumbing.database import Database, StorageUnavailable
from ewallet.plumbing.deadlines import request_ends_at
from ewallet.plumbing.outbox import Event
from ewallet.wallet.messages import GroupOrder, GroupOutcome
from tests.support.payment import (
    ADMIN,
    CUSTOMER,
    MERCHANT,
    STRANGER,
    Fault,
    HandClock,
    MemoryWallet,
    broken_for,
    caller,
    commits_lost,
    commits_refused,
    group_refused,
    no_room,
    order,
    outbox_events,
    paid,
    pay,
    payment_database,
    payment_of,
    payment_service,
    refused,
    reply_lost,
    request_lost,
    states,
)
from tests.support.plumbing import set_pragma
from tests.support.verifying import faults_in

FUNDS = 10_000

ON_SQLITE = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
"""For a promise that no database could break."""

LEASE_AND_A_BIT = 5.1


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    with payment_database(database_url) as database:
        yield database


@pytest.fixture
def wallet() -> MemoryWallet:
    wallet = MemoryWallet()
    wallet.credit(CUSTOMER, FUNDS)
    return wallet


@pytest.fixture
def service(database: Database, wallet: MemoryWallet) -> PaymentService:
    return payment_service(database, wallet)


async def all_payments(service: PaymentService) -> list[messages.Payment]:
    page = await service.list_payments(ADMIN, status=None, since=None, until=None, limit=100, cursor=None)
    return page.items


# --- paying -------------------------------------------------------------------------------------------------------


async def test_the_customer_pays_the_amount_and_merchant_and_fees_share_it(
    service: PaymentService, wallet: MemoryWallet
) -> None:
    payment = await paid(service, order(amount=1250, reference="order-17", metadata={"shop": "Berlin"}))

    assert (payment.status, payment.amount, payment.fee, payment.net_amount) == ("SUCCESS", 1250, 25, 1225)
    assert (payment.reference, payment.metadata, payment.failure_reason) == ("order-17", {"shop": "Berlin"}, None)
    assert (wallet.balance(CUSTOMER), wallet.balance(MERCHANT), wallet.fees()) == (FUNDS - 1250, 1225, 25)
    assert await service.find(caller(), payment.transaction_id) == payment
    assert await states(service, payment.transaction_id) == [("PENDING", CUSTOMER), ("SUCCESS", CUSTOMER)]


@ON_SQLITE
async def test_a_payment_without_a_fee_is_one_transfer(database: Database, wallet: MemoryWallet) -> None:
    service = payment_service(database, wallet, fees=FeeSchedule.parse("", default_basis_points=0))

    await paid(service, order())

    assert [leg.amount for leg in wallet.orders[0].transfers] == [1000]


async def test_a_refused_payment_is_kept_explained_audited_and_told(
    database: Database, service: PaymentService, wallet: MemoryWallet
) -> None:
    refusal = refused(await pay(service, order(amount=FUNDS + 1), by=caller(request_id="req_17")))

    [payment] = await all_payments(service)
    assert (refusal.status, refusal.reason) == (402, Reason.INSUFFICIENT_FUNDS)
    assert refusal.members == {
        "requestId": "req_17",
        "transactionId": payment.transaction_id,
        "failureReason": "INSUFFICIENT_FUNDS",
    }
    assert (payment.status, payment.failure_reason) == ("FAILED", "INSUFFICIENT_FUNDS")
    assert wallet.balance(CUSTOMER) == FUNDS
    [record] = (await service.audit_trail(ADMIN, subject=None, request_id="req_17", limit=9, cursor=None)).items
    assert (record.actor, record.action, record.subject, record.result) == (
        CUSTOMER,
        "payment.failed",
        payment.transaction_id,
        "insufficient-funds",
    )
    [event] = outbox_events(database)
    assert (event.name, event.recipients) == ("payment.failed", (CUSTOMER, MERCHANT))
    assert event.data["failureReason"] == "INSUFFICIENT_FUNDS"


@ON_SQLITE
@pytest.mark.parametrize(
    "payee",
    [STRANGER, CUSTOMER, "usr_nobody", "fees", "cash"],
    ids=["a customer", "oneself", "nobody", "the platform's fees", "the platform's cash"],
)
async def test_who_is_no_merchant_cannot_be_paid(
    database: Database, service: PaymentService, wallet: MemoryWallet, payee: str
) -> None:
    wallet.roles[STRANGER] = Role.CUSTOMER

    refusal = refused(await pay(service, order(payee)))

    assert (refusal.status, refusal.reason) == (422, Reason.UNKNOWN_MERCHANT)
    assert [payment.status for payment in await all_payments(service)] == ["FAILED"]
    assert [event.recipients for event in outbox_events(database)] == [(CUSTOMER,)]
    assert wallet.balance(CUSTOMER) == FUNDS


@ON_SQLITE
async def test_what_cannot_be_asked_for_is_not_stored(database: Database, wallet: MemoryWallet) -> None:
    service = payment_service(database, wallet, fees=FeeSchedule.parse("USD=0+30", default_basis_points=0))

    reasons = [
        refused(await service.initiate(caller(), asked, key)).reason
        for asked in (order(currency="XYZ"), order(amount=30), order(amount=30, capture=False))
        for key in (None, "key")
    ]

    assert reasons == [Reason.VALIDATION_ERROR] * 2 + [Reason.AMOUNT_TOO_SMALL] * 4
    assert await all_payments(service) == []
    assert wallet.orders == []


async def test_of_200_concurrent_payments_as_many_succeed_as_there_is_money_for(
    service: PaymentService, wallet: MemoryWallet
) -> None:
    answers = [answered.answer for answered in await asyncio.gather(*(pay(service, order()) for _ in range(200)))]

    assert sum(isinstance(answer, messages.Payment) for answer in answers) == 10
    assert (wallet.balance(CUSTOMER), wallet.balance(MERCHANT), wallet.fees()) == (0, 9800, 200)
    assert faults_in(service) == []


# --- idempotency --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("amount", [1000, FUNDS + 1])
async def test_a_copy_gets_the_first_answer_again(service: PaymentService, wallet: MemoryWallet, amount: int) -> None:
    first = await pay(service, order(amount=amount), "key", by=caller(request_id="req_first"))
    copy = await pay(service, order(amount=amount), "key", by=caller(request_id="req_second"))

    assert copy.answer == first.answer
    assert (first.replayed, copy.replayed) == (False, True)
    assert len(wallet.orders) == 1


@pytest.mark.parametrize("amount", [1000, FUNDS + 1])
async def test_64_concurrent_copies_are_one_payment_with_64_equal_answers(
    service: PaymentService, wallet: MemoryWallet, amount: int
) -> None:
    copies = [pay(service, order(amount=amount), "key", by=caller(request_id=f"req_{n}")) for n in range(64)]
    answers = await asyncio.gather(*copies)

    assert all(answered.answer == answers[0].answer for answered in answers)
    assert sum(not answered.replayed for answered in answers) == 1
    assert len(await all_payments(service)) == len(wallet.orders) == 1


async def test_copies_in_two_processes_are_one_payment(
    database: Database, database_url: str, wallet: MemoryWallet
) -> None:
    """Each process answers what is stored, or that the other one is still at it; never another payment."""
    with payment_database(database_url) as other_database:
        services = [payment_service(database, wallet), payment_service(other_database, wallet)]

        async def first_answer(service: PaymentService) -> Answered:
            while True:
                answered = await service.initiate(caller(), order(), "key")
                if isinstance(answered, Answered):
                    return answered
                assert answered.reason is Reason.REQUEST_IN_PROGRESS

        answers = await asyncio.gather(*(first_answer(service) for service in services for _ in range(8)))

    assert all(answered.answer == answers[0].answer for answered in answers)
    assert (wallet.groups_posted, wallet.balance(CUSTOMER)) == (1, FUNDS - 1000)


async def test_a_key_belongs_to_one_request(service: PaymentService, wallet: MemoryWallet) -> None:
    await pay(service, order(), "key")

    for other in (order(amount=1001), order(reference="other"), order(metadata={"a": "b"}), order(STRANGER)):
        assert refused(await service.initiate(caller(), other, "key")).reason is Reason.IDEMPOTENCY_KEY_REUSED
    assert len(wallet.orders) == 1


@ON_SQLITE
async def test_a_key_belongs_to_one_request_also_while_that_runs(service: PaymentService, wallet: MemoryWallet) -> None:
    wallet.gate = asyncio.Event()
    running = asyncio.create_task(pay(service, order(), "key"))
    await wallet.called.acquire()

    assert refused(await service.initiate(caller(), order(amount=7), "key")).reason is Reason.IDEMPOTENCY_KEY_REUSED
    wallet.gate.set()
    assert isinstance((await running).answer, messages.Payment)


@ON_SQLITE
async def test_the_order_of_metadata_makes_no_other_request(service: PaymentService) -> None:
    first = await pay(service, order(metadata={"a": "1", "b": "2"}), "key")

    assert (await pay(service, order(metadata={"b": "2", "a": "1"}), "key")).answer == first.answer


async def test_two_equal_payments_without_a_key_are_two(service: PaymentService, wallet: MemoryWallet) -> None:
    first, second = await paid(service, order()), await paid(service, order())

    assert first.transaction_id != second.transaction_id
    assert wallet.balance(CUSTOMER) == FUNDS - 2000


async def test_customers_may_use_the_same_key(service: PaymentService, wallet: MemoryWallet) -> None:
    wallet.credit(STRANGER, FUNDS)
    await pay(service, order(), "key")

    other = await pay(service, order(), "key", by=caller(STRANGER))

    assert not other.replayed
    assert (wallet.balance(CUSTOMER), wallet.balance(STRANGER)) == (FUNDS - 1000, FUNDS - 1000)


@ON_SQLITE
async def test_a_copy_gets_the_first_answer_also_when_todays_fees_would_refuse_it(
    database: Database, wallet: MemoryWallet, service: PaymentService
) -> None:
    first = await pay(service, order(amount=20), "key")
    dearer = payment_service(database, wallet, fees=FeeSchedule.parse("USD=0+30", default_basis_points=0))

    copy = await pay(dearer, order(amount=20), "key")

    assert (copy.answer, copy.replayed) == (first.answer, True)


# --- an unclear wallet --------------------------------------------------------------------------------------------


@ON_SQLITE
@pytest.mark.parametrize("fault", [request_lost, reply_lost, no_room])
async def test_an_unclear_answer_is_asked_for_again_with_the_same_ids(
    service: PaymentService, wallet: MemoryWallet, fault: Fault
) -> None:
    wallet.faults = [fault, fault, fault]

    await paid(service, order())

    assert wallet.orders == [wallet.orders[0]] * 4
    assert (wallet.balance(CUSTOMER), wallet.groups_posted) == (FUNDS - 1000, 1)


@ON_SQLITE
@pytest.mark.parametrize("fault", [request_lost, reply_lost, no_room])
async def test_an_unknown_outcome_is_a_timeout_and_never_a_failure(
    database: Database, wallet: MemoryWallet, fault: Fault
) -> None:
    service = payment_service(database, wallet, request_seconds=0.5)
    wallet.always = fault

    with pytest.raises(Refused) as raised:
        await service.initiate(caller(), order(), "key")

    [payment] = await all_payments(service)
    assert raised.value.refusal.status == 504
    assert raised.value.refusal.members == {"transactionId": payment.transaction_id}
    assert payment.status == "PENDING"
    assert refused(await service.initiate(caller(), order(), "key")).reason is Reason.REQUEST_IN_PROGRESS


@ON_SQLITE
async def test_a_wallet_that_can_store_nothing_is_told_as_that(database: Database, wallet: MemoryWallet) -> None:
    """All the while that the request may take: what stands in the way is a disk, and who looks for it should know."""
    service = payment_service(database, wallet, request_seconds=0.5)
    wallet.always = disk_full

    with pytest.raises(Refused) as raised:
        await service.initiate(caller(), order(), "key")

    assert raised.value.refusal.reason is Reason.STORAGE_UNAVAILABLE
    wallet.always = request_lost
    with pytest.raises(Refused) as raised:
        await service.initiate(caller(), order(), "another key")
    assert raised.value.refusal.reason is Reason.TIMEOUT


def disk_full(_wallet: MemoryWallet, _order: GroupOrder) -> GroupOutcome:
    raise StorageUnavailable("the wallet's disk is full")


@ON_SQLITE
async def test_a_payment_for_whose_answer_nobody_waits_any_more_is_not_begun(
    database: Database, wallet: MemoryWallet
) -> None:
    service = payment_service(database, wallet)
    before = request_ends_at.set(time.monotonic() - 1)

    with pytest.raises(Overloaded):
        await service.initiate(caller(), order(), "key")

    request_ends_at.reset(before)
    assert await all_payments(service) == []


@ON_SQLITE
async def test_an_order_that_the_wallet_knows_differently_never_fails_a_payment(
    database: Database, wallet: MemoryWallet
) -> None:
    """The money has moved under the same id, perhaps by another release: a failure would be told to both sides."""
    service = payment_service(database, wallet, request_seconds=0.5)
    wallet.always = another_order

    with pytest.raises(InvariantBroken, match="another order"):
        await service.initiate(caller(), order(), "key")

    [payment] = await all_payments(service)
    assert payment.status == "PENDING"


def another_order(_wallet: MemoryWallet, order: GroupOrder) -> GroupOutcome:
    return group_refused(order, "id_already_taken", Reason.IDEMPOTENCY_KEY_REUSED)


@pytest.mark.parametrize(("fault", "moved_before"), [(request_lost, 0), (reply_lost, 1000), (no_room, 0)])
async def test_recovery_finishes_what_was_unknown_and_the_key_finds_it(
    database: Database, wallet: MemoryWallet, fault: Fault, moved_before: int
) -> None:
    clock = HandClock()
    service = payment_service(database, wallet, clock=clock, request_seconds=0.5)
    wallet.always = fault
    with pytest.raises(Refused):
        await service.initiate(caller(), order(), "key")
    assert wallet.balance(CUSTOMER) == FUNDS - moved_before
    wallet.always = None
    recovery = Recovery(service.saga)
    assert await recovery.run_once() == 0, "the lease has not run out"
    clock.forward(seconds=LEASE_AND_A_BIT)

    assert await recovery.run_once() == 1

    answered = await pay(service, order(), "key")
    assert isinstance(answered.answer, messages.Payment)
    assert (answered.answer.status, answered.replayed) == ("SUCCESS", True)
    assert (wallet.balance(CUSTOMER), wallet.groups_posted) == (FUNDS - 1000, 1)
    assert faults_in(service) == []


# --- recovery points ----------------------------------------------------------------------------------------------


async def left_behind(database: Database, wallet: MemoryWallet, clock: HandClock, *, money_moved: bool) -> str:
    """What a process leaves that dies after T1, or after T2: the id of the payment."""
    dead = payment_service(database, wallet, clock=clock, request_seconds=0.5)
    wallet.always = reply_lost if money_moved else request_lost
    with pytest.raises(Refused) as raised:
        await dead.initiate(caller(request_id="req_dead"), order(), "key")
    wallet.always = None
    wallet.orders.clear()
    clock.forward(seconds=LEASE_AND_A_BIT)
    return str(raised.value.refusal.members["transactionId"])


@ON_SQLITE
async def test_a_disk_that_is_full_when_the_money_has_moved_delays_the_verdict_until_there_is_room(
    database: Database, wallet: MemoryWallet
) -> None:
    clock = HandClock()
    service = payment_service(database, wallet, clock=clock)

    def fill_the_disk(wallet: MemoryWallet, order: GroupOrder) -> GroupOutcome:
        set_pragma(database, "query_only = ON")
        return wallet.apply(order)

    wallet.faults = [fill_the_disk]
    with pytest.raises(Refused) as raised:
        await service.initiate(caller(), order(), "key")
    clock.forward(seconds=LEASE_AND_A_BIT)
    with pytest.raises(StorageUnavailable):
        await Recovery(service.saga).run_once()
    [payment] = await all_payments(service)
    set_pragma(database, "query_only = OFF")

    assert await Recovery(service.saga).run_once() == 1

    assert raised.value.refusal.reason is Reason.STORAGE_UNAVAILABLE
    assert raised.value.refusal.members == {"transactionId": payment.transaction_id}
    assert payment.status == "PENDING"
    assert (wallet.balance(CUSTOMER), wallet.groups_posted) == (FUNDS - 1000, 1)
    assert payment_of(await pay(service, order(), "key")).status == "SUCCESS"


@pytest.mark.parametrize("money_moved", [False, True])
async def test_continues_from_intent_saved_and_from_money_moved(
    database: Database, wallet: MemoryWallet, money_moved: bool
) -> None:
    clock = HandClock()
    transaction_id = await left_behind(database, wallet, clock, money_moved=money_moved)
    restarted = payment_service(database, wallet, clock=clock)

    assert await Recovery(restarted.saga).run_once() == 1

    assert (wallet.balance(CUSTOMER), wallet.groups_posted, len(wallet.orders)) == (FUNDS - 1000, 1, 1)
    assert await states(restarted, transaction_id) == [("PENDING", CUSTOMER), ("SUCCESS", "service:platform")]
    [event] = outbox_events(database)
    assert (event.name, event.request_id) == ("payment.succeeded", "req_dead")
    assert faults_in(restarted) == []


async def test_continues_to_a_refusal_when_the_money_is_gone_by_then(database: Database, wallet: MemoryWallet) -> None:
    clock = HandClock()
    transaction_id = await left_behind(database, wallet, clock, money_moved=False)
    wallet.credit(CUSTOMER, -FUNDS)
    restarted = payment_service(database, wallet, clock=clock)

    assert await Recovery(restarted.saga).run_once() == 1

    refusal = refused(await pay(restarted, order(), "key"))
    assert refusal.reason is Reason.INSUFFICIENT_FUNDS
    assert refusal.members["transactionId"] == transaction_id


async def test_two_recoveries_finish_each_payment_once(
    database: Database, database_url: str, wallet: MemoryWallet
) -> None:
    clock = HandClock()
    await left_behind(database, wallet, clock, money_moved=True)
    with payment_database(database_url) as other_database:
        recoveries = [Recovery(payment_service(each, wallet, clock=clock).saga) for each in (database, other_database)]

        counts = await asyncio.gather(*(recovery.run_once() for recovery in recoveries))

    assert sorted(counts) == [0, 1]
    assert len(outbox_events(database)) == 1


async def test_a_request_that_is_slower_than_recovery_answers_what_recovery_stored(
    database: Database, wallet: MemoryWallet
) -> None:
    clock = HandClock()
    service = payment_service(database, wallet, clock=clock)
    wallet.gate = asyncio.Event()
    slow = asyncio.create_task(paid(service, order()))
    await wallet.called.acquire()
    clock.forward(seconds=LEASE_AND_A_BIT)
    recovering = asyncio.create_task(Recovery(payment_service(database, wallet, clock=clock).saga).run_once())
    await wallet.called.acquire()
    wallet.gate.set()

    payment, recovered = await asyncio.gather(slow, recovering)

    assert recovered == 1
    assert await service.find(caller(), payment.transaction_id) == payment
    assert len(await states(service, payment.transaction_id)) == 2
    assert (len(outbox_events(database)), wallet.groups_posted) == (1, 1)


@ON_SQLITE
async def test_a_payment_that_cannot_be_recovered_yet_does_not_stop_the_others(
    database: Database, wallet: MemoryWallet
) -> None:
    clock = HandClock()
    await left_behind(database, wallet, clock, money_moved=False)
    service = payment_service(database, wallet, clock=clock, request_seconds=0.5)
    wallet.always = request_lost
    with pytest.raises(Refused):
        await service.initiate(caller(), order(amount=2000), None)
    clock.forward(seconds=LEASE_AND_A_BIT)
    wallet.always = broken_for(wallet.orders[0].id)

    assert await Recovery(service.saga).run_once() == 1
    assert sorted(payment.status for payment in await all_payments(service)) == ["PENDING", "SUCCESS"]


# --- the database and the client ----------------------------------------------------------------------------------


async def test_a_commit_whose_word_is_lost_changes_nothing(
    database: Database, service: PaymentService, wallet: MemoryWallet
) -> None:
    """T1 and T3 are committed, the driver says they are not, and both are done again with the same ids."""
    with commits_lost(database, times=1):
        await paid(service, order(), "key")
    with commits_lost(database, times=1):
        await paid(service, order())
    wallet.gate = asyncio.Event()
    paying = asyncio.create_task(paid(service, order()))
    for _call in range(3):
        await wallet.called.acquire()
    with commits_lost(database, times=1):
        wallet.gate.set()
        await paying

    assert (wallet.balance(CUSTOMER), wallet.groups_posted) == (FUNDS - 3000, 3)
    assert len(outbox_events(database)) == 3
    assert faults_in(service) == []


async def test_a_commit_that_fails_is_no_payment(
    database: Database, service: PaymentService, wallet: MemoryWallet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ewallet.plumbing.database.MAXIMUM_ATTEMPTS", 2)
    with commits_refused(database), pytest.raises(OutcomeUnknown):
        await service.initiate(caller(), order(), "key")

    assert await all_payments(service) == []
    assert wallet.orders == []
    assert not (await pay(service, order(), "key")).replayed


@ON_SQLITE
async def test_a_client_that_goes_away_neither_stops_its_payment_nor_blocks_the_next(
    service: PaymentService, wallet: MemoryWallet
) -> None:
    wallet.gate = asyncio.Event()
    gone = asyncio.create_task(service.initiate(caller(), order(), "key"))
    await wallet.called.acquire()
    gone.cancel()
    with pytest.raises(asyncio.CancelledError):
        await gone
    wallet.gate.set()
    wallet.gate = None

    await paid(service, order())
    await service.saga.drain()

    assert (await pay(service, order(), "key")).replayed
    assert sorted(payment.status for payment in await all_payments(service)) == ["SUCCESS", "SUCCESS"]
    assert wallet.balance(CUSTOMER) == FUNDS - 2000


# --- verifying ----------------------------------------------------------------------------------------------------


async def test_verify_names_a_changed_payment(database: Database, service: PaymentService) -> None:
    payment = await paid(service, order())
    assert faults_in(service) == []

    database.transact(lambda tx: tx.execute(store.payments.update().values(status="FAILED")))

    assert faults_in(service) == [f"payment {payment.transaction_id} is not what its history tells of it"]


@ON_SQLITE
async def test_an_event_has_the_same_id_however_often_it_is_written(
    database: Database, service: PaymentService
) -> None:
    await paid(service, order())
    await paid(service, order())

    events: list[Event] = outbox_events(database)
    assert len({event.id for event in events}) == 2
    assert all(event.ordering_key == event.data["transactionId"] for event in events)
