"""Payments and operations as the tests of the domain need them: one of each, changed where it matters."""

from typing import Any

from ewallet.kernel.errors import Reason
from ewallet.kernel.ids import new_id
from ewallet.payment.domain.operations import Kind, Operation
from ewallet.payment.domain.payments import Failure, Payment, PaymentStatus

NOW = 1_790_000_000_000_000
WEEK_SECONDS = 7 * 24 * 3600
REFUSED = Failure(Reason.INSUFFICIENT_FUNDS, "The balance is too small.")
FROZEN = Failure(Reason.WALLET_FROZEN, "The wallet is frozen.")
CLOSED = Failure(Reason.WALLET_CLOSED, "The wallet is closed.")
OVER = Failure(Reason.INVALID_STATE, "The hold has ended.")


def payment(**changes: Any) -> Payment:
    """A payment of 10.00 dollars with a fee of 0.20."""
    fields: dict[str, Any] = {
        "id": "pay_01m3250v000gdbp3tn14t1q2bm",
        "customer_id": "usr_payer",
        "merchant_id": "usr_payee",
        "amount": 1000,
        "fee": 20,
        "currency": "USD",
        "identity": "pay_01m3250v000gdbp3tn14t1q2bm",
        "request_hash": "0" * 64,
        "request_id": "req_first",
        "created_at": NOW,
        "updated_at": NOW,
    }
    return Payment(**(fields | changes))


def held(**changes: Any) -> Payment:
    """The same, authorized and held for a week."""
    fields = {"status": PaymentStatus.AUTHORIZED, "version": 2, "hold_seconds": WEEK_SECONDS, "settled_at": NOW}
    return payment(**(fields | changes))


def paid(**changes: Any) -> Payment:
    """The same, paid at once."""
    return payment(**({"status": PaymentStatus.SUCCESS, "version": 2, "settled_at": NOW} | changes))


def operation(kind: Kind, **changes: Any) -> Operation:
    """An operation of the merchant on all of it."""
    operation_id = new_id(kind.prefix, NOW)
    fields: dict[str, Any] = {
        "id": operation_id,
        "payment_id": payment().id,
        "kind": kind,
        "amount": 1000,
        "actor": "usr_payee",
        "identity": operation_id,
        "request_hash": "1" * 64,
        "request_id": "req_operation",
        "created_at": NOW,
        "updated_at": NOW,
    }
    return Operation(**(fields | changes))
