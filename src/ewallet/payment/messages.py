"""What crosses payment's door: the order to pay, and payments as the two sides and the staff see them."""

from enum import StrEnum
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, UnsetType

from ewallet.kernel.money import CURRENCY_PATTERN, MAXIMUM_AMOUNT, MINIMUM_AMOUNT
from ewallet.wallet.messages import MoneyMoved, MoveMoney

Amount = Annotated[
    int, Meta(ge=MINIMUM_AMOUNT, le=MAXIMUM_AMOUNT, description="minor units: 12500 with USD is 125.00 US dollars")
]
Currency = Annotated[str, Meta(pattern=CURRENCY_PATTERN, description="ISO 4217 code")]
MerchantId = Annotated[str, Meta(pattern=r"^[!-~]{1,64}(?![\s\S])", description="the merchant's user id")]
Reference = Annotated[
    str, Meta(min_length=1, max_length=255, description="the customer's own, for example an order number")
]
Description = Annotated[str, Meta(max_length=500)]
MetadataKey = Annotated[str, Meta(max_length=40)]
MetadataValue = Annotated[str, Meta(max_length=500)]
Metadata = Annotated[dict[MetadataKey, MetadataValue], Meta(max_length=20, description="kept and given back as it is")]


class InitiatePayment(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """Pay a merchant out of the caller's own wallet."""

    merchant_id: MerchantId
    amount: Amount
    currency: Currency
    reference: Reference | None = None
    description: Description | None = None
    metadata: Metadata = {}
    capture: Annotated[bool, Meta(description="false: only hold the money, for the merchant to capture later")] = True


IdempotencyKey = Annotated[
    str, Meta(pattern=r"^[!#-~]{1,255}(?![\s\S])", description="as the header `Idempotency-Key` of a call of its own")
]

MAXIMUM_BULK = 1000
"""Payments or credits in one call: about a second's work, which the gateway's time limit must leave room for."""


MAXIMUM_BULK_BYTES = 1024 * 1024
"""Of the body of such a call: a kilobyte for each, where a payment without metadata takes a fifth of that."""


class PaymentInBulk(InitiatePayment, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """One of many payments, with the idempotency key that it would have in a call of its own."""

    idempotency_key: IdempotencyKey

    @property
    def alone(self) -> InitiatePayment:
        """The same payment as a call of its own would ask for it."""
        return InitiatePayment(**{name: getattr(self, name) for name in InitiatePayment.__struct_fields__})


class CreditInBulk(MoveMoney, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """One of many credits, with the idempotency key that it may have beside its reference, which is one already."""

    idempotency_key: IdempotencyKey | None = None

    @property
    def alone(self) -> MoveMoney:
        """The same credit as a call of its own would ask for it."""
        return MoveMoney(**{name: getattr(self, name) for name in MoveMoney.__struct_fields__})


class BulkMode(StrEnum):
    """Whether the payments of a call stand for themselves, or are carried out together or not at all."""

    EACH = "each"
    ALL_OR_NOTHING = "all-or-nothing"


class PayInBulk(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """Pay many merchants out of the caller's own wallet, or for staff: credit many wallets. One of the two."""

    payments: Annotated[list[PaymentInBulk], Meta(min_length=1, max_length=MAXIMUM_BULK)] | UnsetType = UNSET
    credits: Annotated[list[CreditInBulk], Meta(min_length=1, max_length=MAXIMUM_BULK)] | UnsetType = UNSET
    mode: Annotated[BulkMode, Meta(description="credits are always booked each for itself")] = BulkMode.EACH

    def __post_init__(self) -> None:
        """ValueError, which is a validation error of the body: there are both, or neither."""
        if (self.payments is UNSET) is (self.credits is UNSET):
            raise ValueError("Object must have either `payments` or `credits`")
        if self.payments is UNSET and self.mode is not BulkMode.EACH:
            raise ValueError("Object may have the `mode` all-or-nothing with `payments` only")


class QuotePayment(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """Ask what a payment out of the caller's own wallet would cost, and whether it would succeed."""

    merchant_id: MerchantId
    amount: Amount
    currency: Currency


class CapturePayment(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """Take what is held for a payment: all, or the ``amount`` given, which releases the rest."""

    amount: Amount | None = None


class VoidPayment(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """Release what is held for a payment. There is nothing more to say."""


class RefundPayment(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """Give back what the customer paid: all that is left of it, or the ``amount`` given."""

    amount: Amount | None = None
    reason: Annotated[str, Meta(min_length=1, max_length=500)] | None = None


class Payment(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A payment. The customer pays ``amount``; the merchant receives ``netAmount``, which is ``amount - fee``.

    ``authorizedAmount`` is what the customer agreed to; a capture may have taken less.
    """

    transaction_id: str
    status: str
    customer_id: str
    merchant_id: str
    amount: int
    fee: int
    net_amount: int
    authorized_amount: int
    refunded_amount: int
    currency: str
    reference: str | None
    description: str | None
    metadata: dict[str, str]
    failure_reason: str | None
    created_at: str
    updated_at: str


class BulkItem(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """How one of many ended: the status of a call of its own, and its payment, its credit or its problem."""

    idempotency_key: Annotated[str, Meta(description="as it was given; of a credit without one, the reference")]
    status: int
    replayed: Annotated[bool, Meta(description="an earlier request with this key is answered again")]
    payment: Payment | UnsetType = UNSET
    credit: MoneyMoved | UnsetType = UNSET
    problem: dict[str, Any] | UnsetType = UNSET


class BulkOutcome(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """How many payments or credits ended, each in the place in which it was asked for."""

    items: list[BulkItem]


class Quote(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A payment that nobody has made: its fee, and whether it would succeed right now. ``reasons`` say why not."""

    amount: int
    currency: str
    fee: int
    net_amount: int
    would_succeed: bool
    reasons: list[str]


class PaymentList(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A page of payments, newest first."""

    items: list[Payment]
    next_cursor: str | None


class Refund(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A refund: ``PENDING`` until its outcome is known, then ``SUCCESS`` or ``FAILED``. Its fee is kept."""

    refund_id: str
    transaction_id: str
    amount: int
    currency: str
    reason: str | None
    status: str
    failure_reason: str | None
    created_at: str


class RefundList(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """The refunds of a payment, newest first."""

    items: list[Refund]
    next_cursor: str | None


class HistoryEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One state that a payment went through; ``reason`` says why, where something failed."""

    status: str
    at: str
    actor: str
    reason: str | UnsetType = UNSET


class PaymentHistory(msgspec.Struct, frozen=True):
    """Every state that a payment went through, in order."""

    items: list[HistoryEntry]
