"""The fee, exactly, for every amount, currency and schedule."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ewallet.kernel.errors import Reason, Refusal
from ewallet.kernel.money import DECIMALS, MAXIMUM_AMOUNT
from ewallet.payment.domain.fees import FeeSchedule, FeesWrong

amounts = st.integers(1, MAXIMUM_AMOUNT)
currencies = st.sampled_from(sorted(DECIMALS))


@given(amounts, currencies, st.integers(0, 10_000), st.integers(0, 10_000))
def test_a_fee_is_the_share_rounded_half_to_even_plus_the_fixed_part(
    amount: int, currency: str, basis_points: int, fixed: int
) -> None:
    schedule = FeeSchedule.parse(f"{currency}={basis_points}+{fixed}", default_basis_points=0)
    exact = Fraction(amount * basis_points, 10_000)
    expected = round(exact) + fixed  # round() of a Fraction is half to even

    fee = schedule.fee_on(amount, currency)

    if expected < amount:
        assert fee == expected
    else:
        assert isinstance(fee, Refusal)
        assert fee.reason is Reason.AMOUNT_TOO_SMALL


@pytest.mark.parametrize(
    ("amount", "currency", "fee"),
    [
        (10_000, "USD", 230),
        (10_000, "JPY", 150),
        (10_000, "EUR", 200),
        (25, "EUR", 0),
        (75, "EUR", 2),
        (1, "EUR", 0),
    ],
)
def test_each_currency_has_its_own_fee_and_the_others_the_default(amount: int, currency: str, fee: int) -> None:
    schedule = FeeSchedule.parse(" USD=200+30, JPY=150+0 ,", default_basis_points=200)

    assert schedule.fee_on(amount, currency) == fee


def test_a_fee_may_be_the_whole_amount_on_paper() -> None:
    assert FeeSchedule.parse("USD=10000+0", default_basis_points=0).of(500, "USD") == 500


def test_an_amount_that_the_fee_would_eat_up_is_too_small() -> None:
    refusal = FeeSchedule.parse("USD=200+30", default_basis_points=200).fee_on(30, "USD")

    assert isinstance(refusal, Refusal)
    assert (refusal.reason, refusal.status) == (Reason.AMOUNT_TOO_SMALL, 422)
    assert refusal.detail == "The fee of 0.31 USD leaves nothing of 0.30 USD for the merchant: pay more at once."


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("USD", "'USD' does not look like USD=200"),
        ("USD=200", "'USD=200' does not look like"),
        ("USD=2.5+0", "does not look like"),
        ("USD=-1+0", "does not look like"),
        ("USD=\u0662+0", "does not look like"),
        ("XYZ=1+0", "XYZ is not a currency"),
        ("USD=10001+0", "too many basis points"),
        ("USD=1+0,USD=2+0", "USD is there twice"),
    ],
)
def test_a_wrong_fee_schedule_is_named(text: str, sentence: str) -> None:
    with pytest.raises(FeesWrong, match=sentence):
        FeeSchedule.parse(text, default_basis_points=200)
