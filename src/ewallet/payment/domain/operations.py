"""What may be done to a payment that is there: capture, void and expiry end a hold, a refund gives back what was paid.

Each is an intent of its own that comes to one verdict, like a payment: PENDING ─┬─▶ SUCCESS
                                                                                 └─▶ FAILED
Several may be under way on one payment. Between capture, void and expiry the ledger decides: a hold ends once. Parts
of a refund are set aside from one another when each begins, on the locked payment.
"""

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import assert_never

from ewallet.kernel.caller import platform
from ewallet.kernel.clock import MICROSECONDS_PER_SECOND
from ewallet.kernel.errors import InvariantBroken, Reason
from ewallet.kernel.ids import derived_id
from ewallet.kernel.money import Money
from ewallet.payment.domain.payments import (
    Charge,
    Failure,
    Payment,
    PaymentStatus,
    as_captured,
    as_refunded,
    captured,
    ended,
    refunded,
)


class Kind(StrEnum):
    """What is done to a payment; EXPIRY is what the platform does when nobody has ended a hold in its time."""

    CAPTURE = "CAPTURE"
    VOID = "VOID"
    EXPIRY = "EXPIRY"
    REFUND = "REFUND"

    @property
    def prefix(self) -> str:
        """How the ids of such operations begin."""
        return _PREFIXES[self]


_PREFIXES = {Kind.CAPTURE: "cap", Kind.VOID: "vod", Kind.EXPIRY: "exp", Kind.REFUND: "rfd"}


class OperationStatus(StrEnum):
    """How far an operation has come."""

    PENDING = "PENDING"
    SUCCESS = "SUCCESS"
    FAILED = "FAILED"


ALL_THAT_IS_LEFT = 0
"""The amount of a refund that names none, until it is begun."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One operation on a payment. ``amount`` and ``fee`` in minor units of the payment's currency.

    A capture takes ``amount`` and has a fee of its own; a void and an expiry name the whole hold. ``reason`` is what
    the merchant said. The other fields are those of :class:`Payment`; ``updated_at`` is when it came to its verdict.
    """

    id: str
    payment_id: str
    kind: Kind
    status: OperationStatus = OperationStatus.PENDING
    amount: int
    fee: int = 0
    reason: str | None = None
    failure: Failure | None = None
    actor: str
    identity: str
    request_hash: str
    request_id: str
    created_at: int
    updated_at: int

    @property
    def is_pending(self) -> bool:
        """Whether it has no verdict yet."""
        return self.status is OperationStatus.PENDING


@dataclass(frozen=True, slots=True)
class Intent:
    """What was asked for and must come to its verdict: a new payment, or an operation on a payment that is there."""

    payment: Payment
    operation: Operation | None = None

    @property
    def own(self) -> Payment | Operation:
        """What the intent itself is: its id, its request, how far it has come."""
        return self.operation or self.payment


# --- beginning ----------------------------------------------------------------------------------------------------


def begun(operation: Operation, payment: Payment, being_refunded: int) -> Operation:
    """The operation as it is stored first: PENDING, or FAILED at once where the payment's state forbids it.

    ``being_refunded`` is what other refunds of the payment have set aside and not come to a verdict on.
    """
    match operation.kind:
        case Kind.CAPTURE | Kind.VOID | Kind.EXPIRY:
            if payment.status is PaymentStatus.AUTHORIZED:
                return operation
            return _forbidden(
                operation, f"Only an authorized payment can be captured or voided: this one is {payment.status}."
            )
        case Kind.REFUND:
            return _begun_refund(operation, payment, being_refunded)
    assert_never(operation.kind)


def _begun_refund(refund: Operation, payment: Payment, being_refunded: int) -> Operation:
    if payment.status not in (PaymentStatus.SUCCESS, PaymentStatus.PARTIALLY_REFUNDED):
        return _forbidden(refund, f"Only what was paid can be refunded: this payment is {payment.status}.")
    left = payment.charge.amount - payment.refunded_amount - being_refunded
    amount = refund.amount or left
    if amount > left or left == 0:
        return _forbidden(refund, f"Of this payment {Money(left, payment.currency)} is left to refund.")
    return replace(refund, amount=amount)


def _forbidden(operation: Operation, detail: str) -> Operation:
    return _failed(operation, Failure(Reason.INVALID_STATE, detail), operation.created_at)


def expiry_of(payment: Payment) -> Operation:
    """What ends the payment's hold when nobody else has; begun together with the hold itself."""
    expiry_id = expiry_id_of(payment.id)
    return Operation(
        id=expiry_id,
        payment_id=payment.id,
        kind=Kind.EXPIRY,
        amount=payment.amount,
        actor=platform(payment.request_id).subject,
        identity=expiry_id,
        request_hash=payment.request_hash,
        request_id=payment.request_id,
        created_at=payment.updated_at,
        updated_at=payment.updated_at,
    )


def expiry_id_of(payment_id: str) -> str:
    """The id of a hold's expiry: a payment has one hold at most."""
    return derived_id(Kind.EXPIRY.prefix, payment_id, "expiry")


def hold_ends_at(payment: Payment, held_at: int) -> int:
    """When the ledger lets go of what it has held for the payment since ``held_at``."""
    if payment.hold_seconds is None:
        raise InvariantBroken(f"payment {payment.id} is no hold")
    return held_at + payment.hold_seconds * MICROSECONDS_PER_SECOND


# --- the ledger's verdict -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the ledger has decided on an intent: done ``at`` that time, or the ``failure`` that is why not.

    ``hold_expired``: it was refused because the hold's time was over. ``released``: it could never have been done, and
    the hold was given up in its stead.
    """

    at: int = 0
    failure: Failure | None = None
    hold_expired: bool = False
    released: bool = False


_NOT_FOR_GOOD = frozenset({Reason.WALLET_FROZEN, Reason.INSUFFICIENT_FUNDS, Reason.INVALID_STATE, Reason.ABANDONED})
"""Reasons for which a capture fails and its hold stays: another try may succeed, or the hold has ended otherwise."""


def needs_compensation(operation: Operation, verdict: Verdict) -> bool:
    """Whether a capture was refused for good, so that the hold serves nobody any more and must be released."""
    if operation.kind is not Kind.CAPTURE or verdict.failure is None:
        return False
    return verdict.failure.reason not in _NOT_FOR_GOOD


def compensated(refused: Verdict, release: Verdict) -> Verdict:
    """The verdict on a capture that was refused for good, after the order to release its hold."""
    return replace(refused, released=release.failure is None, hold_expired=release.hold_expired)


def needless(payment: Payment, operation: Operation) -> Verdict | None:
    """The verdict on an expiry whose payment has left its hold behind; None where the ledger must be asked."""
    if operation.kind is not Kind.EXPIRY or payment.status is PaymentStatus.AUTHORIZED:
        return None
    return Verdict(failure=Failure(Reason.INVALID_STATE, f"The hold ended before its time: {payment.status}."))


def concluded(payment: Payment, operation: Operation, verdict: Verdict, at: int) -> tuple[Payment, Operation]:
    """The payment and the operation after the verdict; the payment is as it was where the verdict does not move it."""
    if verdict.failure is None or (operation.kind is Kind.EXPIRY and verdict.hold_expired):
        return _carried_out(payment, operation, at), replace(operation, status=OperationStatus.SUCCESS, updated_at=at)
    if payment.status is PaymentStatus.AUTHORIZED and (verdict.hold_expired or verdict.released):
        payment = ended(payment, PaymentStatus.VOIDED if verdict.released else PaymentStatus.EXPIRED, at)
    return payment, _failed(operation, verdict.failure, at)


def _carried_out(payment: Payment, operation: Operation, at: int) -> Payment:
    match operation.kind:
        case Kind.CAPTURE:
            return captured(payment, Charge(operation.amount, operation.fee), at)
        case Kind.VOID:
            return ended(payment, PaymentStatus.VOIDED, at)
        case Kind.EXPIRY:
            # A capture or void that came too late has said so already.
            return payment if payment.status is PaymentStatus.EXPIRED else ended(payment, PaymentStatus.EXPIRED, at)
        case Kind.REFUND:
            return refunded(payment, operation.amount, at)
    assert_never(operation.kind)


def as_left_by(payment: Payment, operation: Operation, refunded: int) -> Payment:
    """The payment as an operation that moved it left it, whatever was done later; ``refunded`` in all by then."""
    if operation.kind is Kind.REFUND:
        return as_refunded(payment, refunded, operation.updated_at)
    if operation.kind is Kind.CAPTURE and operation.status is OperationStatus.SUCCESS:
        return as_captured(payment, operation.updated_at)
    return payment  # a hold that has ended is the end


def _failed(operation: Operation, failure: Failure, at: int) -> Operation:
    return replace(operation, status=OperationStatus.FAILED, failure=failure, updated_at=at)
