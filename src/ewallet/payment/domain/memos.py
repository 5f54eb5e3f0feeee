"""What of an intent goes to the ledger as a memo beside its transfers: enough to write the intent down again.

Should payment ever lose what it wrote (its database is put back to an older copy), the ledger has the rest: who pays
whom, how much and for how long. The idempotency key is in the memo, so that it goes on meaning what it meant.
"""

from collections.abc import Mapping
from typing import Any

from ewallet.payment.domain.operations import Intent, Kind, Operation
from ewallet.payment.domain.payments import Payment

Memo = Mapping[str, Any]


def memo_of(intent: Intent) -> dict[str, Any] | None:
    """The memo of an intent; what is None or empty is left out. An expiry has none: it begins anew with its hold."""
    own, operation = intent.own, intent.operation
    if operation is not None and operation.kind is Kind.EXPIRY:
        return None
    memo: dict[str, Any] = {"hash": own.request_hash, "at": own.created_at, "fee": own.fee}
    if own.identity != own.id:
        memo["identity"] = own.identity
    if operation is None:
        return memo | ({"metadata": dict(intent.payment.metadata)} if intent.payment.metadata else {})
    memo |= {"operation": operation.id, "kind": operation.kind, "amount": operation.amount, "actor": operation.actor}
    return memo | ({"reason": operation.reason} if operation.reason is not None else {})


def payment_from(memo: Memo, payment_id: str, **of_the_order: Any) -> Payment:
    """The payment that an order with this memo began, as it was then; the other fields are those of the order."""
    return Payment(
        id=payment_id,
        fee=memo["fee"],
        metadata=memo.get("metadata", {}),
        identity=memo.get("identity", payment_id),
        request_hash=memo["hash"],
        created_at=memo["at"],
        updated_at=memo["at"],
        **of_the_order,
    )


def operation_from(memo: Memo, payment_id: str, request_id: str) -> Operation:
    """The operation that an order with this memo carried out, as it was begun."""
    return Operation(
        id=memo["operation"],
        payment_id=payment_id,
        kind=Kind(memo["kind"]),
        amount=memo["amount"],
        fee=memo["fee"],
        reason=memo.get("reason"),
        actor=memo["actor"],
        identity=memo.get("identity", memo["operation"]),
        request_hash=memo["hash"],
        request_id=request_id,
        created_at=memo["at"],
        updated_at=memo["at"],
    )
