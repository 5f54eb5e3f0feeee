"""Payment's tables and every statement on them.

The history's number is the payment's version: a state and its line in the history are written in one transaction, so
either tells what happened to the other.
"""

from collections.abc import Collection, Iterable, Sequence
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
    UniqueConstraint,
    and_,
    or_,
    select,
    update,
)
from sqlalchemy.exc import IntegrityError

from ewallet.kernel.errors import Reason
from ewallet.kernel.ids import new_id
from ewallet.payment.domain import Failure, Payment, PaymentStatus
from ewallet.plumbing import statements
from ewallet.plumbing.audit import AuditLog
from ewallet.plumbing.json import encode
from ewallet.plumbing.leases import Leases
from ewallet.plumbing.outbox import Outbox
from ewallet.plumbing.schema import IDENTIFIER, INTEGER, KEY, LONG_TEXT, SHORT_TEXT, insert_rows, table

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
    Column("refunded_amount", INTEGER, nullable=False),
    Column("currency", IDENTIFIER, nullable=False),
    Column("reference", SHORT_TEXT, nullable=True),
    Column("description", LONG_TEXT, nullable=True),
    Column("metadata", LONG_TEXT, nullable=False),
    Column("failure_reason", IDENTIFIER, nullable=True),
    Column("failure_detail", LONG_TEXT, nullable=True),
    # The customer and the idempotency key, or the payment's own id: one column, because a row value in an IN list makes
    # SQLite read the whole table.
    Column("identity", SHORT_TEXT, nullable=False),
    Column("request_hash", IDENTIFIER, nullable=False),
    Column("request_id", KEY, nullable=False),
    # Until then the process that began the payment is expected to finish it; meaningless once it is finished.
    Column("lease_until", INTEGER, nullable=False),
    Column("created_at", INTEGER, nullable=False),
    Column("updated_at", INTEGER, nullable=False),
    CheckConstraint("amount > 0", name="payment_payments_amount"),
    CheckConstraint("fee >= 0 AND net_amount > 0 AND fee + net_amount = amount", name="payment_payments_fee"),
    CheckConstraint("refunded_amount BETWEEN 0 AND amount", name="payment_payments_refunded"),
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
)

audit = AuditLog(metadata, "payment")
outbox = Outbox(metadata, "payment")
leases = Leases(metadata, "payment")

_columns = payments.c

# --- beginning ----------------------------------------------------------------------------------------------------


def create(tx: Connection, begun: Sequence[Payment], *, lease_until: int) -> list[Payment]:
    """Store payments that are not there yet, each with its first line of history.

    Returns for each the payment that is stored under its identity: itself, also when this very call is repeated after
    it took effect, or the earlier one whose key it repeats.
    """
    try:
        return _create(tx, begun, lease_until)
    except IntegrityError:
        # Another process took one of these keys after we had looked. Now its row can be seen.
        return _create(tx, begun, lease_until)


def _create(tx: Connection, begun: Sequence[Payment], lease_until: int) -> list[Payment]:
    found = find_by_identity(tx, [payment.identity for payment in begun])
    stored = {payment.identity: payment for payment in found}
    new = [payment for payment in begun if stored.setdefault(payment.identity, payment) is payment]
    insert_rows(tx, payments, [_row(payment, lease_until) for payment in new])
    add_history(tx, ((payment, payment.customer_id) for payment in new))
    return [stored[payment.identity] for payment in begun]


# --- settling -----------------------------------------------------------------------------------------------------


def settle(tx: Connection, settled: Iterable[Payment]) -> set[str]:
    """Move PENDING payments into the states given; the ids of those that this call has moved.

    The others were moved before, by recovery or by this very call before its connection broke.
    """
    moved: set[str] = set()
    for _verdict, group in groupby(sorted(settled, key=_verdict_of), key=_verdict_of):
        moved |= _move(tx, list(group))
    return moved


def _verdict_of(payment: Payment) -> tuple[str, str, str]:
    """What one statement can write to many payments; sorted, so that all processes lock in one order."""
    failure = payment.failure
    return (payment.status, failure.reason.code if failure else "", failure.detail if failure else "")


_SETTLE = (
    "UPDATE payment_payments SET status = ?, version = version + 1, failure_reason = ?, failure_detail = ?,"
    " updated_at = ? WHERE status = ? AND id IN "
)


def _move(tx: Connection, group: Sequence[Payment]) -> set[str]:
    """Compare and set on the state, for payments with the same verdict."""
    ids = {payment.id for payment in group}
    example = group[0]
    failure = example.failure
    listed = statements.in_list(ids)
    reason, detail = (failure.reason.code, failure.detail) if failure else (None, None)
    values = (example.status, reason, detail, example.updated_at, PaymentStatus.PENDING, *listed)
    if statements.run(tx, _SETTLE + statements.marks(len(listed)), values).changed == len(ids):
        return ids
    # Whoever moves a payment writes its history in the same transaction; ours is not written yet.
    return ids - set(
        tx.execute(
            select(history.c.payment_id).where(history.c.payment_id.in_(ids), history.c.number == example.version)
        ).scalars()
    )


def add_history(tx: Connection, moves: Iterable[tuple[Payment, str]]) -> None:
    """Write down the states that payments have come to, each with who brought it there."""
    rows = [
        (
            payment.id,
            payment.version,
            payment.status,
            payment.updated_at,
            actor,
            payment.failure.reason.code if payment.failure else None,
        )
        for payment, actor in moves
    ]
    insert_rows(tx, history, rows)


# --- recovery -----------------------------------------------------------------------------------------------------


def overdue(tx: Connection, *, now: int, limit: int) -> list[tuple[Payment, int]]:
    """PENDING payments whose lease has run out, with the lease; oldest first."""
    rows = tx.execute(
        select(payments)
        .where(_columns.status == PaymentStatus.PENDING, _columns.lease_until < now)
        .order_by(_columns.id)
        .limit(limit)
    )
    return [(_payment(row), row.lease_until) for row in rows]


def claim(tx: Connection, payment: Payment, *, lease: int, until: int) -> bool:
    """Take over an overdue payment; False where somebody else did or it is finished."""
    claimed = tx.execute(
        update(payments)
        .where(
            _columns.id == payment.id,
            _columns.status == PaymentStatus.PENDING,
            _columns.lease_until == lease,
        )
        .values(lease_until=until)
    )
    return claimed.rowcount == 1


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


# --- verifying ----------------------------------------------------------------------------------------------------


def faults(tx: Connection, *, limit: int) -> list[str]:
    """Sentences that name payments whose row contradicts itself or its history."""
    last = and_(history.c.payment_id == _columns.id, history.c.number == _columns.version)
    unhistoric = (
        select(_columns.id, _columns.status)
        .select_from(payments.outerjoin(history, last))
        .where(or_(history.c.status.is_(None), history.c.status != _columns.status))
        .limit(limit)
    )
    unbalanced = select(_columns.id).where(_columns.fee + _columns.net_amount != _columns.amount).limit(limit)
    return [
        *(f"payment {row.id} is {row.status}, but its history says otherwise" for row in tx.execute(unhistoric)),
        *(f"payment {row.id}: fee and net amount do not make up the amount" for row in tx.execute(unbalanced)),
    ]


# --- rows ---------------------------------------------------------------------------------------------------------


def _row(payment: Payment, lease_until: int) -> tuple[Any, ...]:
    """A new payment, which cannot have failed yet, in the order of the columns."""
    return (
        payment.id,
        payment.status,
        payment.version,
        payment.customer_id,
        payment.merchant_id,
        payment.amount,
        payment.fee,
        payment.net_amount,
        payment.refunded_amount,
        payment.currency,
        payment.reference,
        payment.description,
        encode(payment.metadata).decode(),
        None,
        None,
        payment.identity,
        payment.request_hash,
        payment.request_id,
        lease_until,
        payment.created_at,
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
        refunded_amount=row.refunded_amount,
        currency=row.currency,
        reference=row.reference,
        description=row.description,
        metadata=msgspec.json.decode(row.metadata),
        failure=Failure(Reason[row.failure_reason], row.failure_detail) if row.failure_reason else None,
        identity=row.identity,
        request_hash=row.request_hash,
        request_id=row.request_id,
        created_at=row.created_at,
        updated_at=row.updated_at,
    )
