"""Limits: how they are configured, what a refusal says of them, when days and months begin."""

from datetime import UTC, datetime

import pytest

from ewallet.kernel.errors import InvariantBroken, Reason
from ewallet.wallet.domain.limits import (
    LimitSchedule,
    LimitsWrong,
    day_of,
    left,
    limit_refusal,
    month_of,
)
from ewallet.wallet.domain.nouns import NO_LIMITS, Account, Book, Limits


def moment(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1_000_000)


def test_limits_are_read_by_currency() -> None:
    schedule = LimitSchedule.parse(
        " USD=per_payment:100000, per_day:500000,per_month:2000000 ; EUR=per_month:0;JPY=per_day:1000000000000000;"
    )

    assert schedule.of("USD") == Limits(per_payment=100_000, per_day=500_000, per_month=2_000_000)
    assert schedule.of("EUR") == Limits(per_month=0)
    assert schedule.of("JPY") == Limits(per_day=10**15)
    assert schedule.of("KWD") is NO_LIMITS


def test_no_limits_are_none() -> None:
    assert LimitSchedule.parse("") == LimitSchedule()


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("USD", "'USD' does not look like"),
        ("USD=", "'USD=' does not look like"),
        ("USD=per_year:5", "'USD=per_year:5' does not look like"),
        ("USD=per_day:-5", "does not look like"),
        ("USD=per_day:5.0", "does not look like"),
        ("USD=per_day:\u0665", "does not look like"),
        ("USD=per_day:1000000000000001", "does not look like"),
        ("USD=per_day:5,per_day:6", "does not look like"),
        ("USD=per_day:5;USD=per_month:6", "USD is there twice"),
        ("XYZ=per_day:5", "'XYZ=per_day:5' does not begin with a currency"),
        ("per_day:5", "does not begin with a currency"),
    ],
)
def test_limits_that_cannot_be_are_named(text: str, named: str) -> None:
    with pytest.raises(LimitsWrong, match=named):
        LimitSchedule.parse(text)


@pytest.mark.parametrize(
    ("last", "first"),
    [
        ("2026-11-30T23:59:59.999999", "2026-12-01T00:00:00"),
        ("2026-12-31T23:59:59.999999", "2027-01-01T00:00:00"),
        ("2028-02-29T23:59:59.999999", "2028-03-01T00:00:00"),
    ],
)
def test_a_month_ends_at_midnight_of_utc(last: str, first: str) -> None:
    before, after = day_of(moment(last)), day_of(moment(first))

    assert (after - before, month_of(after) - month_of(before)) == (1, 1)
    assert month_of(before - 27) == month_of(before)


def test_the_same_month_of_another_year_is_another_month() -> None:
    assert month_of(day_of(moment("2026-11-30T00:00:00"))) != month_of(day_of(moment("2027-11-30T00:00:00")))


def test_what_is_left_is_never_less_than_nothing() -> None:
    assert (left(100, 40), left(100, 100), left(50, 60)) == (60, 0, 0)


@pytest.mark.parametrize(
    ("limits", "members", "detail"),
    [
        (
            Limits(per_payment=30_00),
            {"limit": "perPayment", "allowed": 30_00, "left": 30_00},
            "The wallet's limit leaves 30.00 USD to spend in one payment.",
        ),
        (
            Limits(per_day=30_00),
            {"limit": "perDay", "allowed": 30_00, "left": 10_00},
            "The wallet's limit leaves 10.00 USD to spend today.",
        ),
        (
            Limits(per_month=30_00),
            {"limit": "perMonth", "allowed": 30_00, "left": 5_00},
            "The wallet's limit leaves 5.00 USD to spend this month.",
        ),
    ],
)
def test_a_refusal_says_which_limit_and_what_it_leaves(limits: Limits, members: dict[str, object], detail: str) -> None:
    account = Account("a:USD", "a", "CUSTOMER", "USD", debits_must_not_exceed_credits=True)
    account.spent_today, account.spent_this_month = 20_00, 25_00
    other = Account("a:EUR", "a", "CUSTOMER", "EUR", debits_must_not_exceed_credits=True)
    book = Book({account.id: account, other.id: other}, limits={account.id: limits, other.id: Limits(per_day=30_01)})

    refusal = limit_refusal(book, {other.id: 30_01, account.id: 30_01}, now=0)

    assert (refusal.reason, refusal.status) == (Reason.LIMIT_EXCEEDED, 422)
    assert (dict(refusal.members), refusal.detail) == (members, detail)


def test_a_refusal_without_a_limit_is_a_bug() -> None:
    account = Account("a:USD", "a", "CUSTOMER", "USD", debits_must_not_exceed_credits=True)

    with pytest.raises(InvariantBroken, match=r"^a group was refused by a limit that is not exceeded$"):
        limit_refusal(Book({account.id: account}), {account.id: 1}, now=0)
