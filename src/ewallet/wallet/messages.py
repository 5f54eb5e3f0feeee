"""What crosses the wallet's door: requests, answers, and the orders with which other services move money."""

from enum import StrEnum
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from ewallet.kernel.caller import Role
from ewallet.kernel.errors import Reason, Refusal
from ewallet.kernel.money import CURRENCY_PATTERN, MAXIMUM_AMOUNT, MINIMUM_AMOUNT

Currency = Annotated[str, Meta(pattern=CURRENCY_PATTERN, description="ISO 4217 code")]
Amount = Annotated[int, Meta(ge=MINIMUM_AMOUNT, le=MAXIMUM_AMOUNT, description="minor units")]
LimitAmount = Annotated[int, Meta(ge=0, le=MAXIMUM_AMOUNT, description="minor units; 0 lets nothing be spent")]
CustomerId = Annotated[str, Meta(pattern=r"^[!-~]+(?![\s\S])", max_length=64)]
# The last part refuses a line break at the end, which `$` alone would let pass.
Reference = Annotated[str, Meta(pattern=r"^[^\x00-\x1f\x7f]+(?![\s\S])", max_length=255)]
Text = Annotated[str, Meta(min_length=1, max_length=500)]


class WalletStatus(StrEnum):
    """Whether money may move: ACTIVE in both ways, FROZEN and CLOSED in none."""

    ACTIVE = "ACTIVE"
    FROZEN = "FROZEN"
    CLOSED = "CLOSED"


class TransferKind(StrEnum):
    """POSTED moves money at once; PENDING holds it; POST and VOID finish a hold (``pending_id``), in whole or part."""

    POSTED = "POSTED"
    PENDING = "PENDING"
    POST = "POST"
    VOID = "VOID"


class MovementType(StrEnum):
    """Which way money went, seen from the wallet's owner."""

    DEBIT = "DEBIT"
    CREDIT = "CREDIT"


# --- orders of other services: a group of transfers, all or none ------------------------------------------------


class TransferOrder(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, rename="camel"):
    """One transfer of a group. Accounts are named by :func:`wallet_account`, :func:`fees_account` and the like.

    ``credit_role``: where set, the credited account must exist and belong to an owner of that role, else the group is
    refused with ``unknown-merchant``. ``pending_id`` names the hold that POST and VOID finish; a POST of less than the
    hold releases the rest, a VOID names the hold's whole amount.
    """

    id: str
    kind: TransferKind = TransferKind.POSTED
    debit_account: str
    credit_account: str
    amount: int
    currency: str
    credit_role: Role | None = None
    pending_id: str | None = None
    timeout_seconds: int | None = None


class GroupOrder(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Transfers that are applied together or not at all. ``id`` makes a repetition harmless.

    ``transaction_id`` ties them to a payment on statements and in the audit; ``actor`` and ``request_id`` say who
    asked. ``spender`` is the owner whose limits the group counts towards, if anybody's: with the sum of its POSTED and
    PENDING transfers out of that owner's account. ``memo`` is the sender's own, kept and given back as it is. ``trace``
    is where the request stands in a trace; nothing of it is kept.
    ``applied_at`` is when a group that the wallet has lost had been applied first, and no part of what was ordered: a
    hold that was alive then can still be finished.
    """

    id: str
    transfers: tuple[TransferOrder, ...]
    transaction_id: str | None
    reference: str | None = None
    description: str | None = None
    spender: str | None = None
    memo: dict[str, Any] | None = None
    actor: str
    request_id: str
    trace: str = ""
    applied_at: int | None = None


class GroupPosted(msgspec.Struct, frozen=True, kw_only=True, rename="camel", tag="posted"):
    """The group has been applied, by this call or by an earlier one with its id."""

    id: str
    posted_at: int


class GroupRefused(msgspec.Struct, frozen=True, kw_only=True, rename="camel", tag="refused"):
    """The wallet's verdict, stored under the group's id: it will never be applied.

    ``verdict`` is the rule that spoke, finer than its reason (``pending_transfer_expired``); ``members`` are further
    members of the problem document.
    """

    id: str
    verdict: str
    reason: Reason
    detail: str
    members: dict[str, Any] = {}  # msgspec gives each struct an empty one of its own


GroupOutcome = GroupPosted | GroupRefused


class GroupUnknown(msgspec.Struct, frozen=True, kw_only=True, rename="camel", tag="unknown"):
    """On the wire only: this order of a batch failed on the machinery; its sender repeats it with the same id."""

    id: str
    error: str


class StoredOrder(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """An order as the wallet has it, with its outcome. Who asked is in the audit only: ``actor`` is empty here."""

    order: GroupOrder
    outcome: GroupOutcome


class StoredOrders(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Orders in the sequence in which they were decided, and where the next page begins; None: there is nothing."""

    items: list[StoredOrder]
    after: int | None


class FindOrders(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Ask what is stored under some ids."""

    ids: list[str]


class ListOrders(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Ask for the orders that were decided after the one at this place; 0 is before the first."""

    after: int


class FindOwners(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Ask which of some users have no wallet."""

    owners: list[str]


class Compare(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Ask for the comparison of a page with what notification knows; 0 is before the first."""

    after: int


def wallet_account(owner: str, currency: str) -> str:
    """The account of a customer's or merchant's balance in one currency."""
    return f"{owner}:{currency}"


def cash_account(currency: str) -> str:
    """The platform's account against which money enters and leaves."""
    return f"cash:{currency}"


def fees_account(currency: str) -> str:
    """The platform's account of fees earned."""
    return f"fees:{currency}"


# --- opening -----------------------------------------------------------------------------------------------------


class OpenWallet(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Open a wallet with a balance in one currency; opening what is open changes nothing."""

    owner: str
    role: Role
    currency: str
    actor: str
    request_id: str


class WalletOpened(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """The wallet is open, since now or since earlier."""

    owner: str


# --- requests ----------------------------------------------------------------------------------------------------


class MoveMoney(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """Credit or debit a wallet; ``reference`` is unique for the caller and makes a repetition harmless."""

    customer_id: CustomerId
    amount: Amount
    currency: Currency
    reference: Reference
    description: Annotated[str, Meta(max_length=500)] | None = None


class ValidateWallet(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """Ask whether a wallet could pay an amount right now."""

    customer_id: CustomerId
    amount: Amount
    currency: Currency


class OpenBalance(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """Add a balance in another currency to a wallet."""

    currency: Currency


class SetLimits(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """What may be spent in one payment, in a day and in a calendar month of UTC; null is no limit."""

    per_payment: LimitAmount | None
    per_day: LimitAmount | None
    per_month: LimitAmount | None


class ChangeStatus(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """Why a wallet is frozen, unfrozen or closed; for the audit."""

    reason: Text


class CreditOrder(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A credit that another service passes on; it is what ``actor``, who asked that service, would have asked for here.

    ``trace`` is where the request stands in a trace.
    """

    credit: MoveMoney
    idempotency_key: str | None
    actor: str
    request_id: str
    trace: str = ""

    @property
    def id(self) -> str:
        """What makes a repetition harmless: the reference, among those of the same actor."""
        return self.credit.reference


# --- answers -----------------------------------------------------------------------------------------------------


class BalanceView(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """One currency of a wallet; ``available`` may be spent, ``held`` is set aside. Minor units."""

    currency: str
    available: int
    held: int


class WalletView(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A wallet with its balances, in the order of their currency codes."""

    customer_id: str
    status: WalletStatus
    balances: list[BalanceView]
    created_at: str
    updated_at: str


class LimitView(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """The limits in one currency, and what is spent and left of them; null is no limit. Minor units.

    ``overridden``: they are for this wallet alone, not the platform's own.
    """

    currency: str
    per_payment: int | None
    per_day: int | None
    per_month: int | None
    overridden: bool
    spent_today: int
    left_today: int | None
    spent_this_month: int
    left_this_month: int | None


class LimitsView(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What the owner of a wallet may spend, in the order of the currencies' codes."""

    customer_id: str
    limits: list[LimitView]


class Validation(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Whether a wallet could pay, and every reason why not."""

    valid: bool
    reasons: list[str]


class MoneyMoved(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A credit or debit that has been booked; ``available`` is what was left to spend right after it."""

    transfer_id: str
    customer_id: str
    type: MovementType
    amount: int
    currency: str
    available: int
    reference: str
    created_at: str


class CreditBooked(msgspec.Struct, frozen=True, kw_only=True, rename="camel", tag="booked"):
    """A credit that another service has passed on. ``replayed``: an earlier request had booked it."""

    answer: MoneyMoved
    replayed: bool


class CreditRefused(msgspec.Struct, frozen=True, kw_only=True, rename="camel", tag="refused"):
    """Why a credit that another service has passed on was not booked. ``replayed``: an earlier request was told so."""

    answer: Refusal
    replayed: bool


CreditOutcome = CreditBooked | CreditRefused


class StatementEntry(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """One line of a statement. ``counterparty`` is the other side's owner, ``cash`` or ``fees``."""

    transfer_id: str
    type: MovementType
    amount: int
    currency: str
    balance_after: int
    counterparty: str
    transaction_id: str | None
    reference: str | None
    description: str | None
    created_at: str


class Statement(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Entries, newest first."""

    items: list[StatementEntry]
    next_cursor: str | None
