"""Payments: the whole automaton, and how far each payment has come.

PENDING ─┬─▶ SUCCESS ─┬─▶ PARTIALLY_REFUNDED ─┬─▶ REFUNDED
         │      ▲     │      ▲        │       │
         │      │     │      └────────┘       │
         │      │     └───────────────────────┘
         ├─▶ AUTHORIZED ─┬─▶ VOIDED
         │               └─▶ EXPIRED
         └─▶ FAILED
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from ewallet.kernel.caller import Caller, Role
from ewallet.kernel.errors import InvariantBroken, Reason


class PaymentStatus(StrEnum):
    """How far a payment has come; the contract's words."""

    PENDING = "PENDING"
    AUTHORIZED = "AUTHORIZED"
    SUCCESS = "SUCCESS"
    FAILED = "FAILED"
    VOIDED = "VOIDED"
    EXPIRED = "EXPIRED"
    PARTIALLY_REFUNDED = "PARTIALLY_REFUNDED"
    REFUNDED = "REFUNDED"


_PENDING, _AUTHORIZED, _SUCCESS = PaymentStatus.PENDING, PaymentStatus.AUTHORIZED, PaymentStatus.SUCCESS
_FAILED, _VOIDED, _EXPIRED = PaymentStatus.FAILED, PaymentStatus.VOIDED, PaymentStatus.EXPIRED
_PARTIALLY_REFUNDED, _REFUNDED = PaymentStatus.PARTIALLY_REFUNDED, PaymentStatus.REFUNDED

TRANSITIONS: Mapping[PaymentStatus, frozenset[PaymentStatus]] = {
    _PENDING: frozenset({_AUTHORIZED, _SUCCESS, _FAILED}),
    _AUTHORIZED: frozenset({_SUCCESS, _VOIDED, _EXPIRED}),
    _SUCCESS: frozenset({_PARTIALLY_REFUNDED, _REFUNDED}),
    _PARTIALLY_REFUNDED: frozenset({_PARTIALLY_REFUNDED, _REFUNDED}),
    _FAILED: frozenset(),
    _VOIDED: frozenset(),
    _EXPIRED: frozenset(),
    _REFUNDED: frozenset(),
}
"""Every change of state that there is; each one adds 1 to the version and one line to the history."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why something failed: a verdict, never a time-out. ``members`` are further members of its problem document."""

    reason: Reason
    detail: str
    members: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Charge:
    """What a customer pays, in minor units, and the platform's share of it, which the merchant bears."""

    amount: int
    fee: int

    @property
    def net(self) -> int:
        """What the merchant receives."""
        return self.amount - self.fee


@dataclass(frozen=True, slots=True, kw_only=True)
class Payment:
    """One payment. Amounts in minor units of ``currency``, times in microseconds since the epoch.

    ``amount`` and ``fee`` are those of the intent and never change; what counts in the end is :attr:`charge`.
    ``hold_seconds`` is how long the money is held for a capture, None where it is paid at once; ``captured`` is what
    was captured of a hold. ``settled_at`` is when the intent came to its verdict.

    ``identity`` is what makes two requests the same one, see :func:`identity_of`. ``request_hash`` and ``request_id``
    are those of the first request, the one that a replay answers again.
    """

    id: str
    status: PaymentStatus = PaymentStatus.PENDING
    version: int = 1
    customer_id: str
    merchant_id: str
    amount: int
    fee: int
    hold_seconds: int | None = None
    captured: Charge | None = None
    refunded_amount: int = 0
    currency: str
    reference: str | None = None
    description: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    failure: Failure | None = None
    identity: str
    request_hash: str
    request_id: str
    created_at: int
    settled_at: int | None = None
    updated_at: int

    @property
    def charge(self) -> Charge:
        """What the customer pays: what was captured, or before that and without a hold what was intended."""
        return self.captured or Charge(self.amount, self.fee)

    @property
    def is_pending(self) -> bool:
        """Whether its intent has no verdict yet."""
        return self.status is _PENDING

    def belongs_to(self, caller: Caller) -> bool:
        """Whether the payment exists for this caller: the payer, the payee and staff see it."""
        party = self.merchant_id if caller.role is Role.MERCHANT else self.customer_id
        return caller.may_see(party)


def identity_of(caller_id: str, key: str) -> str:
    """The identity of a request with an idempotency key, which counts within its caller. Neither has a blank in it.

    A request without a key is like no other: its identity is the id of what it has begun.
    """
    return f"{caller_id} {key}"


# --- changes of state ---------------------------------------------------------------------------------------------


def settled(payment: Payment, failure: Failure | None, at: int) -> Payment:
    """The payment after the verdict on its intent: FAILED with its reason, AUTHORIZED where it is held, or SUCCESS."""
    return _moved(payment, _verdict_status(payment, failure), at, failure=failure, settled_at=at)


def captured(payment: Payment, charge: Charge, at: int) -> Payment:
    """The payment after all or a part of its hold was taken."""
    return _moved(payment, _SUCCESS, at, captured=charge)


def ended(payment: Payment, status: PaymentStatus, at: int) -> Payment:
    """The payment after its hold has ended without a capture: VOIDED or EXPIRED."""
    return _moved(payment, status, at)


def refunded(payment: Payment, amount: int, at: int) -> Payment:
    """The payment after a further part of what was paid went back."""
    total = payment.refunded_amount + amount
    return _moved(payment, _refund_status(payment, total), at, refunded_amount=total)


def _verdict_status(payment: Payment, failure: Failure | None) -> PaymentStatus:
    if failure is not None:
        return _FAILED
    return _SUCCESS if payment.hold_seconds is None else _AUTHORIZED


def _refund_status(payment: Payment, total: int) -> PaymentStatus:
    return _REFUNDED if total == payment.charge.amount else _PARTIALLY_REFUNDED


def _moved(payment: Payment, to: PaymentStatus, at: int, **changes: Any) -> Payment:
    if to not in TRANSITIONS[payment.status]:
        raise InvariantBroken(f"payment {payment.id} cannot go from {payment.status} to {to}")
    return replace(payment, status=to, version=payment.version + 1, updated_at=at, **changes)


# --- what was once answered ---------------------------------------------------------------------------------------


def as_settled(payment: Payment) -> Payment:
    """The payment as the verdict on its intent left it, whatever has been done to it since."""
    if payment.settled_at is None:
        return payment
    status = _verdict_status(payment, payment.failure)
    return replace(payment, status=status, captured=None, refunded_amount=0, updated_at=payment.settled_at)


def as_captured(payment: Payment, at: int) -> Payment:
    """The payment as its capture left it at that time, whatever has been refunded since."""
    return replace(payment, status=_SUCCESS, refunded_amount=0, updated_at=at)


def as_refunded(payment: Payment, total: int, at: int) -> Payment:
    """The payment as the refund at that time left it, which brought the sum of all refunds to ``total``."""
    return replace(payment, status=_refund_status(payment, total), refunded_amount=total, updated_at=at)
