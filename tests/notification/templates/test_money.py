"""Amounts are exact and written as Babel writes them, in every locale and currency."""

from copy import copy
from decimal import Decimal

import pytest
from babel import Locale
from hypothesis import given
from hypothesis import strategies as st

from ewallet.kernel.money import DECIMALS, MAXIMUM_AMOUNT, Money
from ewallet.notification.templates.money import writer

LOCALES = ("en", "de", "de_AT", "de_CH", "fr", "es", "pl", "pt_BR", "sv", "hi", "ja", "tr", "ar")


@given(
    name=st.sampled_from(LOCALES),
    amount=st.integers(0, MAXIMUM_AMOUNT),
    currency=st.sampled_from(sorted(DECIMALS)),
)
def test_an_amount_is_what_babel_makes_of_it_digit_by_digit(name: str, amount: int, currency: str) -> None:
    locale, decimals = Locale.parse(name), DECIMALS[currency]
    pattern = copy(locale.currency_formats["standard"])
    pattern.frac_prec = (decimals, decimals)
    exact = Decimal(amount).scaleb(-decimals)

    assert writer(locale)(Money(amount, currency)) == pattern.apply(
        exact, locale, currency=currency, currency_digits=False
    )


@pytest.mark.parametrize(
    ("locale", "money", "written"),
    [
        ("en", Money(1_234_567_89, "USD"), "$1,234,567.89"),
        ("en", Money(5, "USD"), "$0.05"),
        ("en", Money(-1_50, "USD"), "-$1.50"),
        ("en", Money(1_250, "JPY"), "¥1,250"),
        ("en", Money(1_250, "CAD"), "CA$12.50"),
        ("de", Money(1_234_567_89, "EUR"), "1.234.567,89\N{NO-BREAK SPACE}€"),
        ("de", Money(1_2345, "CLF"), "1,2345\N{NO-BREAK SPACE}CLF"),
        ("hi", Money(1_234_567_89, "INR"), "₹12,34,567.89"),
    ],
)
def test_people_recognise_their_own_way_of_writing_money(locale: str, money: Money, written: str) -> None:
    assert writer(Locale.parse(locale))(money) == written
