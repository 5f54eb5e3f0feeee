"""What may happen to a wallet: it is opened, frozen, unfrozen and, once empty, closed for ever."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import assert_never

from ewallet.kernel.errors import Reason, Refusal
from ewallet.wallet.domain.nouns import Account


class Status(StrEnum):
    """Whether money may move: ACTIVE in both ways, FROZEN and CLOSED in none."""

    ACTIVE = "ACTIVE"
    FROZEN = "FROZEN"
    CLOSED = "CLOSED"


class Change(StrEnum):
    """What an administrator may do to a wallet."""

    FREEZE = "freeze"
    UNFREEZE = "unfreeze"
    CLOSE = "close"


@dataclass(slots=True)
class Wallet:
    """One owner's wallet; its money is in accounts, one a currency. Fields in the order of the table's columns."""

    owner: str
    role: str
    status: Status
    created_at: int
    updated_at: int


CLOSED = Refusal(Reason.WALLET_CLOSED, "The wallet is closed, and stays so.")
NOT_EMPTY = Refusal(Reason.INVALID_STATE, "Only an empty wallet closes: there is a balance or a hold.")


def status_after(change: Change, status: Status, accounts: Iterable[Account]) -> Status | Refusal:
    """The status that a change leads to; the present one where the wallet is as wanted already.

    Refused with ``wallet-closed`` (it is, and something else is wanted) or ``invalid-state`` (not empty).
    """
    match change:
        case Change.FREEZE | Change.UNFREEZE if status is Status.CLOSED:
            return CLOSED
        case Change.FREEZE:
            return Status.FROZEN
        case Change.UNFREEZE:
            return Status.ACTIVE
        case Change.CLOSE:
            return Status.CLOSED if all(account.is_empty for account in accounts) else NOT_EMPTY
    assert_never(change)


def set_status(wallet: Wallet, accounts: Iterable[Account], status: Status, now: int) -> None:
    """Give the wallet and all its accounts a status."""
    wallet.status, wallet.updated_at = status, now
    for account in accounts:
        account.frozen = status is Status.FROZEN
        account.closed = status is Status.CLOSED
        account.updated_at = now
