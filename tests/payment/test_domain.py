"""The rules of payments: the automaton, the fee, and what is asked of the ledger."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ewallet.kernel.caller import Caller, Role
from ewallet.kernel.errors import InvariantBroken, Reason, Refusal
from ewallet.kernel.money import DECIMALS, MAXIMUM_AMOUNT
from ewallet.payment.domain import (
    TRANSITIONS,
    Failure,
    FeeSchedule,
    FeesWrong,
    Payee,
    Payment,
    PaymentStatus,
    event_data,
    event_name,
    group_id,
    identity_of,
    legs,
    recipients,
    refusal_of,
    settled,
)

NOW = 1_790_000_000_000_000
REFUSED = Failure(Reason.INSUFFICIENT_FUNDS, "The balance is too small.")

amounts = st.integers(1, MAXIMUM_AMOUNT)
currencies = st.sampled_from(sorted(DECIMALS))


def payment(**changes: object) -> Payment:
    fields = {
        "id": "pay_01m3250v000gdbp3tn14t1q2bm",
        "customer_id": "usr_payer",
        "merchant_id": "usr_payee",
        "amount": 1000,
        "fee": 20,
        "currency": "USD",
        "identity": "pay_01m3250v000gdbp3tn14t1q2bm",
        "request_hash": "0" * 64,
        "request_id": "req_first",
        "created_at": NOW,
        "updated_at": NOW,
    }
    return Payment(**(fields | changes))  # type: ignore[arg-type]  # the values are as the names say


# --- the automaton ------------------------------------------------------------------------------------------------


def test_every_state_is_reached_from_pending_and_every_state_has_its_way_out_or_none() -> None:
    reached, frontier = set(), {PaymentStatus.PENDING}
    while frontier:
        reached |= frontier
        frontier = {after for before in frontier for after in TRANSITIONS[before]} - reached

    assert reached == set(PaymentStatus) == set(TRANSITIONS)


def test_nothing_goes_back_to_pending_and_a_failure_is_final() -> None:
    assert all(PaymentStatus.PENDING not in after for after in TRANSITIONS.values())
    assert TRANSITIONS[PaymentStatus.FAILED] == frozenset()


@pytest.mark.parametrize(("failure", "status"), [(None, "SUCCESS"), (REFUSED, "FAILED")])
def test_a_verdict_settles_a_pending_payment(failure: Failure | None, status: str) -> None:
    after = settled(payment(), failure, NOW + 5)

    assert (after.status, after.version, after.updated_at, after.failure) == (status, 2, NOW + 5, failure)


@pytest.mark.parametrize("status", sorted(set(PaymentStatus) - {PaymentStatus.PENDING, PaymentStatus.AUTHORIZED}))
def test_a_settled_payment_cannot_be_settled_again(status: PaymentStatus) -> None:
    with pytest.raises(InvariantBroken, match="cannot go from"):
        settled(payment(status=status), REFUSED, NOW)


# --- the ledger ---------------------------------------------------------------------------------------------------


@given(amounts, st.data())
def test_the_legs_add_up_to_what_the_customer_pays(amount: int, data: st.DataObject) -> None:
    fee = data.draw(st.integers(0, amount - 1))

    parts = legs(payment(amount=amount, fee=fee))

    assert sum(leg.amount for leg in parts) == amount
    assert all(leg.amount > 0 for leg in parts)
    assert {leg.payee: leg.amount for leg in parts}.get(Payee.FEES, 0) == fee


def test_a_step_that_is_repeated_has_the_same_ids_and_another_payment_has_others() -> None:
    other = payment(id="pay_01m3250v000gdbp3tn14t1q2bn")

    assert legs(payment()) == legs(payment())
    assert group_id(payment()) == group_id(payment()) != group_id(other)
    assert len({leg.id for leg in (*legs(payment()), *legs(other))}) == 4


# --- who sees it and who is told ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("subject", "role", "sees"),
    [
        ("usr_payer", Role.CUSTOMER, True),
        ("usr_payee", Role.MERCHANT, True),
        ("usr_other", Role.CUSTOMER, False),
        ("usr_other", Role.MERCHANT, False),
        # A customer whose id somebody took for a merchant's has nothing to do with it.
        ("usr_payee", Role.CUSTOMER, False),
        ("usr_admin", Role.ADMIN, True),
        ("cli_backend", Role.SERVICE, True),
    ],
)
def test_a_payment_exists_for_its_two_sides_and_the_staff(subject: str, role: Role, sees: bool) -> None:
    assert payment().belongs_to(Caller(subject, role, "req_test")) is sees


def test_both_sides_are_told_unless_the_merchant_does_not_exist() -> None:
    nobody = Failure(Reason.UNKNOWN_MERCHANT, "There is no such merchant.")

    assert recipients(settled(payment(), None, NOW)) == ("usr_payer", "usr_payee")
    assert recipients(settled(payment(), REFUSED, NOW)) == ("usr_payer", "usr_payee")
    assert recipients(settled(payment(), nobody, NOW)) == ("usr_payer",)


def test_an_event_says_what_happened() -> None:
    failed = settled(payment(reference="order-17"), REFUSED, NOW)

    assert event_name(failed) == "payment.failed"
    assert event_data(failed) == {
        "transactionId": failed.id,
        "customerId": "usr_payer",
        "merchantId": "usr_payee",
        "amount": 1000,
        "fee": 20,
        "netAmount": 980,
        "currency": "USD",
        "reference": "order-17",
        "description": None,
        "failureReason": "INSUFFICIENT_FUNDS",
    }
    assert event_name(settled(payment(), None, NOW)) == "payment.succeeded"


def test_a_failed_payment_is_refused_in_the_words_of_its_first_request() -> None:
    failed = settled(payment(), REFUSED, NOW)

    assert refusal_of(failed) == Refusal(
        Reason.INSUFFICIENT_FUNDS,
        "The balance is too small.",
        members={"requestId": "req_first", "transactionId": failed.id, "failureReason": "INSUFFICIENT_FUNDS"},
    )
    assert refusal_of(settled(payment(), None, NOW)) is None


def test_a_key_counts_within_its_customer() -> None:
    assert identity_of("usr_a", "key") != identity_of("usr_b", "key")
    assert identity_of("usr_a", "key") != identity_of("usr_a", "other")


# --- the fee ------------------------------------------------------------------------------------------------------


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
