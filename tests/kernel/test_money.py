"""Money: whole minor units, one currency, rounding half to even."""

from decimal import ROUND_HALF_EVEN, Decimal

import iso4217
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ewallet.kernel.money import DECIMALS, MAXIMUM_AMOUNT, CurrenciesDiffer, Money, basis_points, is_currency

amounts = st.integers(1, MAXIMUM_AMOUNT)
points = st.integers(0, 10_000)


@given(amounts, points)
def test_a_share_is_rounded_half_to_even_as_decimal_arithmetic_does(amount: int, share: int) -> None:
    exact = Decimal(amount) * share / 10_000
    assert basis_points(amount, share) == int(exact.quantize(Decimal(1), rounding=ROUND_HALF_EVEN))


@given(amounts, points)
def test_a_share_and_the_rest_are_the_whole(amount: int, share: int) -> None:
    part = basis_points(amount, share)
    assert 0 <= part <= amount
    assert part + (amount - part) == amount


@pytest.mark.parametrize(
    ("amount", "expected"),
    [(1, 0), (24, 0), (25, 0), (26, 1), (50, 1), (74, 1), (75, 2), (125, 2), (175, 4), (12500, 250)],
)
def test_two_percent_of_small_amounts(amount: int, expected: int) -> None:
    assert basis_points(amount, 200) == expected


def test_the_currencies_are_those_of_iso_4217_that_have_a_minor_unit() -> None:
    published = {
        currency.code.upper(): currency.exponent for currency in iso4217.Currency if currency.exponent is not None
    }
    assert published == DECIMALS


@pytest.mark.parametrize("code", ["XTS", "XAU", "usd", "", "US", "USDT"])
def test_what_is_no_currency_is_refused(code: str) -> None:
    """Nor are ISO 4217's code for tests, which no bank takes, and its code for gold."""
    assert not is_currency(code)


@pytest.mark.parametrize(
    ("money", "text"),
    [
        (Money(12500, "USD"), "125.00 USD"),
        (Money(5, "USD"), "0.05 USD"),
        (Money(-5, "USD"), "-0.05 USD"),
        (Money(500, "JPY"), "500 JPY"),
        (Money(1234, "KWD"), "1.234 KWD"),
        (Money(0, "KWD"), "0.000 KWD"),
    ],
)
def test_money_is_written_with_the_decimals_of_its_currency(money: Money, text: str) -> None:
    assert str(money) == text


def test_amounts_of_one_currency_add_and_subtract() -> None:
    assert Money(700, "EUR") + Money(50, "EUR") - Money(1, "EUR") == Money(749, "EUR")
    assert -Money(5, "EUR") == Money(-5, "EUR")


def test_amounts_of_two_currencies_never_mix() -> None:
    with pytest.raises(CurrenciesDiffer, match="EUR and USD"):
        Money(1, "EUR") + Money(1, "USD")
    with pytest.raises(CurrenciesDiffer):
        Money(1, "EUR") - Money(1, "USD")


def test_money_cannot_be_divided() -> None:
    with pytest.raises(TypeError):
        Money(100, "USD") / 3  # type: ignore[operator]  # that it is missing is the promise
