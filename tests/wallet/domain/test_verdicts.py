"""What a verdict means to a client."""

import pytest

from ewallet.kernel.errors import Reason
from ewallet.wallet.domain.verdicts import Verdict, refusal_of


@pytest.mark.parametrize("verdict", Verdict)
def test_every_verdict_has_a_reason_and_a_sentence_for_a_person(verdict: Verdict) -> None:
    refusal = refusal_of(verdict)

    assert 400 <= refusal.status < 500
    assert refusal.detail[0].isupper()
    assert refusal.detail[1:].upper() != refusal.detail[1:]
    assert refusal.detail.endswith(".")


@pytest.mark.parametrize("verdict", Verdict)
def test_a_verdict_is_spelled_like_its_name(verdict: Verdict) -> None:
    assert verdict.value == verdict.name.lower()


def test_an_order_that_cannot_be_is_told_what_is_wrong_with_it() -> None:
    assert refusal_of(Verdict.TIMEOUT_OUT_OF_RANGE).detail == "The order is not valid: timeout out of range."


@pytest.mark.parametrize(
    ("verdict", "reason"),
    [
        (Verdict.GROUP_WAS_ABANDONED, Reason.ABANDONED),
        (Verdict.LINKED_GROUP_WAS_REFUSED, Reason.BULK_REFUSED),
        (Verdict.EXCEEDS_LIMIT_PER_PAYMENT, Reason.LIMIT_EXCEEDED),
        (Verdict.EXCEEDS_LIMIT_PER_DAY, Reason.LIMIT_EXCEEDED),
        (Verdict.EXCEEDS_LIMIT_PER_MONTH, Reason.LIMIT_EXCEEDED),
        (Verdict.EXCEEDS_CREDITS, Reason.INSUFFICIENT_FUNDS),
        (Verdict.ACCOUNTS_MUST_BE_DIFFERENT, Reason.UNKNOWN_MERCHANT),
        (Verdict.CREDIT_OWNER_MUST_HAVE_THE_ROLE, Reason.UNKNOWN_MERCHANT),
        (Verdict.CREDIT_OWNER_NOT_FOUND, Reason.NOT_FOUND),
        (Verdict.CREDIT_ACCOUNT_NOT_FOUND, Reason.CURRENCY_MISMATCH),
        (Verdict.DEBIT_ACCOUNT_FROZEN, Reason.WALLET_FROZEN),
        (Verdict.CREDIT_ACCOUNT_CLOSED, Reason.WALLET_CLOSED),
        (Verdict.PENDING_TRANSFER_EXPIRED, Reason.INVALID_STATE),
        (Verdict.ID_ALREADY_TAKEN, Reason.IDEMPOTENCY_KEY_REUSED),
    ],
)
def test_the_contract_names_the_reason(verdict: Verdict, reason: Reason) -> None:
    assert refusal_of(verdict).reason is reason
