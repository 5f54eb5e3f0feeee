"""How much an owner may spend: in one payment, in a day and in a calendar month, both of UTC.

What has been spent is counted in the account itself, which every payment locks and writes anyway: so a limit is exact,
however many pay at once. A hold counts when it is made. What is not taken of it in the end is given back, as long as
the counter still stands at the day (or the month) in which it was made. Nothing else gives anything back.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import date, timedelta
from functools import lru_cache
from typing import NamedTuple

from ewallet.kernel.clock import MICROSECONDS_PER_SECOND
from ewallet.kernel.errors import InvariantBroken, Refusal
from ewallet.kernel.money import MAXIMUM_AMOUNT, Money, is_currency
from ewallet.wallet.domain.nouns import NO_LIMITS, Account, Book, Limits, Transfer, owner_of
from ewallet.wallet.domain.verdicts import Verdict, refusal_of

MICROSECONDS_PER_DAY = 24 * 3600 * MICROSECONDS_PER_SECOND
MONTHS_PER_YEAR = 12
_EPOCH = date(1970, 1, 1)

Spending = Mapping[str, int]
"""What a group counts towards limits: an amount for each account that it spends from."""


def spending_of(transfers: Iterable[Transfer], spender: str) -> Spending:
    """What a group takes or holds out of the accounts of one owner; finishing a hold spends nothing anew."""
    spending: dict[str, int] = {}
    for transfer in transfers:
        if transfer.pending_id is None and owner_of(transfer.debit_account) == spender:
            spending[transfer.debit_account] = spending.get(transfer.debit_account, 0) + transfer.amount
    return spending


# --- the counters -------------------------------------------------------------------------------------------------


def day_of(now: int) -> int:
    """The day of a moment, in days since the epoch."""
    return now // MICROSECONDS_PER_DAY


@lru_cache(maxsize=64)
def month_of(day: int) -> int:
    """The calendar month of a day, in months since the year 0."""
    moment = _EPOCH + timedelta(days=day)
    return moment.year * MONTHS_PER_YEAR + moment.month


class Spent(NamedTuple):
    """What counts towards the limits of a day and of its month, in minor units."""

    today: int
    this_month: int


def spent(account: Account, now: int) -> Spent:
    """What an account has spent; a counter that still stands at an earlier day or month counts nothing."""
    day = day_of(now)
    if account.spent_on == day:
        return Spent(account.spent_today, account.spent_this_month)
    return Spent(0, account.spent_this_month if month_of(account.spent_on) == month_of(day) else 0)


def count(account: Account, amount: int, now: int) -> None:
    """Count what :func:`exceeded` has let pass. Time on an account does not go back, nor do its counters."""
    before = spent(account, now)
    account.spent_on = day_of(now)
    account.spent_today = before.today + amount
    account.spent_this_month = before.this_month + amount


def give_back(account: Account, amount: int, day: int) -> None:
    """Take back what a hold has counted on a day and did not take."""
    if account.spent_on == day:
        account.spent_today -= amount
    if month_of(account.spent_on) == month_of(day):
        account.spent_this_month -= amount


# --- the limits ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Exceeded:
    """The limit that stands against a group, and what it leaves, in minor units."""

    verdict: Verdict
    name: str
    allowed: int
    left: int


def exceeded(book: Book, account_id: str, amount: int, now: int) -> Exceeded | None:
    """Which limit stands against spending an amount more, or None where there is none."""
    limits = book.limits_of(account_id)
    if limits is NO_LIMITS:
        return None
    today, this_month = spent(book.accounts[account_id], now)
    if limits.per_payment is not None and amount > limits.per_payment:
        return Exceeded(Verdict.EXCEEDS_LIMIT_PER_PAYMENT, "perPayment", limits.per_payment, limits.per_payment)
    if limits.per_day is not None and today + amount > limits.per_day:
        return Exceeded(Verdict.EXCEEDS_LIMIT_PER_DAY, "perDay", limits.per_day, left(limits.per_day, today))
    if limits.per_month is not None and this_month + amount > limits.per_month:
        rest = left(limits.per_month, this_month)
        return Exceeded(Verdict.EXCEEDS_LIMIT_PER_MONTH, "perMonth", limits.per_month, rest)
    return None


def left(limit: int, spent: int) -> int:
    """What may still be spent; nothing where a limit was lowered below what is spent."""
    return max(0, limit - spent)


_PERIODS = {"perPayment": "in one payment", "perDay": "today", "perMonth": "this month"}


def limit_refusal(book: Book, spending: Spending, now: int) -> Refusal:
    """The refusal of a group that a limit stands against, with figures that are for the spender's eyes only."""
    for account_id, amount in spending.items():
        found = exceeded(book, account_id, amount, now)
        if found is not None:
            rest = Money(found.left, book.accounts[account_id].currency)
            detail = f"The wallet's limit leaves {rest} to spend {_PERIODS[found.name]}."
            members = {"limit": found.name, "allowed": found.allowed, "left": found.left}
            return replace(refusal_of(found.verdict), detail=detail, members=members)
    raise InvariantBroken("a group was refused by a limit that is not exceeded")


# --- the limits of whoever has none of their own ------------------------------------------------------------------


class LimitsWrong(ValueError):
    """Limits that cannot be; the message is a sentence for the person who configured them."""


_PART = re.compile(r"(per_payment|per_day|per_month):(\d{1,16})", re.ASCII)


@dataclass(frozen=True, slots=True)
class LimitSchedule:
    """The limits of every currency; one that has no entry has none."""

    by_currency: Mapping[str, Limits] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> "LimitSchedule":
        """Read ``USD=per_payment:100000,per_day:500000;EUR=per_month:900``; LimitsWrong names what is wrong."""
        by_currency: dict[str, Limits] = {}
        for entry in filter(None, (part.strip() for part in text.split(";"))):
            currency, _, limits = entry.partition("=")
            if not is_currency(currency):
                raise LimitsWrong(f"{entry!r} does not begin with a currency of ISO 4217 that the platform knows.")
            if currency in by_currency:
                raise LimitsWrong(f"{currency} is there twice.")
            by_currency[currency] = _parse_limits(entry, limits)
        return cls(by_currency)

    def of(self, currency: str) -> Limits:
        """The limits in one currency."""
        return self.by_currency.get(currency, NO_LIMITS)


UNLIMITED = LimitSchedule()


def _parse_limits(entry: str, text: str) -> Limits:
    limits: dict[str, int] = {}
    for part in text.split(","):
        found = _PART.fullmatch(part.strip())
        if found is None or found[1] in limits or int(found[2]) > MAXIMUM_AMOUNT:
            raise LimitsWrong(
                f"{entry!r} does not look like USD=per_payment:100000,per_day:500000,per_month:2000000 "
                f"(each at most once, in minor units up to {MAXIMUM_AMOUNT})."
            )
        limits[found[1]] = int(found[2])
    return Limits(**limits)
