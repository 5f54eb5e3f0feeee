"""The rules of payments: the whole automaton, the fee, and what a payment asks of the ledger. Pure.

PENDING ─┬─▶ SUCCESS ─┬─▶ PARTIALLY_REFUNDED ─┬─▶ REFUNDED
         │      ▲     │      ▲        │       │
         │      │     │      └────────┘       │
         │      │     └───────────────────────┘
         ├─▶ AUTHORIZED ─┬─▶ VOIDED
         │               └─▶ EXPIRED
         └─▶ FAILED
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum, StrEnum, auto
from typing import Any

from ewallet.kernel.caller import Caller, Role
from ewallet.kernel.errors import InvariantBroken, Reason, Refusal
from ewallet.kernel.ids import derived_id
from ewallet.kernel.money import Money, basis_points, is_currency

# --- the automaton ------------------------------------------------------------------------------------------------


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
    """Why a payment failed: a verdict, never a time-out."""

    reason: Reason
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Payment:
    """One payment. Amounts in minor units of ``currency``, times in microseconds since the epoch.

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
    updated_at: int

    @property
    def net_amount(self) -> int:
        """What the merchant receives: the fee is borne by the merchant."""
        return self.amount - self.fee

    def belongs_to(self, caller: Caller) -> bool:
        """Whether the payment exists for this caller: the payer, the payee and staff see it."""
        party = self.merchant_id if caller.role is Role.MERCHANT else self.customer_id
        return caller.may_see(party)


def identity_of(customer_id: str, key: str) -> str:
    """The identity of a request with an idempotency key, which counts within its customer. Neither has a blank in it.

    A payment without a key is like no other: its identity is its own id.
    """
    return f"{customer_id} {key}"


def settled(payment: Payment, failure: Failure | None, at: int) -> Payment:
    """The payment after the verdict on it: SUCCESS, or FAILED with its reason."""
    return _moved(payment, _SUCCESS if failure is None else _FAILED, at, failure=failure)


def _moved(payment: Payment, to: PaymentStatus, at: int, **changes: Any) -> Payment:
    if to not in TRANSITIONS[payment.status]:
        raise InvariantBroken(f"payment {payment.id} cannot go from {payment.status} to {to}")
    return replace(payment, status=to, version=payment.version + 1, updated_at=at, **changes)


# --- what a payment asks of the ledger ----------------------------------------------------------------------------


class Payee(Enum):
    """Whose account one part of a payment goes to."""

    MERCHANT = auto()
    FEES = auto()


@dataclass(frozen=True, slots=True)
class Leg:
    """One transfer out of the customer's account; its id is the same however often the step is repeated."""

    id: str
    payee: Payee
    amount: int


def legs(payment: Payment) -> tuple[Leg, ...]:
    """The transfers of a payment, all or none: the net amount to the merchant and the fee, if any, to the platform."""
    net = Leg(derived_id("trf", payment.id, "net"), Payee.MERCHANT, payment.net_amount)
    if payment.fee == 0:
        return (net,)
    return (net, Leg(derived_id("trf", payment.id, "fee"), Payee.FEES, payment.fee))


def group_id(payment: Payment) -> str:
    """The id under which the ledger keeps the outcome of a payment's transfers."""
    return derived_id("grp", payment.id, "pay")


# --- what is told about a payment ---------------------------------------------------------------------------------


def refusal_of(payment: Payment) -> Refusal | None:
    """What the request of a failed payment is answered, the first time and every time; None where it did not fail.

    ``requestId`` is the first request's, so that a replay's body equals the first one.
    """
    if payment.failure is None:
        return None
    members = {
        "requestId": payment.request_id,
        "transactionId": payment.id,
        "failureReason": payment.failure.reason.code,
    }
    return Refusal(payment.failure.reason, payment.failure.detail, members=members)


def event_name(payment: Payment) -> str:
    """The event of a payment that has just been settled."""
    return "payment.succeeded" if payment.failure is None else "payment.failed"


def recipients(payment: Payment) -> tuple[str, ...]:
    """Who is told: both sides, but not a merchant that does not exist."""
    if payment.failure is not None and payment.failure.reason is Reason.UNKNOWN_MERCHANT:
        return (payment.customer_id,)
    return (payment.customer_id, payment.merchant_id)


def event_data(payment: Payment) -> dict[str, Any]:
    """What an event says about a payment."""
    return {
        "transactionId": payment.id,
        "customerId": payment.customer_id,
        "merchantId": payment.merchant_id,
        "amount": payment.amount,
        "fee": payment.fee,
        "netAmount": payment.net_amount,
        "currency": payment.currency,
        "reference": payment.reference,
        "description": payment.description,
        "failureReason": payment.failure.reason.code if payment.failure else None,
    }


# --- the fee ------------------------------------------------------------------------------------------------------


class FeesWrong(ValueError):
    """A fee schedule that cannot be; the message is a sentence for the person who configured it."""


@dataclass(frozen=True, slots=True)
class FeeRule:
    """A share in basis points (hundredths of a percent) plus a fixed part in minor units."""

    basis_points: int
    fixed: int = 0

    def fee(self, amount: int) -> int:
        """The fee on an amount: the share rounded half to even to a whole minor unit, plus the fixed part."""
        return basis_points(amount, self.basis_points) + self.fixed


_ENTRY = re.compile(r"([A-Z]{3})=(\d{1,5})\+(\d{1,15})", re.ASCII)
_MAXIMUM_BASIS_POINTS = 10_000


@dataclass(frozen=True, slots=True)
class FeeSchedule:
    """The fee of every currency; ``default`` applies where ``by_currency`` has no entry."""

    default: FeeRule
    by_currency: Mapping[str, FeeRule] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str, *, default_basis_points: int) -> "FeeSchedule":
        """Read ``USD=200+30,JPY=150+0``; FeesWrong names the entry that is wrong."""
        by_currency: dict[str, FeeRule] = {}
        for entry in filter(None, (part.strip() for part in text.split(","))):
            currency, rule = _parse_entry(entry)
            if currency in by_currency:
                raise FeesWrong(f"{currency} is there twice.")
            by_currency[currency] = rule
        return cls(FeeRule(default_basis_points), by_currency)

    def fee_on(self, amount: int, currency: str) -> int | Refusal:
        """The fee on a payment. Refused with ``amount-too-small`` where nothing would be left for the merchant."""
        fee = self.by_currency.get(currency, self.default).fee(amount)
        if fee >= amount:
            fee_shown, amount_shown = Money(fee, currency), Money(amount, currency)
            detail = f"The fee of {fee_shown} leaves nothing of {amount_shown} for the merchant: pay more at once."
            return Refusal(Reason.AMOUNT_TOO_SMALL, detail)
        return fee


def _parse_entry(entry: str) -> tuple[str, FeeRule]:
    found = _ENTRY.fullmatch(entry)
    if found is None:
        raise FeesWrong(f"{entry!r} does not look like USD=200+30 (basis points plus a fixed part in minor units).")
    currency, rule = found[1], FeeRule(int(found[2]), int(found[3]))
    if not is_currency(currency):
        raise FeesWrong(f"{currency} is not a currency of ISO 4217 that the platform knows.")
    if rule.basis_points > _MAXIMUM_BASIS_POINTS:
        raise FeesWrong(f"{entry!r} has too many basis points: {_MAXIMUM_BASIS_POINTS} are the whole amount.")
    return currency, rule
