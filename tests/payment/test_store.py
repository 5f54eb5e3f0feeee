"""What the tables promise on both databases, with several processes writing."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import count
from queue import Queue
from threading import Barrier, Event
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, event, select, text, update
from sqlalchemy.exc import DBAPIError, IntegrityError

from ewallet.kernel.errors import Reason
from ewallet.kernel.ids import new_id
from ewallet.payment import store
from ewallet.payment.domain.operations import Intent, Kind, Operation, OperationStatus
from ewallet.payment.domain.payments import (
    Charge,
    Failure,
    Payment,
    PaymentStatus,
    captured,
    identity_of,
    refunded,
    settled,
)
from ewallet.plumbing.audit import AuditRecord
from ewallet.plumbing.database import Database
from ewallet.plumbing.schema import version_table
from tests.support.payment import CUSTOMER, MERCHANT, NOW, STRANGER, payment_database
from tests.support.plumbing import before_each_statement

LEASE = NOW + 5_000_000
REFUSED = Failure(Reason.INSUFFICIENT_FUNDS, "The balance is too small.")
FROZEN = Failure(Reason.WALLET_FROZEN, "The wallet is frozen.")

_numbers = count()


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    with payment_database(database_url) as database:
        yield database


@pytest.fixture
def other_process(database_url: str) -> Iterator[Database]:
    """A second set of connections: all that another process has in common with this one is the database."""
    with payment_database(database_url) as other:
        yield other


def payment(key: str | None = None, *, at: int = 0, **changes: Any) -> Payment:
    created_at = NOW + (at or next(_numbers) * 1000)
    payment_id = new_id("pay", created_at)
    fields: dict[str, Any] = {
        "id": payment_id,
        "customer_id": CUSTOMER,
        "merchant_id": MERCHANT,
        "amount": 1000,
        "fee": 20,
        "currency": "USD",
        "identity": payment_id if key is None else identity_of(CUSTOMER, key),
        "request_hash": "0" * 64,
        "request_id": "req_first",
        "created_at": created_at,
        "updated_at": created_at,
    }
    return Payment(**(fields | changes))


def create(database: Database, *payments: Payment) -> list[Payment]:
    """As the saga does: after a loss against another process, once more."""

    def work(tx: Connection) -> list[Payment]:
        return store.create(tx, payments, lease_until=LEASE)

    try:
        return database.transact(work)
    except IntegrityError:
        return database.transact(work)


def settle(database: Database, *payments: Payment) -> set[str]:
    """What the service does in one transaction: move, and write the history of what was moved."""

    def work(tx: Connection) -> set[str]:
        moved = store.settle(tx, payments)
        store.add_history(tx, ((payment, CUSTOMER, payment.failure) for payment in payments if payment.id in moved))
        return moved

    return database.transact(work)


def conclude(database: Database, *operations: Operation) -> None:
    database.transact(lambda tx: store.conclude(tx, [], operations))


def found(database: Database, *payments: Payment) -> dict[str, Payment]:
    ids = [payment.id for payment in payments]
    return {payment.id: payment for payment in database.read(lambda tx: store.find(tx, ids))}


def page(database: Database, **filters: Any) -> list[Payment]:
    return database.read(lambda tx: store.page(tx, **{"limit": 100, **filters}))


def history(database: Database, payment: Payment) -> list[tuple[int, str]]:
    rows = database.read(lambda tx: store.history_of(tx, payment.id))
    return [(row.number, row.status) for row in rows]


# --- the schema ---------------------------------------------------------------------------------------------------


def test_the_migrations_make_exactly_the_tables_that_the_store_uses(database: Database) -> None:
    def differences(tx: Connection) -> list[object]:
        ours = {table.name for table in store.metadata.sorted_tables}
        context = MigrationContext.configure(
            tx,
            opts={
                "version_table": version_table("payment"),
                "compare_type": True,
                "include_name": lambda name, kind, _parents: kind != "table" or name in ours,
            },
        )
        return list(compare_metadata(context, store.metadata))

    assert database.read(differences) == []


@pytest.mark.parametrize("table", ["payment_history", "payment_audit"])
@pytest.mark.parametrize("statement", ["UPDATE {} SET actor = 'x'", "DELETE FROM {}"])
def test_the_database_itself_refuses_to_change_what_happened(database: Database, table: str, statement: str) -> None:
    record = AuditRecord(CUSTOMER, "payment.succeeded", "pay_any", "req_first", "ok", {})
    create(database, payment())
    database.transact(lambda tx: store.audit.append(tx, NOW, [record]))

    with pytest.raises(DBAPIError, match=f"{table} is append-only"):
        database.transact(lambda tx: tx.execute(text(statement.format(table))))


@pytest.mark.parametrize(
    "change",
    [
        {"fee": 21},
        {"fee": 1000, "net_amount": 0},
        {"amount": 0, "fee": 0, "net_amount": 0},
        {"refunded_amount": 1001},
    ],
)
def test_the_database_itself_refuses_amounts_that_cannot_be(database: Database, change: dict[str, int]) -> None:
    create(database, payment())

    with pytest.raises(DBAPIError, match=r"(?i)constraint"):
        database.transact(lambda tx: tx.execute(update(store.payments).values(change)))


# --- beginning ----------------------------------------------------------------------------------------------------


def test_a_stored_payment_reads_back_as_it_was_written(database: Database) -> None:
    written = payment(reference="Bestellung ☕", description="zwei", metadata={"schlüssel": "wért"})

    assert create(database, written) == [written]
    assert found(database, written) == {written.id: written}
    assert history(database, written) == [(1, "PENDING")]


def test_a_repeated_call_finds_what_it_has_created(database: Database) -> None:
    batch = [payment(), payment("key"), payment()]

    assert create(database, *batch) == batch
    assert create(database, *batch, payment())[:3] == batch
    assert [history(database, each) for each in batch] == [[(1, "PENDING")]] * 3


def test_a_key_that_is_taken_leads_to_the_payment_that_has_it(database: Database) -> None:
    first, copy, other = payment("key"), payment("key"), payment("key", identity=identity_of(STRANGER, "key"))
    create(database, first)

    assert create(database, copy, other) == [first, other]
    assert found(database, copy) == {}


def test_copies_in_one_batch_are_one_payment(database: Database) -> None:
    first, copy = payment("key"), payment("key")

    assert create(database, first, copy) == [first, first]


def test_of_two_processes_with_one_key_one_creates_and_the_other_finds(
    database: Database, other_process: Database
) -> None:
    rounds, start = 20, Barrier(2)

    def run(process: Database) -> list[list[Payment]]:
        outcomes = []
        for number in range(rounds):
            own, shared = payment(), payment(f"key-{number}")
            start.wait()
            outcomes.append([own, shared, *create(process, own, shared)])
        return outcomes

    with ThreadPoolExecutor(2) as threads:
        ours, theirs = threads.map(run, [database, other_process])

    for (own, wanted, own_stored, stored), (other_own, other_wanted, other_own_stored, other_stored) in zip(
        ours, theirs, strict=True
    ):
        assert (own_stored, other_own_stored) == (own, other_own)
        assert stored == other_stored
        assert stored in (wanted, other_wanted)


def test_a_key_taken_after_we_looked_leads_to_the_winner(mariadb_url: str) -> None:
    """Two processes look, find nothing and insert: the loser's insert fails, and it reads the winner's row."""
    with payment_database(mariadb_url) as database, payment_database(mariadb_url) as other_process:
        winner, loser, bystander = payment("key"), payment("key"), payment()

        def win_before_the_insert(statement: str, _parameters: Sequence[Any]) -> None:
            if statement.startswith("INSERT INTO payment_payments") and not found(other_process, winner):
                create(other_process, winner)

        with before_each_statement(database, win_before_the_insert):
            assert create(database, loser, bystander) == [winner, bystander]
        assert found(database, loser) == {}
        assert history(database, bystander) == [(1, "PENDING")]


# --- settling -----------------------------------------------------------------------------------------------------


def test_each_payment_of_a_batch_gets_its_own_verdict(database: Database) -> None:
    begun = [payment() for _ in range(5)]
    create(database, *begun)
    verdicts = [None, REFUSED, None, FROZEN, REFUSED]
    batch = [settled(each, verdict, NOW + 9) for each, verdict in zip(begun, verdicts, strict=True)]

    assert settle(database, *batch) == {each.id for each in batch}
    assert found(database, *batch) == {each.id: each for each in batch}
    assert [history(database, each)[1][1] for each in batch] == ["SUCCESS", "FAILED", "SUCCESS", "FAILED", "FAILED"]


def test_what_was_settled_before_is_not_settled_again(database: Database) -> None:
    done, new = payment(), payment()
    create(database, done, new)
    settle(database, settled(done, REFUSED, NOW + 1))

    moved = settle(database, settled(done, None, NOW + 2), settled(new, None, NOW + 2))

    assert moved == {new.id}
    assert found(database, done)[done.id] == settled(done, REFUSED, NOW + 1)
    assert history(database, done) == [(1, "PENDING"), (2, "FAILED")]


def test_of_two_processes_that_settle_the_same_payments_each_is_moved_by_one(
    database: Database, other_process: Database
) -> None:
    begun = [payment() for _ in range(20)]
    create(database, *begun)
    batch = [settled(each, REFUSED if number % 2 else None, NOW + 9) for number, each in enumerate(begun)]
    start = Barrier(2)

    def run(work: tuple[Database, Sequence[Payment]]) -> set[str]:
        process, payments = work
        start.wait()
        return settle(process, *payments)

    with ThreadPoolExecutor(2) as threads:
        ours, theirs = threads.map(run, [(database, batch), (other_process, batch[::-1])])

    assert ours | theirs == {each.id for each in batch}
    assert ours & theirs == set()


# --- operations ---------------------------------------------------------------------------------------------------


def operation(of: Payment, kind: Kind = Kind.REFUND, **changes: Any) -> Operation:
    at = NOW + next(_numbers) * 1000
    operation_id = new_id(kind.prefix, at)
    fields: dict[str, Any] = {
        "id": operation_id,
        "payment_id": of.id,
        "kind": kind,
        "amount": 100,
        "actor": MERCHANT,
        "identity": operation_id,
        "request_hash": "1" * 64,
        "request_id": "req_operation",
        "created_at": at,
        "updated_at": at,
    }
    return Operation(**(fields | changes))


def begin(database: Database, *operations: Operation) -> None:
    database.transact(lambda tx: store.create_operations(tx, [(each, LEASE) for each in operations]))


def test_who_begins_an_operation_writes_the_payment_it_was_decided_on(database: Database) -> None:
    """Or on two nodes of a cluster two refunds could each leave out the other one."""
    untouched, chosen = payment(), payment()
    create(database, untouched, chosen)
    database.transact(lambda tx: store.begin_operations(tx, [(operation(chosen), LEASE)]))

    query = select(store.payments.c.id, store.payments.c.operations_begun)
    rows = database.read(lambda tx: tx.execute(query).all())
    assert {row.id: row.operations_begun for row in rows} == {untouched.id: 0, chosen.id: 1}


def test_a_stored_operation_reads_back_as_it_was_written(database: Database) -> None:
    limited = Failure(Reason.WALLET_FROZEN, "Gefroren ❄", {"left": 5, "limit": "perDay"})
    written = operation(payment(), reason="kaputt ☹", status=OperationStatus.FAILED, failure=limited)
    begin(database, written)

    assert database.read(lambda tx: store.find_operations(tx, [written.id])) == [written]
    assert database.read(lambda tx: store.find_operations_by_identity(tx, [written.identity])) == [written]


def test_what_is_captured_and_refunded_reads_back_as_it_was_written(database: Database) -> None:
    begun = payment(hold_seconds=60)
    create(database, begun)
    held = settled(begun, None, NOW + 1)
    settle(database, held)
    after = refunded(captured(held, Charge(400, 8), NOW + 2), 100, NOW + 3)

    database.transact(lambda tx: store.conclude(tx, [after], []))

    assert found(database, begun)[begun.id] == after


def test_a_failure_keeps_what_its_problem_says_beside(database: Database) -> None:
    begun, other = payment(), payment()
    create(database, begun, other)
    limited = Failure(Reason.LIMIT_EXCEEDED, "Too much.", {"limit": "perDay", "allowed": 10, "left": 5})
    failures = [settled(begun, limited, NOW + 1), settled(other, replace(limited, members={"left": 6}), NOW + 1)]

    settle(database, *failures)

    assert found(database, begun, other) == {each.id: each for each in failures}


def test_an_operation_is_concluded_with_its_reason(database: Database) -> None:
    begun = operation(payment())
    begin(database, begun)
    failed = replace(begun, status=OperationStatus.FAILED, failure=FROZEN, updated_at=NOW + 9)

    conclude(database, failed)

    assert database.read(lambda tx: store.find_operations(tx, [begun.id])) == [failed]


def test_only_refunds_without_a_verdict_are_set_aside(database: Database) -> None:
    one, other = payment(), payment()
    done = operation(one)
    begin(database, operation(one), operation(one), done, operation(one, Kind.CAPTURE), operation(other, amount=7))
    conclude(database, replace(done, status=OperationStatus.SUCCESS))

    assert database.read(lambda tx: store.being_refunded(tx, [one.id, other.id])) == {one.id: 200, other.id: 7}
    assert database.read(lambda tx: store.being_refunded(tx, [payment().id])) == {}


def test_refunds_are_listed_newest_first_and_nothing_else_is(database: Database) -> None:
    of = payment()
    old, new = operation(of), operation(of)
    begin(database, old, new, operation(of, Kind.VOID), operation(payment()))

    assert database.read(lambda tx: store.refunds_of(tx, of.id, before=None, limit=9)) == [new, old]
    assert database.read(lambda tx: store.refunds_of(tx, of.id, before=None, limit=1)) == [new]
    assert database.read(lambda tx: store.refunds_of(tx, of.id, before=new.id, limit=9)) == [old]


def test_a_payment_that_another_process_has_locked_is_waited_for(mariadb_url: str) -> None:
    """The part of a refund that one process sets aside is seen by the next, however close they come."""
    with payment_database(mariadb_url) as database, payment_database(mariadb_url) as other_process:
        of = payment()
        create(database, of)
        entered, seen = Event(), Queue[dict[str, int]]()

        def second(tx: Connection) -> None:
            entered.set()
            store.lock(tx, [of.id])
            seen.put(store.being_refunded(tx, [of.id]))

        def first(tx: Connection) -> None:
            store.lock(tx, [of.id])
            threads.submit(other_process.transact, second)
            assert entered.wait(10)
            store.create_operations(tx, [(operation(of), LEASE)])

        with ThreadPoolExecutor(1) as threads:
            database.transact(first)
            assert seen.get(timeout=10) == {of.id: 100}


# --- recovery -----------------------------------------------------------------------------------------------------


def test_only_payments_whose_lease_has_run_out_are_overdue(database: Database) -> None:
    left, done = payment(), payment()
    create(database, left, done)
    settle(database, settled(done, None, NOW))

    assert database.read(lambda tx: store.overdue(tx, now=LEASE, limit=9)) == []
    assert database.read(lambda tx: store.overdue(tx, now=LEASE + 1, limit=9)) == [(Intent(left), LEASE)]


def test_an_overdue_payment_is_claimed_once(database: Database) -> None:
    left = payment()
    create(database, left)

    def claim(tx: Connection) -> bool:
        return store.claim(tx, Intent(left), lease=LEASE, until=LEASE + 1)

    assert database.transact(claim) is True
    assert database.transact(claim) is False


def test_a_finished_payment_is_not_claimed(database: Database) -> None:
    done = payment()
    create(database, done)
    settle(database, settled(done, None, NOW))

    assert database.transact(lambda tx: store.claim(tx, Intent(done), lease=LEASE, until=LEASE + 1)) is False


def test_operations_are_overdue_and_claimed_like_payments_the_longest_first(database: Database) -> None:
    of = payment()
    create(database, of)
    settle(database, settled(of, None, NOW))
    left, done, later = operation(of), operation(of), operation(of)
    begin(database, left, done)
    database.transact(lambda tx: store.create_operations(tx, [(later, LEASE - 1)]))
    conclude(database, replace(done, status=OperationStatus.SUCCESS))
    intents = [(Intent(settled(of, None, NOW), later), LEASE - 1), (Intent(settled(of, None, NOW), left), LEASE)]

    assert database.read(lambda tx: store.overdue(tx, now=LEASE + 1, limit=9)) == intents
    assert database.read(lambda tx: store.overdue(tx, now=LEASE + 1, limit=1)) == intents[:1]
    assert database.read(lambda tx: store.overdue(tx, now=LEASE - 1, limit=9)) == []

    def claim(tx: Connection) -> bool:
        return store.claim(tx, intents[1][0], lease=LEASE, until=LEASE + 1)

    assert [database.transact(claim), database.transact(claim)] == [True, False]


# --- reading ------------------------------------------------------------------------------------------------------


def test_lists_are_newest_first_by_side_by_state_and_by_time(database: Database) -> None:
    old, middle, new = payment(at=10_000), payment(at=10_400), payment(at=20_000, merchant_id=STRANGER)
    create(database, middle, new, old)
    settle(database, settled(old, REFUSED, NOW + 30_000))
    old = settled(old, REFUSED, NOW + 30_000)

    assert page(database)[0] == new
    assert page(database)[1:] == page(database, before=new.id)
    assert page(database, customer_id=CUSTOMER, limit=1) == [new]
    assert page(database, merchant_id=STRANGER) == [new]
    assert page(database, customer_id=STRANGER) == []
    assert page(database, status=PaymentStatus.FAILED) == [old]
    assert page(database, since=NOW + 10_400) == sorted([middle, new], key=lambda each: each.id, reverse=True)
    assert page(database, until=NOW + 10_400) == [old]
    assert page(database, since=NOW + 10_000, until=NOW + 10_001) == [old]
    assert page(database, since=-1, until=0) == []
    assert page(database, before=new.id, merchant_id=MERCHANT, until=NOW + 10_400) == [old]


def test_no_statement_reads_the_whole_table(sqlite_url: str) -> None:
    """Each must find its rows by an index, however many payments there are."""
    statements: list[tuple[str, Any]] = []

    def note(statement: str, parameters: Sequence[Any]) -> None:
        if statement.startswith(("SELECT", "UPDATE")):
            statements.append((statement, tuple(parameters)))

    def plan(tx: Connection) -> list[str]:
        steps = [tx.exec_driver_sql(f"EXPLAIN QUERY PLAN {sql}", values) for sql, values in statements]
        return [step.detail for rows in steps for step in rows]

    with payment_database(sqlite_url) as database:
        for engine in (database._writer, database._reader):
            event.listen(engine, "before_cursor_execute", lambda *call: note(call[2], call[3]))
        first = payment("key")
        with before_each_statement(database, note):
            create(database, first, payment())
            create(database, first)
            settle(database, settled(first, None, NOW))
            settle(database, settled(first, None, NOW))
        found(database, first)
        page(database, customer_id=CUSTOMER, since=NOW)
        page(database, merchant_id=MERCHANT, until=NOW)
        page(database, status=PaymentStatus.FAILED)
        refund = operation(first)
        with before_each_statement(database, note):
            begin(database, refund)
            conclude(database, refund)
            database.transact(lambda tx: store.being_refunded(tx, store.lock(tx, [first.id]).keys()))
        database.read(lambda tx: store.find_operations_by_identity(tx, [refund.identity]))
        database.read(lambda tx: store.find_operations(tx, [refund.id]))
        database.read(lambda tx: store.refunds_of(tx, first.id, before=refund.id, limit=1))
        database.read(lambda tx: store.overdue(tx, now=LEASE + 1, limit=2))

        steps = database.read(plan)

    assert len(steps) > 8
    assert [step for step in steps if step.startswith("SCAN")] == []
