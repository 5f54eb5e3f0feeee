"""Reasons, kinds and statuses: the contract's table of problems."""

import pytest

from ewallet.kernel.errors import Reason, Refusal, Refused, invalid, kind_of, not_found, status_of, unwrap

CONTRACT = {
    400: {"malformed-request", "idempotency-key-invalid"},
    401: {"invalid-token", "invalid-credentials"},
    402: {"insufficient-funds"},
    403: {"forbidden"},
    404: {"not-found"},
    405: {"method-not-allowed"},
    406: {"not-acceptable"},
    409: {"wallet-frozen", "wallet-closed", "request-in-progress", "invalid-state", "email-taken", "abandoned"},
    413: {"content-too-large"},
    414: {"uri-too-long"},
    415: {"unsupported-media-type"},
    422: {
        "validation-error",
        "currency-mismatch",
        "unknown-merchant",
        "idempotency-key-reused",
        "amount-too-small",
        "limit-exceeded",
        "bulk-refused",
    },
    429: {"too-many-requests"},
    431: {"header-too-large"},
    500: {"internal-error"},
    503: {"service-unavailable", "storage-unavailable"},
    504: {"timeout"},
}


def test_every_reason_has_the_status_that_the_contract_gives_it() -> None:
    ours: dict[int, set[str]] = {}
    for reason in Reason:
        ours.setdefault(status_of(kind_of(reason)), set()).add(reason.value)
    assert ours == CONTRACT


def test_a_reason_has_an_upper_case_code() -> None:
    assert Reason.INSUFFICIENT_FUNDS.code == "INSUFFICIENT_FUNDS"


def test_unwrap_gives_the_answer_or_raises_the_refusal() -> None:
    assert unwrap(7) == 7
    refusal = invalid("/amount", "must be at least 1")
    with pytest.raises(Refused, match="at least 1") as raised:
        unwrap(refusal)
    assert raised.value.refusal is refusal


def test_what_is_not_yours_reads_like_what_is_not_there() -> None:
    assert not_found("payment") == Refusal(Reason.NOT_FOUND, "There is no such payment, or it is not yours.")
