"""One example of each event, as the services write it: to try templates with, and to show what they make of it."""

from typing import Any

from ewallet.notification.domain.words import Part

PAYER = "usr_01jx5m3a7t0customer0ada000"
PAYEE = "usr_01jx5m3a7t0merchant0books0"

_PAYMENT = {
    "transactionId": "pay_01jx5m3a7t0payment0number1",
    "customerId": PAYER,
    "merchantId": PAYEE,
    "amount": 1_234_50,
    "fee": 24_69,
    "netAmount": 1_209_81,
    "currency": "EUR",
    "reference": "order-1001",
    "description": None,
    "failureReason": None,
}

_REFUND = {name: _PAYMENT[name] for name in _PAYMENT if name not in ("fee", "netAmount")} | {
    "refundId": "rfd_01jx5m3a7t0refund0number10",
    "amount": 100_00,
    "refundedAmount": 100_00,
    "reason": None,
}

_MOVEMENT = {
    "customerId": PAYER,
    "transferId": "trf_01jx5m3a7t0transfer0number",
    "amount": 100_00,
    "currency": "EUR",
    "available": 1_334_50,
    "reference": "top-up-3",
    "description": None,
}

_CHANGE = {"customerId": PAYER, "reason": "A stolen phone."}


def recipient_of(part: Part) -> str:
    """Who has this part in the examples."""
    return PAYEE if part is Part.PAYEE else PAYER


def sample(event: str) -> dict[str, Any]:
    """The data of an event with this name."""
    match event:
        case "payment.failed":
            return {**_PAYMENT, "failureReason": "INSUFFICIENT_FUNDS"}
        case "payment.refunded":
            return dict(_REFUND)
        case "wallet.credited" | "wallet.debited":
            return dict(_MOVEMENT)
        case "wallet.frozen" | "wallet.unfrozen":
            return dict(_CHANGE)
        case _:
            return dict(_PAYMENT)
