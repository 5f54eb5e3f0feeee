"""What is told about payments and the operations on them: refusals to whoever asked, events to both sides."""

from typing import Any

from ewallet.kernel.errors import Reason, Refusal
from ewallet.payment.domain.operations import Intent, Kind, Operation
from ewallet.payment.domain.payments import Payment, PaymentStatus

BEGIN_BULK = "payment.begin_bulk"
"""What the audit calls the beginning of payments that belong together."""

_EVENTS = {
    PaymentStatus.AUTHORIZED: "payment.authorized",
    PaymentStatus.SUCCESS: "payment.succeeded",
    PaymentStatus.FAILED: "payment.failed",
    PaymentStatus.VOIDED: "payment.voided",
    PaymentStatus.EXPIRED: "payment.expired",
    PaymentStatus.PARTIALLY_REFUNDED: "payment.refunded",
    PaymentStatus.REFUNDED: "payment.refunded",
}


def refusal_of(intent: Intent) -> Refusal | None:
    """What the request of a failed intent is answered, the first time and every time; None where it did not fail.

    ``requestId`` is the first request's, so that a replay's body equals the first one.
    """
    own = intent.own
    if own.failure is None:
        return None
    members = {
        **own.failure.members,
        "requestId": own.request_id,
        "transactionId": intent.payment.id,
        "failureReason": own.failure.reason.code,
    }
    return Refusal(own.failure.reason, own.failure.detail, members=members)


def event_name(payment: Payment) -> str:
    """The event of a payment that has just come to its present state."""
    return _EVENTS[payment.status]


def recipients(payment: Payment) -> tuple[str, ...]:
    """Who is told: both sides, but not a merchant that does not exist, or for whom nobody has looked."""
    if payment.failure is not None and payment.failure.reason in (Reason.UNKNOWN_MERCHANT, Reason.BULK_REFUSED):
        return (payment.customer_id,)
    return (payment.customer_id, payment.merchant_id)


def event_data(payment: Payment, operation: Operation | None = None) -> dict[str, Any]:
    """What an event says about a payment, and about the operation that has moved it."""
    charge = payment.charge
    data = {
        "transactionId": payment.id,
        "customerId": payment.customer_id,
        "merchantId": payment.merchant_id,
        "amount": charge.amount,
        "fee": charge.fee,
        "netAmount": charge.net,
        "currency": payment.currency,
        "reference": payment.reference,
        "description": payment.description,
        "failureReason": payment.failure.reason.code if payment.failure else None,
    }
    if operation is not None and operation.kind is Kind.REFUND:
        # The part that went back; what the payment earned is no longer the point.
        refund = {
            "refundId": operation.id,
            "amount": operation.amount,
            "refundedAmount": payment.refunded_amount,
            "reason": operation.reason,
        }
        return {name: data[name] for name in data if name not in ("fee", "netAmount")} | refund
    return data


def audit_action(payment: Payment, operation: Operation | None) -> str:
    """What somebody did, or was refused: the outcome of a payment, or the operation that was asked for."""
    return event_name(payment) if operation is None else f"payment.{operation.kind.lower()}"
