"""What crosses the wallet's door: requests, answers, and the orders with which other services move money."""

from enum import StrEnum
from typing import Annotated

import msgspec
from msgspec import Meta

from ewallet.kernel.caller import Role
from ewallet.kernel.errors import Reason


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


# --- orders of other services: a group of transfers, all or none ------------------------------------------------


class TransferOrder(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """One transfer of a group. Accounts are named by :func:`wallet_account`, :func:`fees_account` and the like.

    ``credit_role``: where set, the credited account must exist and belong to an owner of that role, else the group is
    refused with ``unknown-merchant``. ``pending_id`` names the hold that POST and VOID finish.
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
    asked.
    """

    id: str
    transfers: tuple[TransferOrder, ...]
    transaction_id: str | None
    reference: str | None = None
    description: str | None = None
    actor: str
    request_id: str


class GroupPosted(msgspec.Struct, frozen=True, kw_only=True, rename="camel", tag="posted"):
    """The group has been applied, by this call or by an earlier one with its id."""

    id: str
    posted_at: int


class GroupRefused(msgspec.Struct, frozen=True, kw_only=True, rename="camel", tag="refused"):
    """The wallet's verdict, stored under the group's id: it will never be applied."""

    id: str
    reason: Reason
    detail: str


GroupOutcome = GroupPosted | GroupRefused


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

Currency = Annotated[str, Meta(pattern="^[A-Z]{3}$", description="ISO 4217 code")]


class OpenWallet(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Open a wallet with a balance in one currency; opening what is open changes nothing."""

    owner: str
    role: Role
    currency: str
    actor: str
    request_id: str
