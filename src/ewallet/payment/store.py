"""Payment's tables and every statement on them.

The history's number is the payment's version: a state and its line in the history are written in one transaction, so
either tells what happened to the other.
"""

from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import groupby
from typing import Any

import msgspec
from sqlalchemy import (
    CheckConstraint,
    Column,
    Connection,
    Index,
    MetaData,
    Row,
    Select,
    Table,
    UniqueConstraint,
    case,
    func,
    select,
    update,
)

from ewallet.kernel.errors import Reason
from ewallet.kernel.ids import new_id
from ewallet.payment.domain.operations import Intent, Kind, Operation, OperationStatus
from ewallet.payment.domain.payments import Charge, Failure, Payment, PaymentStatus
from ewallet.plumbing import statements
from ewallet.plumbing.audit import AuditLog
from ewallet.plumbing.figures import Figure, seconds_since
from ewallet.plumbing.json import encode
from ewallet.plumbing.leases import Leases
from ewallet.plumbing.outbox import Outbox
from ewallet.plumbing.schema import IDENTIFIER, INTEGER, KEY, LONG_TEXT, SHORT_TEXT, insert_rows, table, upsert_rows
from ewallet.plumbing.telemetry import UNFINISHED, UNFINISHED_OLDEST
from ewallet.plumbing.verifying import digest

metadata = MetaData()

payments = table(
    "payment_payments",
    metadata,
    Column("id", IDENTIFIER, primary_key=True),
    Column("status", IDENTIFIER, nullable=False),
    Column("version", INTEGER, nullable=False),
    Column("customer_id", IDENTIFIER, nullable=False),
    Column("merchant_id", IDENTIFIER, nullable=False),
    Column("amount", INTEGER, nullable=False),
    Column("fee", INTEGER, nullable=False),
    Column("net_amount", INTEGER, nullable=False),
    # Where the money is held first; else it is paid at once.
    Column("hold_seconds", INTEGER, nullable=True),
    Column("captured_amount", INTEGER, nullable=True),
    Column("captured_fee", INTEGER, nullable=True),
    Column("refunded_amount", INTEGER, nullable=False),
    # Grows with each operation that is begun, so that who decides about one also writes the row that it has locked.
    Column("operations_begun", INTEGER, nullable=False),
    Column("currency", IDENTIFIER, nullable=False),
    Column("reference", SHORT_TEXT, nullable=True),
    Column("description", LONG_TEXT, nullable=True),
    Column("metadata", LONG_TEXT, nullable=False),
    Column("failure_reason", IDENTIFIER, nullable=True),
    Column("failure_detail", LONG_TEXT, nullable=True),
    Column("failure_members", LONG_TEXT, nullable=True),
    # The customer and the idempotency key, or the payment's own id: one column, because a row value in an IN list makes
    # SQLite read the whole table.
    Column("identity", SHORT_TEXT, nullable=False),
    Column("request_hash", IDENTIFIER, nullable=False),
    Column("request_id", KEY, nullable=False),
    # Until then the process that began the payment is expected to finish it; meaningless once it is finished.
    Column("lease_until", INTEGER, nullable=False),
    Column("created_at", INTEGER, nullable=False),
    # When the intent came to its verdict; what has been done to the payment since moves the other one only.
    Column("settled_at", INTEGER, nullable=True),
    Column("updated_at", INTEGER, nullable=False),
    CheckConstraint("amount > 0", name="payment_payments_amount"),
    CheckConstraint("fee >= 0 AND net_amount > 0 AND fee + net_amount = amount", name="payment_payments_fee"),
    CheckConstraint(
        "captured_amount IS NULL"
        " OR (captured_amount <= amount AND captured_fee >= 0 AND captured_fee < captured_amount)",
        name="payment_payments_captured",
    ),
    CheckConstraint(
        "refunded_amount BETWEEN 0 AND COALESCE(captured_amount, amount)", name="payment_payments_refunded"
    ),
    UniqueConstraint("identity", name="payment_payments_identity"),
    # Ids are ordered by time, so each of these lists newest first. A person's list filtered by status reads past the
    # other states: an index that moved with every change of state would cost more than it saves.
    Index("payment_payments_by_customer", "customer_id", "id"),
    Index("payment_payments_by_merchant", "merchant_id", "id"),
    # Also how recovery finds the few that are PENDING.
    Index("payment_payments_by_status", "status", "id"),
)

history = table(
    "payment_history",
    metadata,
    Column("payment_id", IDENTIFIER, primary_key=True),
    Column("number", INTEGER, primary_key=True, autoincrement=False),
    Column("status", IDENTIFIER, nullable=False),
    Column("at", INTEGER, nullable=False),
    Column("actor", IDENTIFIER, nullable=False),
    Column("reason", IDENTIFIER, nullable=True),
    # Of the payment as it was then, all columns of it.
    Column("digest", IDENTIFIER, nullable=False),
)

bulk_members = table(
    "payment_bulk_members",
    metadata,
    # Of the payments alone that are carried out together or not at all; others are not in here.
    Column("payment_id", IDENTIFIER, primary_key=True),
    Column("bulk_id", IDENTIFIER, nullable=False),
    Column("place", INTEGER, nullable=False),
    UniqueConstraint("bulk_id", "place", name="payment_bulk_members_by_bulk"),
)

operations = table(
    "payment_operations",
    metadata,
    Column("id", IDENTIFIER, primary_key=True),
    Column("payment_id", IDENTIFIER, nullable=False),
    Column("kind", IDENTIFIER, nullable=False),
    Column("status", IDENTIFIER, nullable=False),
    Column("amount", INTEGER, nullable=False),
    Column("fee", INTEGER, nullable=False),
    Column("reason", LONG_TEXT, nullable=True),
    Column("failure_reason", IDENTIFIER, nullable=True),
    Column("failure_detail", LONG_TEXT, nullable=True),
    Column("failure_members", LONG_TEXT, nullable=True),
    Column("actor", IDENTIFIER, nullable=False),
    # As a payment's: whoever asked and the idempotency key, or the operation's own id.
    Column("identity", SHORT_TEXT, nullable=False),
    Column("request_hash", IDENTIFIER, nullable=False),
    Column("request_id", KEY, nullable=False),
    # As a payment's; an expiry's is the end of the hold, before which nobody has to do anything.
    Column("lease_until", INTEGER, nullable=False),
    Column("created_at", INTEGER, nullable=False),
    Column("updated_at", INTEGER, nullable=False),
    # Of the other columns but the lease.
    Column("seal", IDENTIFIER, nullable=False),
    CheckConstraint("fee >= 0 AND amount >= fee", name="payment_operations_amount"),
    UniqueConstraint("identity", name="payment_operations_identity"),
    # How the refunds of a payment are listed, and what they have set aside is summed up.
    Index("payment_operations_by_payment", "payment_id", "kind", "id"),
    Index("payment_operations_by_lease", "status", "lease_until"),
)

audit = AuditLog(metadata, "payment")
outbox = Outbox(metadata, "payment")
leases = Leases(metadata, "payment")

NO_LEASE = 0
"""The lease of what is finished, and in digests: whoever takes a lease has nothing else of the row to write."""

_columns = payments.c
_operations = operations.c

# --- beginning ----------------------------------------------------------------------------------------------------


def create(tx: Connection, begun: Sequence[Payment], *, lease_until: int) -> list[Payment]:
    """Store payments that are not there yet, each with its first line of history.

    Returns for each the payment that is stored under its identity: itself, also when this very call is repeated after
    it took effect, or the earlier one whose key it repeats. IntegrityError: another process took one of these keys
    after we had looked; the next transaction sees its row.
    """
    found = find_by_identity(tx, [payment.identity for payment in begun])
    stored = {payment.identity: payment for payment in found}
    new = [payment for payment in begun if stored.setdefault(payment.identity, payment) is payment]
    insert_rows(tx, payments, [_row(payment, lease_until) for payment in new])
    add_history(tx, ((payment, payment.customer_id, None) for payment in new))
    return [stored[payment.identity] for payment in begun]


def create_bulk(
    tx: Connection, bulk_id: str, begun: Sequence[Payment], *, lease_until: int
) -> Sequence[Payment] | None:
    """Store payments that are carried out together, or none of them where any of their identities is there.

    Returns what is stored under these identities: themselves, or those that an earlier call began together, in the same
    order; None where they were begun otherwise, even one. IntegrityError as by :func:`create`.
    """
    identities = [payment.identity for payment in begun]
    if find_by_identity(tx, identities):
        return find_bulk(tx, identities)
    insert_rows(tx, payments, [_row(payment, lease_until) for payment in begun])
    insert_rows(tx, bulk_members, bulk_rows(bulk_id, begun))
    add_history(tx, ((payment, payment.customer_id, None) for payment in begun))
    return begun


def bulk_rows(bulk_id: str, begun: Sequence[Payment]) -> list[tuple[str, str, int]]:
    """Which payments belong together, in their order; the audit has a digest of it."""
    return [(payment.id, bulk_id, place) for place, payment in enumerate(begun)]


def find_bulk(tx: Connection, identities: Sequence[str]) -> list[Payment] | None:
    """The payments that were begun together with exactly these identities, in this order; None where there are none."""
    found = {payment.identity: payment for payment in find_by_identity(tx, identities)}
    stored = [found[identity] for identity in identities if identity in found]
    ids = [payment.id for payment in stored]
    together = _bulks_of(tx, ids[:1])
    return stored if len(ids) == len(identities) and together == [ids] else None


def _bulks_of(tx: Connection, ids: Collection[str]) -> list[list[str]]:
    """The ids of all payments that were begun together with one of these, each bulk in its order."""
    wanted = select(bulk_members.c.bulk_id).where(bulk_members.c.payment_id.in_(ids)).distinct()
    members = tx.execute(
        select(bulk_members.c.bulk_id, bulk_members.c.payment_id)
        .where(bulk_members.c.bulk_id.in_(wanted))
        .order_by(bulk_members.c.bulk_id, bulk_members.c.place)
    )
    return [[row.payment_id for row in bulk] for _, bulk in groupby(members, key=lambda row: row.bulk_id)]


# --- settling -----------------------------------------------------------------------------------------------------


def settle(tx: Connection, settled: Iterable[Payment]) -> set[str]:
    """Move PENDING payments into the states given; the ids of those that this call has moved.

    The others were moved before, by recovery or by this very call before its connection broke.
    """
    moved: set[str] = set()
    for _verdict, group in groupby(sorted(settled, key=_verdict_of), key=_verdict_of):
        moved |= _move(tx, list(group))
    return moved


def _verdict_of(payment: Payment) -> tuple[str, ...]:
    """What one statement can write to many payments; sorted, so that all processes lock in one order."""
    return (payment.status, *(part or "" for part in _failure_row(payment.failure)))


_SETTLE = (
    "UPDATE payment_payments SET status = ?, version = version + 1, failure_reason = ?, failure_detail = ?,"
    " failure_members = ?, lease_until = 0, settled_at = ?, updated_at = ? WHERE status = ? AND id IN "
)


def _move(tx: Connection, group: Sequence[Payment]) -> set[str]:
    """Compare and set on the state, for payments with the same verdict."""
    ids = {payment.id for payment in group}
    example = group[0]
    listed = statements.in_list(ids)
    moment = example.updated_at
    values = (example.status, *_failure_row(example.failure), moment, moment, PaymentStatus.PENDING, *listed)
    if statements.run(tx, _SETTLE + statements.marks(len(listed)), values).changed == len(ids):
        return ids
    # Whoever moves a payment writes its history in the same transaction; ours is not written yet.
    return ids - set(
        tx.execute(
            select(history.c.payment_id).where(history.c.payment_id.in_(ids), history.c.number == example.version)
        ).scalars()
    )


def add_history(tx: Connection, moves: Iterable[tuple[Payment, str, Failure | None]]) -> list[str]:
    """Write down the states that payments have come to, each with who brought it there and what failed on the way.

    Returns a digest of each line for the audit, which so vouches for the payment, too.
    """
    rows = [
        (
            payment.id,
            payment.version,
            payment.status,
            payment.updated_at,
            actor,
            failure.reason.code if failure else None,
            digest(_row(payment, NO_LEASE)),
        )
        for payment, actor, failure in moves
    ]
    insert_rows(tx, history, rows)
    return [digest(row) for row in rows]


# --- operations ---------------------------------------------------------------------------------------------------


def lock(tx: Connection, payment_ids: Collection[str]) -> dict[str, Payment]:
    """Payments by their ids, locked until the transaction ends, in the order of their ids."""
    found = tx.execute(select(payments).where(_columns.id.in_(payment_ids)).order_by(_columns.id).with_for_update())
    return {row.id: _payment(row) for row in found}


def begin_operations(tx: Connection, begun: Sequence[tuple[Operation, int]]) -> None:
    """Store operations of clients, each with its lease, and write the payments that were locked for them.

    Where several nodes can be written to (Galera), locks are of one node, and what two transactions only read does not
    make one of them fail: each refund would leave out the other one.
    """
    if not begun:
        return
    create_operations(tx, begun)
    ids = {operation.payment_id for operation, _ in begun}
    tx.execute(update(payments).where(_columns.id.in_(ids)).values(operations_begun=_columns.operations_begun + 1))


def create_operations(tx: Connection, begun: Iterable[tuple[Operation, int]]) -> None:
    """Store new operations, each with its lease."""
    insert_rows(tx, operations, [_operation_row(operation, lease_until) for operation, lease_until in begun])


def being_refunded(tx: Connection, payment_ids: Collection[str]) -> dict[str, int]:
    """What refunds that have no verdict yet have set aside, by payment; only exact while the payments are locked."""
    pending = (
        select(_operations.payment_id, func.sum(_operations.amount).label("amount"))
        .where(
            _operations.payment_id.in_(payment_ids),
            _operations.kind == Kind.REFUND,
            _operations.status == OperationStatus.PENDING,
        )
        .group_by(_operations.payment_id)
    )
    return {row.payment_id: int(row.amount) for row in tx.execute(pending)}


def conclude(tx: Connection, moved: Sequence[Payment], concluded: Sequence[Operation]) -> None:
    """Write what has become of operations and of their payments, which the transaction has locked."""
    upsert_rows(tx, payments, [_row(payment, NO_LEASE) for payment in moved], update=_MOVED_COLUMNS)
    rows = [_operation_row(operation, NO_LEASE) for operation in concluded]
    upsert_rows(tx, operations, rows, update=_CONCLUDED_COLUMNS)


_MOVED_COLUMNS = ("status", "version", "captured_amount", "captured_fee", "refunded_amount", "updated_at")
_CONCLUDED_COLUMNS = (
    "status",
    "failure_reason",
    "failure_detail",
    "failure_members",
    "lease_until",
    "updated_at",
    "seal",
)


def find_operations(tx: Connection, ids: Collection[str]) -> list[Operation]:
    """Operations by their ids, in no order; unknown ids are left out."""
    return [_operation(row) for row in tx.execute(select(operations).where(_operations.id.in_(ids)))]


def find_operations_by_identity(tx: Connection, identities: Collection[str]) -> list[Operation]:
    """Operations by their identities, in no order; unknown ones are left out."""
    return [_operation(row) for row in tx.execute(select(operations).where(_operations.identity.in_(identities)))]


def refunds_of(tx: Connection, payment_id: str, *, before: str | None, limit: int) -> list[Operation]:
    """The refunds of a payment, newest first; ``before`` is the id to continue from."""
    query = (
        select(operations)
        .where(_operations.payment_id == payment_id, _operations.kind == Kind.REFUND)
        .order_by(_operations.id.desc())
        .limit(limit)
    )
    if before is not None:
        query = query.where(_operations.id < before)
    return [_operation(row) for row in tx.execute(query)]


# --- recovery -----------------------------------------------------------------------------------------------------


def overdue(tx: Connection, *, now: int, limit: int) -> list[tuple[Intent, int]]:
    """Payments and operations without a verdict whose lease has run out, with the lease; oldest first."""
    begun = tx.execute(
        select(payments)
        .where(_columns.status == PaymentStatus.PENDING, _columns.lease_until < now)
        .order_by(_columns.id)
        .limit(limit)
    )
    left = [(Intent(_payment(row)), row.lease_until) for row in begun]
    due = tx.execute(
        select(operations)
        .where(_operations.status == OperationStatus.PENDING, _operations.lease_until < now)
        .order_by(_operations.lease_until)
        .limit(limit - len(left))
    ).all()
    payment_by_id = {payment.id: payment for payment in find(tx, {row.payment_id for row in due})}
    return left + [(Intent(payment_by_id[row.payment_id], _operation(row)), row.lease_until) for row in due]


def claim(tx: Connection, intent: Intent, *, lease: int, until: int) -> bool:
    """Take over an overdue intent; False where somebody else did or it has its verdict."""
    rows: Table = payments if intent.operation is None else operations
    # PENDING is the same word for both.
    claimed = tx.execute(
        update(rows)
        .where(
            rows.c.id == intent.own.id,
            rows.c.status == PaymentStatus.PENDING,
            rows.c.lease_until == lease,
        )
        .values(lease_until=until)
    )
    return claimed.rowcount == 1


def claim_bulks(tx: Connection, ids: Collection[str], *, until: int) -> list[list[Payment]]:
    """Take over all payments that were begun together with one of these, which are claimed; each bulk in its order."""
    bulks = _bulks_of(tx, ids) if ids else []
    for bulk in bulks:
        tx.execute(
            update(payments)
            .where(_columns.id.in_(bulk), _columns.status == PaymentStatus.PENDING)
            .values(lease_until=until)
        )
    found = {payment.id: payment for payment in find(tx, [each for bulk in bulks for each in bulk])}
    return [[found[each] for each in bulk] for bulk in bulks]


# --- figures ------------------------------------------------------------------------------------------------------


def figures(tx: Connection, now: int) -> Iterator[Figure]:
    """How many payments and operations have not come to their end, and since when the oldest, for the metrics."""
    yield from _unfinished("PAYMENT", tx.execute(_open_payments(PaymentStatus.PENDING)).one(), now)
    yield from _unfinished("HOLD", tx.execute(_open_payments(PaymentStatus.AUTHORIZED)).one(), now)
    # An expiry is begun with its hold, and open from the hold's end on.
    begins = case((_operations.kind == Kind.EXPIRY, _operations.lease_until), else_=_operations.created_at)
    query = (
        select(_operations.kind, func.count(), func.min(begins))
        .where(_operations.status == OperationStatus.PENDING, begins <= now)
        .group_by(_operations.kind)
    )
    open_by_kind = {kind: (number, oldest) for kind, number, oldest in tx.execute(query)}
    for kind in Kind:
        yield from _unfinished(kind.value, open_by_kind.get(kind, (0, None)), now)
    yield from outbox.figures(tx, now)


def _open_payments(status: PaymentStatus) -> Select[int, int | None]:
    return select(func.count(), func.min(_columns.created_at)).where(_columns.status == status)


def _unfinished(kind: str, found: Sequence[Any], now: int) -> Iterator[Figure]:
    number, oldest = found
    yield Figure(UNFINISHED, (kind,), number)
    yield Figure(UNFINISHED_OLDEST, (kind,), 0 if oldest is None else seconds_since(oldest, now))


# --- reconciling --------------------------------------------------------------------------------------------------


def payments_after(tx: Connection, after: str, limit: int) -> list[Intent]:
    """The next payments that have come to their verdict, by their ids."""
    query = select(payments).where(_columns.id > after, _columns.status != PaymentStatus.PENDING)
    return [Intent(_payment(row)) for row in tx.execute(query.order_by(_columns.id).limit(limit))]


def operations_after(tx: Connection, after: str, limit: int) -> list[Intent]:
    """The next operations that have come to their verdict, by their ids, with their payments."""
    query = select(operations).where(_operations.id > after, _operations.status != OperationStatus.PENDING)
    found = [_operation(row) for row in tx.execute(query.order_by(_operations.id).limit(limit))]
    payment_by_id = {payment.id: payment for payment in find(tx, {each.payment_id for each in found})}
    return [Intent(payment_by_id[each.payment_id], each) for each in found]


# --- reading ------------------------------------------------------------------------------------------------------


def find(tx: Connection, ids: Collection[str]) -> list[Payment]:
    """Payments by their ids, in no order; unknown ids are left out."""
    return [_payment(row) for row in tx.execute(select(payments).where(_columns.id.in_(ids)))] if ids else []


def find_by_identity(tx: Connection, identities: Collection[str]) -> list[Payment]:
    """Payments by their identities, in no order; unknown ones are left out."""
    return find(tx, [row[0] for row in statements.rows_in(tx, payments, "identity", identities, columns=("id",))])


def page(
    tx: Connection,
    *,
    customer_id: str | None = None,
    merchant_id: str | None = None,
    status: PaymentStatus | None = None,
    since: int | None = None,
    until: int | None = None,
    before: str | None = None,
    limit: int,
) -> list[Payment]:
    """Payments newest first, of one payer, of one payee or all; created at ``since`` or later and before ``until``.

    ``before`` is the id to continue from.
    """
    query = select(payments).order_by(_columns.id.desc()).limit(limit)
    if customer_id is not None:
        query = query.where(_columns.customer_id == customer_id)
    if merchant_id is not None:
        query = query.where(_columns.merchant_id == merchant_id)
    if status is not None:
        query = query.where(_columns.status == status)
    if before is not None:
        query = query.where(_columns.id < before)
    return [_payment(row) for row in tx.execute(_created_between(query, since, until))]


def _created_between(query: Select[Any], since: int | None, until: int | None) -> Select[Any]:
    """The index is on ids, whose time part is in milliseconds; the column decides within the millisecond."""
    if since is not None:
        query = query.where(_columns.id >= _first_id(since), _columns.created_at >= since)
    if until is not None:
        query = query.where(_columns.id < _first_id(until + 1000), _columns.created_at < until)
    return query


def _first_id(at: int) -> str:
    """The lowest id of a millisecond: all random bits are zero."""
    return new_id("pay", max(at, 0), random_bytes=bytes)


def history_of(tx: Connection, payment_id: str) -> Sequence[Row[Any]]:
    """Every state of a payment, in order."""
    return tx.execute(select(history).where(history.c.payment_id == payment_id).order_by(history.c.number)).all()


# --- rows ---------------------------------------------------------------------------------------------------------


def _row(payment: Payment, lease_until: int) -> tuple[Any, ...]:
    """A payment in the order of the columns."""
    captured = payment.captured
    return (
        payment.id,
        payment.status,
        payment.version,
        payment.customer_id,
        payment.merchant_id,
        payment.amount,
        payment.fee,
        payment.amount - payment.fee,
        payment.hold_seconds,
        captured.amount if captured else None,
        captured.fee if captured else None,
        payment.refunded_amount,
        0,
        payment.currency,
        payment.reference,
        payment.description,
        encode(payment.metadata).decode(),
        *_failure_row(payment.failure),
        payment.identity,
        payment.request_hash,
        payment.request_id,
        lease_until,
        payment.created_at,
        payment.settled_at,
        payment.updated_at,
    )


def _payment(row: Row[Any]) -> Payment:
    return Payment(
        id=row.id,
        status=PaymentStatus(row.status),
        version=row.version,
        customer_id=row.customer_id,
        merchant_id=row.merchant_id,
        amount=row.amount,
        fee=row.fee,
        hold_seconds=row.hold_seconds,
        captured=None if row.captured_amount is None else Charge(row.captured_amount, row.captured_fee),
        refunded_amount=row.refunded_amount,
        currency=row.currency,
        reference=row.reference,
        description=row.description,
        metadata=msgspec.json.decode(row.metadata),
        failure=_failure(row),
        identity=row.identity,
        request_hash=row.request_hash,
        request_id=row.request_id,
        created_at=row.created_at,
        settled_at=row.settled_at,
        updated_at=row.updated_at,
    )


def _operation_row(operation: Operation, lease_until: int) -> tuple[Any, ...]:
    """An operation in the order of the columns."""
    return (*_operation_values(operation, lease_until), operation_seal(operation))


def operation_seal(operation: Operation) -> str:
    """The seal of an operation, which the audit has of one that has come to its verdict."""
    return digest(_operation_values(operation, NO_LEASE))


def _operation_values(operation: Operation, lease_until: int) -> tuple[Any, ...]:
    return (
        operation.id,
        operation.payment_id,
        operation.kind,
        operation.status,
        operation.amount,
        operation.fee,
        operation.reason,
        *_failure_row(operation.failure),
        operation.actor,
        operation.identity,
        operation.request_hash,
        operation.request_id,
        lease_until,
        operation.created_at,
        operation.updated_at,
    )


def _operation(row: Row[Any]) -> Operation:
    return Operation(
        id=row.id,
        payment_id=row.payment_id,
        kind=Kind(row.kind),
        status=OperationStatus(row.status),
        amount=row.amount,
        fee=row.fee,
        reason=row.reason,
        failure=_failure(row),
        actor=row.actor,
        identity=row.identity,
        request_hash=row.request_hash,
        request_id=row.request_id,
        created_at=row.created_at,
        updated_at=row.updated_at,
    )


def _failure_row(failure: Failure | None) -> tuple[str | None, str | None, str | None]:
    """Reason, detail and further members, which hardly any failure has."""
    if failure is None:
        return (None, None, None)
    members = encode(failure.members).decode() if failure.members else None
    return (failure.reason.code, failure.detail, members)


def _failure(row: Row[Any]) -> Failure | None:
    if row.failure_reason is None:
        return None
    members = msgspec.json.decode(row.failure_members) if row.failure_members else {}
    return Failure(Reason[row.failure_reason], row.failure_detail, members)
