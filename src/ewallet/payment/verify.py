"""Whether payment's books are in order: every payment, every line of its history and every operation as it was written.

A line of the history has a digest of the payment as it was then, and the audit's record of that step a digest of the
line. So the audit's hash chain vouches for every payment that has come to a verdict, and the history for the others.
Operations are sealed, and the audit has the seal that each had when it was begun and the one that it had in the end; an
expiry is begun by its payment.

A lease that runs is vouched for by nobody, because no money depends on it: changed by hand, it lets recovery come
sooner or later, no more. Whether the wallet has moved what payments say is another question, see ``reconcile``, which
also finds a payment without a verdict that was removed together with its history.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from operator import itemgetter
from typing import Any

import msgspec
from sqlalchemy import ColumnElement, Connection, Row, Table, case, func, select

from ewallet.payment.domain.operations import Kind, OperationStatus, expiry_id_of
from ewallet.payment.domain.payments import PaymentStatus
from ewallet.payment.domain.telling import BEGIN_BULK
from ewallet.payment.store import NO_LEASE, audit, bulk_members, history, operations, payments
from ewallet.plumbing import statements
from ewallet.plumbing.audit import BEGUN
from ewallet.plumbing.verifying import AT_ONCE, Seen, count, digest, pages

_BEGUN: Mapping[str, Any] = {
    "status": PaymentStatus.PENDING,
    "version": 1,
    "captured_amount": None,
    "captured_fee": None,
    "refunded_amount": 0,
    "failure_reason": None,
    "failure_detail": None,
    "failure_members": None,
    "lease_until": NO_LEASE,
    "settled_at": None,
}
"""What every payment had in these columns when it was begun. Others never change, but the time of the last change."""

_decode = msgspec.json.Decoder(dict[str, Any]).decode

Line = tuple[Any, ...]
"""A row of the history, in the order of the columns."""


def faults(tx: Connection, seen: Seen = lambda _count: None) -> Iterator[str]:
    """A sentence for each fault, which names the wrong record. ``tx`` must see one snapshot."""
    broken = audit.first_fault(tx, seen)
    if broken is None:
        yield from _deed_faults(tx, seen)
    else:
        yield broken  # Only a whole audit can vouch for other rows.
    yield from _payment_faults(tx, seen)
    yield from _operation_faults(tx, seen)
    yield from _bulk_faults(tx)


def _bulk_faults(tx: Connection) -> Iterator[str]:
    """Of payments that were begun together, those with a verdict have all failed, or none of them has."""
    failed = func.sum(case((payments.c.status == PaymentStatus.FAILED, 1), else_=0))
    decided = func.sum(case((payments.c.status != PaymentStatus.PENDING, 1), else_=0))
    parts = (
        select(bulk_members.c.bulk_id)
        .join(payments, payments.c.id == bulk_members.c.payment_id)
        .group_by(bulk_members.c.bulk_id)
        .having(failed != 0, failed != decided)
    )
    for (bulk_id,) in tx.execute(parts):
        yield f"of the payments of bulk {bulk_id}, which was all or nothing, a part has failed"


# --- what the audit tells -----------------------------------------------------------------------------------------


def _deed_faults(tx: Connection, seen: Seen) -> Iterator[str]:
    """Compare the history and the operations with the audit."""
    told_lines = told_begun = told_concluded = told_members = 0
    for page in pages(tx, audit.records, seen):
        deeds = [(row, _decode(row.detail)) for row in page]
        moves = {(row.subject, detail["version"]): (row, detail["line"]) for row, detail in deeds if "line" in detail}
        operated = [(row, detail) for row, detail in deeds if "operation" in detail]
        bulks = {row.subject: (row, detail) for row, detail in deeds if row.action == BEGIN_BULK}
        yield from _line_faults(tx, moves)
        yield from _member_faults(tx, bulks)
        yield from _seal_faults(tx, {detail["operation"]: (row, detail["seal"]) for row, detail in operated})
        told_lines += len(moves)
        told_begun += sum("begun" in detail for _, detail in operated)
        told_concluded += sum(row.result != BEGUN for row, _ in operated)
        told_members += sum(detail["members"] for _, detail in bulks.values())
    # The first line of a payment tells of its beginning, which is no deed yet.
    lines = count(tx, history) - count(tx, payments)
    begun = _number_of_operations(tx, operations.c.kind != Kind.EXPIRY)
    concluded = _number_of_operations(tx, operations.c.status != OperationStatus.PENDING)
    members = count(tx, bulk_members)
    if (told_lines, told_begun, told_concluded, told_members) != (lines, begun, concluded, members):
        yield from _untold(tx, seen)


def _line_faults(tx: Connection, moves: Mapping[tuple[str, int], tuple[Row[Any], str]]) -> Iterator[str]:
    lines = {row[:2]: row for row in statements.rows_in(tx, history, "payment_id", {each for each, _ in moves})}
    for (payment_id, number), (record, written) in moves.items():
        line = lines.get((payment_id, number))
        if line is None:
            yield f"{_named(payment_id, number)} is missing: audit record {record.sequence} tells of it"
        elif digest(line) != written:
            yield f"{_named(payment_id, number)} is not what audit record {record.sequence} tells"


def _member_faults(tx: Connection, told: Mapping[str, tuple[Row[Any], Mapping[str, Any]]]) -> Iterator[str]:
    """Compare which payments were begun together with what the audit tells of it."""
    members: defaultdict[str, list[Sequence[Any]]] = defaultdict(list)
    for row in statements.rows_in(tx, bulk_members, "bulk_id", told):
        members[row[1]].append(row)
    for bulk_id, (record, detail) in told.items():
        if digest(sorted(members[bulk_id], key=itemgetter(2))) != detail["membersDigest"]:
            yield f"the payments of bulk {bulk_id} are not those that audit record {record.sequence} tells"


def _named(payment_id: str, number: int) -> str:
    return f"line {number} of the history of payment {payment_id}"


def _seal_faults(tx: Connection, told: Mapping[str, tuple[Row[Any], str]]) -> Iterator[str]:
    """Compare operations with the seals that records tell of, those of a beginning while there is no verdict."""
    found = {row[0]: row for row in statements.rows_in(tx, operations, "id", told, columns=("id", "status", "seal"))}
    for operation_id, (record, written) in told.items():
        _, status, seal = found.get(operation_id, (None, None, None))
        if status is None:
            yield f"operation {operation_id} is missing: audit record {record.sequence} tells of it"
        elif seal != written and (status == OperationStatus.PENDING or record.result != BEGUN):
            yield f"operation {operation_id} is not what audit record {record.sequence} tells"


def _number_of_operations(tx: Connection, condition: ColumnElement[bool]) -> int:
    return tx.scalar(select(func.count()).select_from(operations).where(condition)) or 0


def _untold(tx: Connection, seen: Seen) -> Iterator[str]:
    """Name what no audit record tells of. There is some, so this once the names of all that is told are kept."""
    deeds = [(row, _decode(row.detail)) for page in pages(tx, audit.records, seen) for row in page]
    told_lines = {(row.subject, detail.get("version")) for row, detail in deeds}
    told_bulks = {row.subject for row, _ in deeds if row.action == BEGIN_BULK}
    for page in pages(tx, bulk_members, seen):
        for bulk_id in {row.bulk_id for row in page} - told_bulks:
            yield f"bulk {bulk_id} was inserted: the audit does not tell of it"
    told_operations = {(detail.get("operation"), row.result == BEGUN) for row, detail in deeds}
    for page in pages(tx, payments, seen):
        for payment_id, lines in _lines_by_payment(tx, page).items():
            for _, number, *_rest in lines:
                if number > 1 and (payment_id, number) not in told_lines:
                    yield f"{_named(payment_id, number)} was inserted: the audit does not tell of it"
    for page in pages(tx, operations, seen):
        for row in page:
            is_pending = row.status == OperationStatus.PENDING
            if (row.id, is_pending) not in told_operations and not (is_pending and row.kind == Kind.EXPIRY):
                yield f"operation {row.id} is {row.status}: the audit does not tell of it"


# --- payments and their history -----------------------------------------------------------------------------------


def _payment_faults(tx: Connection, seen: Seen) -> Iterator[str]:
    """Compare every payment with its history, and the other way round."""
    for page in pages(tx, payments, seen):
        lines_by_payment = _lines_by_payment(tx, page)
        for row in page:
            yield from _history_faults(row, lines_by_payment[row.id])
        yield from _expiry_faults(tx, page)
    missing = (
        select(history.c.payment_id)
        .outerjoin(payments, payments.c.id == history.c.payment_id)
        .where(payments.c.id.is_(None))
        .distinct()
        .limit(AT_ONCE)
    )
    for payment_id in tx.scalars(missing):
        yield f"payment {payment_id} is missing: its history is there"


def _lines_by_payment(tx: Connection, page: Sequence[Row[Any]]) -> Mapping[str, list[Line]]:
    """The history of some payments, in order."""
    lines: dict[str, list[Line]] = defaultdict(list)
    for line in sorted(statements.rows_in(tx, history, "payment_id", [row.id for row in page])):
        lines[line[0]].append(line)
    return lines


def _history_faults(row: Row[Any], lines: Sequence[Line]) -> Iterator[str]:
    numbers = [number for _, number, *_rest in lines]
    if len(lines) != row.version or numbers != [*range(1, len(lines) + 1)]:
        yield f"payment {row.id} has version {row.version}, but its history has {len(lines)} lines"
        return
    now = _as_sealed(payments, row)
    begun = {**now, **_BEGUN, "updated_at": row.created_at}
    _, _, *first = lines[0]
    _, _, status, at, _actor, _reason, written = lines[-1]
    if first != [PaymentStatus.PENDING, row.created_at, row.customer_id, None, digest([*begun.values()])]:
        yield f"payment {row.id} was not begun as it is, or the first line of its history was changed"
    if (status, at, written) != (row.status, row.updated_at, digest([*now.values()])):
        yield f"payment {row.id} is not what its history tells of it"
    if row.status != PaymentStatus.PENDING and row.lease_until != NO_LEASE:
        yield f"payment {row.id} has a lease, but nothing is left to do"


def _as_sealed(table: Table, row: Row[Any]) -> dict[str, Any]:
    """A row's values by their columns, as digests have them: without what serves locking only."""
    values = dict(zip(table.columns.keys(), row, strict=True))
    return values | {name: nothing for name, nothing in _FOR_LOCKING.items() if name in values}


_FOR_LOCKING = {"lease_until": NO_LEASE, "operations_begun": 0}


def _expiry_faults(tx: Connection, page: Sequence[Row[Any]]) -> Iterator[str]:
    """Every hold that was made has an expiry, which ends it when nobody else does."""
    held = {expiry_id_of(row.id): row.id for row in page if _was_held(row)}
    found = {row[0] for row in statements.rows_in(tx, operations, "id", held, columns=("id",))}
    for expiry_id in sorted(held.keys() - found):
        yield f"operation {expiry_id} is missing: the hold of payment {held[expiry_id]} must have an end"


def _was_held(payment: Row[Any]) -> bool:
    return payment.hold_seconds is not None and payment.settled_at is not None and payment.failure_reason is None


# --- operations ---------------------------------------------------------------------------------------------------


def _operation_faults(tx: Connection, seen: Seen) -> Iterator[str]:
    """Compare every operation with its seal, and look for its payment."""
    for page in pages(tx, operations, seen):
        ids = {row.payment_id for row in page}
        known = {row[0] for row in statements.rows_in(tx, payments, "id", ids, columns=("id",))}
        yield from _unheld_faults(tx, [row for row in page if row.kind == Kind.EXPIRY])
        for row in page:
            *values, seal = _as_sealed(operations, row).values()
            if digest(values) != seal:
                yield f"operation {row.id} is not what was written"
            if row.payment_id not in known:
                yield f"operation {row.id} belongs to payment {row.payment_id}, which is missing"
            if row.status != OperationStatus.PENDING and row.lease_until != NO_LEASE:
                yield f"operation {row.id} has a lease, but nothing is left to do"


def _unheld_faults(tx: Connection, expiries: Sequence[Row[Any]]) -> Iterator[str]:
    """An expiry ends the hold of its payment, and has its id from there."""
    rows = tx.execute(select(payments).where(payments.c.id.in_({row.payment_id for row in expiries})))
    held = {row.id for row in rows if _was_held(row)}
    for row in expiries:
        if row.payment_id not in held or row.id != expiry_id_of(row.payment_id):
            yield f"operation {row.id} was inserted: it ends no hold"
