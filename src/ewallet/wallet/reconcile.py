"""Reconciliation: what the wallet has told is rebuilt from its books, to be compared with what notification knows.

In the other direction, notification keeps with each direct credit and debit what it takes to book it again: nobody else
knows of one that the wallet has lost.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec
from sqlalchemy import Connection

from ewallet.kernel.ids import derived_id
from ewallet.plumbing.audit import SUCCEEDED, AuditRecord
from ewallet.plumbing.outbox import Event
from ewallet.plumbing.reconciling import AT_ONCE, Told
from ewallet.wallet import store
from ewallet.wallet.messages import MoneyMoved, MovementType
from ewallet.wallet.store import StoredGroup, StoredKey

_MOVEMENT_EVENTS = {MovementType.CREDIT: "wallet.credited", MovementType.DEBIT: "wallet.debited"}
MOVEMENT_TYPES = {name: type_ for type_, name in _MOVEMENT_EVENTS.items()}
_MOVEMENT_ACTIONS = frozenset({"wallet.credit", "wallet.debit"})
_STATUS_EVENTS = {"wallet.freeze": "wallet.frozen", "wallet.unfreeze": "wallet.unfrozen"}
"""By the audit's words."""

_decode = msgspec.json.Decoder(dict[str, Any]).decode
_decode_body = msgspec.json.Decoder(list[Any]).decode
_decode_moved = msgspec.json.Decoder(MoneyMoved).decode


def movement_event(record: AuditRecord, stored: StoredGroup, key: str | None, trace: str = "") -> Event:
    """What is told of a direct credit or debit that was booked; the memo is what it takes to book it again."""
    moved, body = _decode_moved(stored.answer or ""), _decode_body(stored.body)
    memo = {"actor": record.actor, "requestId": record.request_id}
    if key is not None:
        memo["key"] = key
    return Event(
        id=derived_id("evt", moved.transfer_id, _MOVEMENT_EVENTS[moved.type]),
        name=_MOVEMENT_EVENTS[moved.type],
        ordering_key=moved.customer_id,
        recipients=(moved.customer_id,),
        data={
            "customerId": moved.customer_id,
            "transferId": moved.transfer_id,
            "amount": moved.amount,
            "currency": moved.currency,
            "available": moved.available,
            "reference": moved.reference,
            "description": body[-1],
        },
        occurred_at=stored.at,
        request_id=record.request_id,
        memo=memo,
        trace=trace,
    )


def status_event(record: AuditRecord, at: int, trace: str = "") -> Event | None:
    """What is told of a wallet that was frozen or unfrozen; nobody is told of other changes."""
    name = _STATUS_EVENTS.get(record.action)
    if name is None:
        return None
    return Event(
        id=derived_id("evt", record.detail["change"], name),
        name=name,
        ordering_key=record.subject,
        recipients=(record.subject,),
        data={"customerId": record.subject, "reason": record.detail["reason"]},
        occurred_at=at,
        request_id=record.request_id,
        trace=trace,
    )


def told_after(tx: Connection, after: int) -> Told:
    """The events of a page of the audit, each as it was told."""
    rows = store.audit.following(tx, after, AT_ONCE)
    records = [
        (AuditRecord(row.actor, row.action, row.subject, row.request_id, row.result, _decode(row.detail)), row.at)
        for row in rows
        if row.result == SUCCEEDED
    ]
    movements = [record.detail for record, _ in records if record.action in _MOVEMENT_ACTIONS]
    groups = store.groups_by_id(tx, [detail["group"] for detail in movements])
    keys = store.keys_by_id(tx, [detail["key"] for detail in movements if "key" in detail])
    return Told(list(_events(records, groups, keys)), rows[-1].sequence if rows else None)


def _events(
    records: Sequence[tuple[AuditRecord, int]], groups: Mapping[str, StoredGroup], keys: Mapping[str, StoredKey]
) -> Iterator[Event]:
    for record, at in records:
        if record.action in _MOVEMENT_ACTIONS:
            key = keys[record.detail["key"]].idempotency_key if "key" in record.detail else None
            yield movement_event(record, groups[record.detail["group"]], key)
        elif (event := status_event(record, at)) is not None:
            yield event
