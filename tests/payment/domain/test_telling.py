"""What is told about payments, and to whom."""

import pytest

from ewallet.kernel.errors import Reason, Refusal
from ewallet.payment.domain.operations import Intent, Kind, OperationStatus
from ewallet.payment.domain.payments import Charge, Failure, PaymentStatus, captured, refunded, settled
from ewallet.payment.domain.telling import audit_action, event_data, event_name, recipients, refusal_of
from tests.payment.domain.values import NOW, OVER, REFUSED, held, operation, paid, payment


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


@pytest.mark.parametrize("status", sorted(set(PaymentStatus) - {PaymentStatus.PENDING}))
def test_every_state_but_the_first_has_its_event(status: PaymentStatus) -> None:
    assert event_name(payment(status=status)).startswith("payment.")


def test_the_event_of_a_capture_tells_what_was_captured() -> None:
    data = event_data(captured(held(), Charge(400, 8), NOW), operation(Kind.CAPTURE))

    assert (data["amount"], data["fee"], data["netAmount"]) == (400, 8, 392)


def test_the_event_of_a_refund_tells_the_part_that_went_back() -> None:
    refund = operation(Kind.REFUND, amount=300, reason="torn page")

    data = event_data(refunded(paid(refunded_amount=100), 300, NOW), refund)

    assert (data["amount"], data["refundedAmount"], data["refundId"], data["reason"]) == (
        300,
        400,
        refund.id,
        "torn page",
    )
    assert data.keys().isdisjoint({"fee", "netAmount"})


def test_the_audit_names_the_outcome_of_a_payment_and_the_operation_that_was_asked_for() -> None:
    assert audit_action(paid(), None) == "payment.succeeded"
    assert audit_action(held(), operation(Kind.CAPTURE)) == "payment.capture"


def test_what_failed_is_refused_in_the_words_of_its_first_request() -> None:
    failed = settled(payment(), REFUSED, NOW)
    late = operation(Kind.CAPTURE, status=OperationStatus.FAILED, failure=OVER)

    assert refusal_of(Intent(failed)) == Refusal(
        Reason.INSUFFICIENT_FUNDS,
        "The balance is too small.",
        members={"requestId": "req_first", "transactionId": failed.id, "failureReason": "INSUFFICIENT_FUNDS"},
    )
    assert refusal_of(Intent(paid(), late)) == Refusal(
        Reason.INVALID_STATE,
        "The hold has ended.",
        members={"requestId": "req_operation", "transactionId": failed.id, "failureReason": "INVALID_STATE"},
    )
    assert refusal_of(Intent(paid())) is None
    assert refusal_of(Intent(failed, operation(Kind.CAPTURE))) is None


def test_what_the_ledger_adds_to_a_refusal_is_told() -> None:
    limited = Failure(Reason.INSUFFICIENT_FUNDS, "Too much.", {"limit": "perDay", "left": 5})

    refusal = refusal_of(Intent(settled(payment(), limited, NOW)))

    assert refusal is not None
    assert (refusal.members["limit"], refusal.members["left"]) == ("perDay", 5)
