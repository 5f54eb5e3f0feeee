"""What there is: accounts, transfers, holds, groups. No rules here but what can be read off one thing alone.

The semantics are TigerBeetle's (its reference pages on accounts and transfers): balances are derived from four sums,
and a transfer moves one amount from one debit account to one credit account of the same currency, so that it balances
by construction. Amounts are minor units, times microseconds since the epoch.
"""

from dataclasses import dataclass, field, replace
from enum import StrEnum

PLATFORM = "PLATFORM"
"""The role of the platform's own accounts."""

CASH, FEES = "cash", "fees"
"""The owners of the platform's own accounts: money outside, which may go below zero, and fees earned."""

PLATFORM_OWNERS = (CASH, FEES)

LARGEST_SUM = 2**63 - 1
"""What the database's signed 64-bit columns can hold."""


class Kind(StrEnum):
    """POSTED moves money at once; PENDING holds it; POST and VOID finish a hold."""

    POSTED = "POSTED"
    PENDING = "PENDING"
    POST = "POST"
    VOID = "VOID"


class HoldState(StrEnum):
    """A hold is PENDING until it ends in exactly one of the other states."""

    PENDING = "PENDING"
    POSTED = "POSTED"
    VOIDED = "VOIDED"
    EXPIRED = "EXPIRED"


@dataclass(frozen=True, slots=True)
class Limits:
    """The most that an owner may spend in one currency, in minor units; None is no limit."""

    per_payment: int | None = None
    per_day: int | None = None
    per_month: int | None = None


NO_LIMITS = Limits()


@dataclass(slots=True)
class Account:
    """One owner's money in one currency. The posted sums only grow; the pending ones are what is held right now.

    Fields in the order of the table's columns. ``role`` is the owner's, or PLATFORM. ``frozen`` and ``closed`` repeat
    the wallet's status, so that moving money needs to look at (and lock) accounts only.

    ``spent_on`` is the day (since the epoch, UTC) of the latest spending, ``spent_today`` and ``spent_this_month`` what
    counted towards limits on that day and in its month. ``own_limits``: there are limits for this account alone.
    """

    id: str
    owner: str
    role: str
    currency: str
    debits_must_not_exceed_credits: bool
    debits_posted: int = 0
    credits_posted: int = 0
    debits_pending: int = 0
    credits_pending: int = 0
    frozen: bool = False
    closed: bool = False
    own_limits: bool = False
    spent_on: int = 0
    spent_today: int = 0
    spent_this_month: int = 0
    version: int = 0
    created_at: int = 0
    updated_at: int = 0

    @property
    def balance(self) -> int:
        """What has been posted, without regard to holds; the platform's ``cash`` may be negative."""
        return self.credits_posted - self.debits_posted

    @property
    def available(self) -> int:
        """What may be spent: a hold is spent money until it ends."""
        return self.credits_posted - self.debits_posted - self.debits_pending

    @property
    def is_empty(self) -> bool:
        """No balance and no hold in either direction."""
        return self.balance == 0 and self.debits_pending == 0 and self.credits_pending == 0


@dataclass(frozen=True, slots=True)
class Transfer:
    """One order to move, hold, post or release money; immutable.

    ``credit_role``: where given, the credited account's owner must have it. ``pending_id`` names the hold that POST and
    VOID finish. ``timeout_seconds`` ends a hold by itself; None keeps it until it is posted or voided.
    """

    id: str
    kind: Kind
    debit_account: str
    credit_account: str
    amount: int
    currency: str
    credit_role: str | None = None
    pending_id: str | None = None
    timeout_seconds: int | None = None


@dataclass(slots=True)
class Hold:
    """The state of a PENDING transfer, whose id it has.

    ``counted_on`` is the day on which it counted towards its payer's limits; None where it did not.
    """

    id: str
    debit_account: str
    credit_account: str
    amount: int
    currency: str
    state: HoldState
    expires_at: int | None
    updated_at: int
    counted_on: int | None = None


@dataclass(frozen=True, slots=True)
class Entry:
    """A transfer that has been applied: what it moved, by how much it changed the held sum, and the balances after."""

    transfer: Transfer
    posted: int
    pending: int
    debit_balance_after: int
    credit_balance_after: int
    expires_at: int | None


@dataclass(slots=True)
class Book:
    """The part of the ledger that is open on the desk: every row locked that a decision could depend on.

    ``roles`` are those of the owners that have a wallet, needed where an account is missing; ``taken_ids`` those ids of
    the transfers at hand that exist already; ``limits`` those of the accounts that somebody spends from.
    """

    accounts: dict[str, Account]
    roles: dict[str, str] = field(default_factory=dict)
    holds: dict[str, Hold] = field(default_factory=dict)
    taken_ids: set[str] = field(default_factory=set)
    limits: dict[str, Limits] = field(default_factory=dict)

    def limits_of(self, account_id: str) -> Limits:
        """The limits of an account."""
        return self.limits.get(account_id, NO_LIMITS)

    def imagined(self) -> "Book":
        """The same book to try things in."""
        return Book(
            {key: replace(account) for key, account in self.accounts.items()},
            roles=self.roles,
            holds={key: replace(hold) for key, hold in self.holds.items()},
            taken_ids={*self.taken_ids},
            limits=self.limits,
        )


def owner_of(account_id: str) -> str:
    """The owner in an account's id: ``usr_…`` of ``usr_…:USD``, ``cash`` of ``cash:USD``."""
    return account_id.rpartition(":")[0]
