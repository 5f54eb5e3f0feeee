"""Audit: who did what to what, when, in which request, with what result; append-only, in a hash chain.

Every record's hash covers its own fields and the hash of the record before it, and a head row holds the number and the
hash of the last one. So one record changed, removed, reordered or inserted, at the end too, breaks the chain at a
place that :meth:`AuditLog.first_fault` names. The database refuses UPDATE and DELETE of the records.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from sqlalchemy import Column, Connection, Index, MetaData, Row, insert, select

from ewallet.kernel.caller import Caller
from ewallet.plumbing import statements, verifying
from ewallet.plumbing.schema import IDENTIFIER, INTEGER, KEY, LONG_TEXT, insert_rows, table
from ewallet.plumbing.verifying import Seen

CHAIN_START = "0" * 64
"""The hash before the first record."""

SUCCEEDED = "ok"
"""The result of what was done; a refusal's result is its reason."""

BEGUN = "begun"
"""The result of what has none yet: another record tells of its end."""

_encode = msgspec.json.Encoder(order="sorted").encode


@dataclass(frozen=True, slots=True)
class AuditRecord:
    """One thing that somebody did or was refused. ``detail`` must hold no secrets: it is kept for ever."""

    actor: str
    action: str
    subject: str
    request_id: str
    result: str
    detail: Mapping[str, Any]

    @classmethod
    def of(cls, caller: Caller, action: str, subject: str, *, result: str = SUCCEEDED, **detail: Any) -> "AuditRecord":
        """A record of what ``caller`` did."""
        return cls(caller.subject, action, subject, caller.request_id, result, detail)


class AuditLog:
    """The audit tables of one service and every statement on them."""

    def __init__(self, metadata: MetaData, service: str) -> None:
        self.records = table(
            f"{service}_audit",
            metadata,
            Column("sequence", INTEGER, primary_key=True, autoincrement=False),
            Column("at", INTEGER, nullable=False),
            Column("actor", IDENTIFIER, nullable=False),
            Column("action", IDENTIFIER, nullable=False),
            Column("subject", IDENTIFIER, nullable=False),
            Column("request_id", KEY, nullable=False),
            Column("result", IDENTIFIER, nullable=False),
            Column("detail", LONG_TEXT, nullable=False),
            Column("hash", IDENTIFIER, nullable=False),
            Index(f"{service}_audit_by_subject", "subject", "sequence"),
            Index(f"{service}_audit_by_request", "request_id", "sequence"),
        )
        self.head = table(
            f"{service}_audit_head",
            metadata,
            Column("chain", INTEGER, primary_key=True, autoincrement=False),
            Column("sequence", INTEGER, nullable=False),
            Column("hash", IDENTIFIER, nullable=False),
        )

    def start_chain(self, tx: Connection) -> None:
        """Write the head row of an empty chain; part of the first migration, so that it can always be locked."""
        tx.execute(insert(self.head).values(chain=0, sequence=0, hash=CHAIN_START))

    def append(self, tx: Connection, at: int, records: Sequence[AuditRecord]) -> range:
        """Append records in one statement, and return their numbers; the head row is locked until the transaction ends.

        So what a transaction writes after this is in the order of the records, however many processes write.
        """
        if not records:
            return range(0)
        last_sequence, last_hash = statements.lock_head(tx, self.head, "sequence", "hash")
        sequence, rows = last_sequence, []
        for record in records:
            sequence += 1
            fields = (
                sequence,
                at,
                record.actor,
                record.action,
                record.subject,
                record.request_id,
                record.result,
                _encode(record.detail).decode(),
            )
            last_hash = chained_hash(last_hash, fields)
            rows.append((*fields, last_hash))
        insert_rows(tx, self.records, rows)
        statements.set_head(tx, self.head, sequence=sequence, hash=last_hash)
        return range(last_sequence + 1, sequence + 1)

    def find(
        self, tx: Connection, *, subject: str | None, request_id: str | None, before: int | None, limit: int
    ) -> Sequence[Row[Any]]:
        """Records newest first, by subject, by request or all; ``before`` is the sequence to continue from."""
        query = select(self.records).order_by(self.records.c.sequence.desc()).limit(limit)
        if subject is not None:
            query = query.where(self.records.c.subject == subject)
        if request_id is not None:
            query = query.where(self.records.c.request_id == request_id)
        if before is not None:
            query = query.where(self.records.c.sequence < before)
        return tx.execute(query).all()

    def following(self, tx: Connection, after: int, limit: int) -> Sequence[Row[Any]]:
        """The next records behind a number, oldest first; 0 is before the first."""
        sequence = self.records.c.sequence
        return tx.execute(select(self.records).where(sequence > after).order_by(sequence).limit(limit)).all()

    def first_fault(self, tx: Connection, seen: Seen = lambda _count: None) -> str | None:
        """Walk the whole chain; a sentence that names the first wrong record, or None where all is well.

        The head is read before each page: a log that grows meanwhile has at least the records that the head counts.
        """
        expected, last_hash = 1, CHAIN_START
        heads = self._heads(tx)
        while page := self.following(tx, expected - 1, verifying.AT_ONCE):
            seen(len(page))
            for row in page:
                fields, stored_hash = tuple(row)[:-1], row.hash
                if row.sequence != expected:
                    return f"audit record {expected} is missing: record {row.sequence} stands in its place"
                last_hash = chained_hash(last_hash, fields)
                if stored_hash != last_hash:
                    return f"audit record {row.sequence} ({row.action} of {row.subject}) is not what was written"
                expected += 1
            heads = self._heads(tx)
        return self._stray(tx) or _head_fault(heads, expected - 1, last_hash)

    def _heads(self, tx: Connection) -> Sequence[Row[Any]]:
        return tx.execute(select(self.head)).all()

    def _stray(self, tx: Connection) -> str | None:
        stray = tx.execute(select(self.records.c.sequence).where(self.records.c.sequence < 1).limit(1)).first()
        return None if stray is None else f"audit record {stray.sequence} was inserted before the first"


def _head_fault(heads: Sequence[Row[Any]], last_sequence: int, last_hash: str) -> str | None:
    if len(heads) != 1 or heads[0].chain != 0:
        return f"the audit head is missing: there are {len(heads)} rows in its place"
    head = heads[0]
    if head.sequence > last_sequence:
        return f"audit record {last_sequence + 1} is missing: the chain's head is record {head.sequence}"
    if head.sequence < last_sequence:
        return f"audit record {head.sequence + 1} was inserted behind the chain's head"
    return None if head.hash == last_hash else f"the audit head does not belong to record {last_sequence}"


def chained_hash(previous: str, fields: Sequence[Any]) -> str:
    """SHA-256 over the previous hash and the record's fields in JSON, in hexadecimal."""
    return hashlib.sha256(previous.encode() + _encode(list(fields))).hexdigest()
