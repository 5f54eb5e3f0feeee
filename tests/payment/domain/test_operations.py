"""What may be done to a payment that is there, and what becomes of both."""

from dataclasses import replace

import pytest

from ewallet.kernel.caller import platform
from ewallet.kernel.errors import InvariantBroken, Reason
from ewallet.payment.domain.operations import (
    ALL_THAT_IS_LEFT,
    Kind,
    Operation,
    Verdict,
    as_left_by,
    begun,
    compensated,
    concluded,
    expiry_of,
    hold_ends_at,
    needless,
    needs_compensation,
)
from ewallet.payment.domain.payments import Charge, Failure, Payment, PaymentStatus, captured, ended
from tests.payment.domain.values import (
    CLOSED,
    FROZEN,
    NOW,
    OVER,
    REFUSED,
    WEEK_SECONDS,
    held,
    operation,
    paid,
    payment,
)

LATER = NOW + 7
DONE = Verdict(at=NOW)
EXPIRED = Verdict(failure=OVER, hold_expired=True)

# --- beginning ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Kind.CAPTURE, Kind.VOID])
@pytest.mark.parametrize("status", PaymentStatus)
def test_only_an_authorized_payment_is_captured_or_voided(kind: Kind, status: PaymentStatus) -> None:
    first = begun(operation(kind), held(status=status), 0)

    assert first.is_pending == (status is PaymentStatus.AUTHORIZED)
    assert first.is_pending or first.failure == Failure(
        Reason.INVALID_STATE, f"Only an authorized payment can be captured or voided: this one is {status}."
    )
    assert first.updated_at == NOW


@pytest.mark.parametrize("status", PaymentStatus)
def test_only_what_was_paid_is_refunded(status: PaymentStatus) -> None:
    first = begun(operation(Kind.REFUND), payment(status=status), 0)

    assert first.is_pending == (status in (PaymentStatus.SUCCESS, PaymentStatus.PARTIALLY_REFUNDED))
    assert first.is_pending or first.failure == Failure(
        Reason.INVALID_STATE, f"Only what was paid can be refunded: this payment is {status}."
    )


@pytest.mark.parametrize(
    ("refunded", "being_refunded", "asked", "amount"),
    [
        (0, 0, ALL_THAT_IS_LEFT, 1000),
        (0, 0, 1000, 1000),
        (0, 0, 1001, None),
        (300, 0, ALL_THAT_IS_LEFT, 700),
        (300, 200, ALL_THAT_IS_LEFT, 500),
        (300, 200, 500, 500),
        (300, 200, 501, None),
        (300, 700, ALL_THAT_IS_LEFT, None),
        (300, 700, 1, None),
    ],
)
def test_a_refund_takes_no_more_than_others_have_left(
    refunded: int, being_refunded: int, asked: int, amount: int | None
) -> None:
    first = begun(operation(Kind.REFUND, amount=asked), paid(refunded_amount=refunded), being_refunded)

    assert first.is_pending == (amount is not None)
    assert amount is None or first.amount == amount


def test_a_refund_is_of_what_was_captured_not_of_what_was_held() -> None:
    part = captured(held(), Charge(400, 8), NOW)

    assert begun(operation(Kind.REFUND, amount=ALL_THAT_IS_LEFT), part, 0).amount == 400
    refused = begun(operation(Kind.REFUND, amount=401), part, 0)
    assert refused.failure is not None
    assert refused.failure.detail == "Of this payment 4.00 USD is left to refund."


def test_the_expiry_of_a_hold_has_one_id_and_falls_due_with_the_hold() -> None:
    expiry_id = "exp_01m3250v009a4681c371293ac1"
    assert expiry_of(held(updated_at=LATER)) == Operation(
        id=expiry_id,
        payment_id=held().id,
        kind=Kind.EXPIRY,
        amount=1000,
        actor=platform("req_first").subject,
        identity=expiry_id,
        request_hash=held().request_hash,
        request_id="req_first",
        created_at=LATER,
        updated_at=LATER,
    )
    assert hold_ends_at(held(), NOW) == NOW + WEEK_SECONDS * 1_000_000
    with pytest.raises(InvariantBroken, match="no hold"):
        hold_ends_at(payment(), NOW)


# --- concluding ---------------------------------------------------------------------------------------------------


def outcome(before: Payment, what: Operation, verdict: Verdict) -> tuple[str, str]:
    """The states of the payment and of the operation after the verdict."""
    after, done = concluded(before, what, verdict, LATER)
    assert done.updated_at == LATER
    assert after.updated_at == (before.updated_at if after == before else LATER)
    assert (after == before) == (after.version == before.version)
    return after.status, done.status


@pytest.mark.parametrize(
    ("kind", "verdict", "states"),
    [
        (Kind.CAPTURE, DONE, ("SUCCESS", "SUCCESS")),
        (Kind.CAPTURE, Verdict(failure=FROZEN), ("AUTHORIZED", "FAILED")),
        # Somebody else has ended the hold, and moves the payment.
        (Kind.CAPTURE, Verdict(failure=OVER), ("AUTHORIZED", "FAILED")),
        (Kind.CAPTURE, EXPIRED, ("EXPIRED", "FAILED")),
        (Kind.CAPTURE, Verdict(failure=CLOSED, released=True), ("VOIDED", "FAILED")),
        (Kind.CAPTURE, Verdict(failure=CLOSED, hold_expired=True), ("EXPIRED", "FAILED")),
        (Kind.CAPTURE, Verdict(failure=CLOSED), ("AUTHORIZED", "FAILED")),
        (Kind.VOID, DONE, ("VOIDED", "SUCCESS")),
        (Kind.VOID, Verdict(failure=OVER), ("AUTHORIZED", "FAILED")),
        (Kind.VOID, EXPIRED, ("EXPIRED", "FAILED")),
        (Kind.EXPIRY, DONE, ("EXPIRED", "SUCCESS")),
        (Kind.EXPIRY, EXPIRED, ("EXPIRED", "SUCCESS")),
        (Kind.EXPIRY, Verdict(failure=OVER), ("AUTHORIZED", "FAILED")),
    ],
)
def test_a_hold_ends_once_and_the_payment_goes_with_whoever_ends_it(
    kind: Kind, verdict: Verdict, states: tuple[str, str]
) -> None:
    assert outcome(held(), operation(kind), verdict) == states


@pytest.mark.parametrize("kind", [Kind.CAPTURE, Kind.VOID])
def test_who_comes_too_late_leaves_the_payment_where_it_is(kind: Kind) -> None:
    over = ended(held(), PaymentStatus.EXPIRED, NOW)

    assert outcome(over, operation(kind), EXPIRED) == ("EXPIRED", "FAILED")
    assert outcome(over, operation(Kind.EXPIRY), EXPIRED) == ("EXPIRED", "SUCCESS")


@pytest.mark.parametrize(
    ("verdict", "states"),
    [(DONE, ("PARTIALLY_REFUNDED", "SUCCESS")), (Verdict(failure=REFUSED), ("SUCCESS", "FAILED"))],
)
def test_a_refund_moves_the_payment_only_where_the_money_went_back(verdict: Verdict, states: tuple[str, str]) -> None:
    assert outcome(paid(), operation(Kind.REFUND, amount=300), verdict) == states


def test_a_capture_takes_its_own_amount_with_its_own_fee() -> None:
    after, _ = concluded(held(), operation(Kind.CAPTURE, amount=400, fee=8), DONE, LATER)

    assert after.charge == Charge(400, 8)


# --- compensation -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("failure", "for_good"),
    [
        (None, False),
        (FROZEN, False),
        (REFUSED, False),
        (OVER, False),
        (Failure(Reason.ABANDONED, "Given up."), False),
        (CLOSED, True),
        (Failure(Reason.CURRENCY_MISMATCH, "No balance."), True),
    ],
)
def test_only_a_capture_that_was_refused_for_good_is_compensated(failure: Failure | None, for_good: bool) -> None:
    verdict = Verdict(failure=failure)

    assert needs_compensation(operation(Kind.CAPTURE), verdict) is for_good
    assert not any(needs_compensation(operation(kind), verdict) for kind in Kind if kind is not Kind.CAPTURE)


@pytest.mark.parametrize(
    ("release", "status"), [(DONE, "VOIDED"), (EXPIRED, "EXPIRED"), (Verdict(failure=OVER), "AUTHORIZED")]
)
def test_the_capture_fails_with_its_own_reason_whatever_became_of_the_release(release: Verdict, status: str) -> None:
    after, capture = concluded(held(), operation(Kind.CAPTURE), compensated(Verdict(failure=CLOSED), release), LATER)

    assert after.status == status
    assert capture.failure == CLOSED


def test_an_expiry_is_needless_once_the_hold_has_ended() -> None:
    assert needless(held(), operation(Kind.EXPIRY)) is None
    assert needless(paid(), operation(Kind.REFUND)) is None
    verdict = needless(paid(), operation(Kind.EXPIRY))
    assert verdict == Verdict(failure=Failure(Reason.INVALID_STATE, "The hold ended before its time: SUCCESS."))
    assert outcome(paid(), operation(Kind.EXPIRY), verdict) == ("SUCCESS", "FAILED")


# --- looking back -------------------------------------------------------------------------------------------------


def test_a_payment_can_be_shown_as_each_operation_left_it() -> None:
    """All but its version, of which nobody is told."""
    asked = [
        (operation(Kind.CAPTURE, amount=900, fee=18), 0),
        (operation(Kind.REFUND, amount=300), 300),
        (operation(Kind.REFUND, amount=600), 900),
    ]
    now, left = held(), []
    for number, (each, refunded) in enumerate(asked):
        now, done = concluded(now, begun(each, now, 0), DONE, LATER + number)
        left.append((done, refunded, now))

    shown = [as_left_by(now, done, refunded) for done, refunded, _ in left]
    assert shown == [replace(then, version=now.version) for _, _, then in left]


def test_a_hold_that_was_voided_stays_as_its_void_left_it() -> None:
    voided, done = concluded(held(), begun(operation(Kind.VOID), held(), 0), DONE, LATER)

    assert as_left_by(voided, done, 0) == voided
