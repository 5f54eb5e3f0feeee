"""The automaton of payments, and what can be read off a payment alone."""

import pytest

from ewallet.kernel.caller import Caller, Role
from ewallet.kernel.errors import InvariantBroken
from ewallet.payment.domain.payments import (
    TRANSITIONS,
    Charge,
    Failure,
    PaymentStatus,
    as_captured,
    as_settled,
    captured,
    ended,
    identity_of,
    refunded,
    settled,
)
from tests.payment.domain.values import NOW, REFUSED, WEEK_SECONDS, held, paid, payment

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


@pytest.mark.parametrize(
    ("hold_seconds", "failure", "status"),
    [
        (None, None, "SUCCESS"),
        (None, REFUSED, "FAILED"),
        (WEEK_SECONDS, None, "AUTHORIZED"),
        (WEEK_SECONDS, REFUSED, "FAILED"),
    ],
)
def test_a_verdict_settles_a_pending_payment(hold_seconds: int | None, failure: Failure | None, status: str) -> None:
    after = settled(payment(hold_seconds=hold_seconds), failure, NOW + 5)

    assert (after.status, after.version, after.failure) == (status, 2, failure)
    assert after.settled_at == after.updated_at == NOW + 5


@pytest.mark.parametrize("status", sorted(set(PaymentStatus) - {PaymentStatus.PENDING}))
def test_a_settled_payment_cannot_be_settled_again(status: PaymentStatus) -> None:
    with pytest.raises(InvariantBroken, match="cannot go from"):
        settled(payment(status=status), REFUSED, NOW)


def test_what_was_captured_is_what_the_customer_pays_and_the_intent_stays_as_it_was() -> None:
    before = held()

    after = captured(before, Charge(400, 8), NOW + 5)

    assert (after.status, after.version, after.charge.net) == ("SUCCESS", 3, 392)
    assert (after.amount, after.fee, after.settled_at) == (before.amount, before.fee, before.settled_at)


@pytest.mark.parametrize("status", [PaymentStatus.VOIDED, PaymentStatus.EXPIRED])
def test_a_hold_that_has_ended_is_not_captured(status: PaymentStatus) -> None:
    over = ended(held(), status, NOW + 5)

    assert (over.status, over.version) == (status, 3)
    with pytest.raises(InvariantBroken, match="cannot go from"):
        captured(over, Charge(400, 8), NOW)


def test_refunds_add_up_to_what_was_captured() -> None:
    some = refunded(captured(held(), Charge(400, 8), NOW), 100, NOW)
    more = refunded(some, 100, NOW)
    everything = refunded(more, 200, NOW)

    assert [each.status for each in (some, more, everything)] == ["PARTIALLY_REFUNDED"] * 2 + ["REFUNDED"]
    assert [each.refunded_amount for each in (some, more, everything)] == [100, 200, 400]
    with pytest.raises(InvariantBroken, match="cannot go from"):
        refunded(everything, 1, NOW)


# --- what was once answered ---------------------------------------------------------------------------------------


def test_the_first_answer_is_found_again_whatever_has_been_done_since() -> None:
    """Also within one microsecond."""
    authorized = settled(payment(hold_seconds=WEEK_SECONDS), None, NOW)
    was_captured = captured(authorized, Charge(400, 8), NOW)
    was_refunded = refunded(was_captured, 400, NOW + 9)
    failed = settled(payment(), REFUSED, NOW)

    for later in (authorized, was_captured, was_refunded, ended(authorized, PaymentStatus.VOIDED, NOW + 3)):
        first = as_settled(later)
        assert (first.status, first.charge, first.refunded_amount) == ("AUTHORIZED", Charge(1000, 20), 0)
        assert first.updated_at == NOW
    assert as_settled(refunded(paid(), 1000, NOW + 9)).status == "SUCCESS"
    assert as_settled(failed) == failed
    assert as_settled(payment()) == payment()


def test_the_answer_to_a_capture_is_found_again_after_refunds() -> None:
    was_captured = captured(held(), Charge(400, 8), NOW + 5)

    again = as_captured(refunded(was_captured, 100, NOW + 9), NOW + 5)

    assert (again.status, again.charge, again.refunded_amount, again.updated_at) == (
        "SUCCESS",
        Charge(400, 8),
        0,
        NOW + 5,
    )


# --- who sees it --------------------------------------------------------------------------------------------------


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


def test_a_key_counts_within_its_caller() -> None:
    assert identity_of("usr_a", "key") != identity_of("usr_b", "key")
    assert identity_of("usr_a", "key") != identity_of("usr_a", "other")
