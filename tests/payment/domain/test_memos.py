"""Whatever payment has written down can be written down again from the memo."""

import json
from dataclasses import replace
from typing import Any

import pytest

from ewallet.payment.domain.memos import memo_of, operation_from, payment_from
from ewallet.payment.domain.operations import Intent, Kind, expiry_of
from ewallet.payment.domain.payments import Payment
from tests.payment.domain.values import held, operation, paid, payment

OF_THE_ORDER = (
    "customer_id",
    "merchant_id",
    "amount",
    "currency",
    "reference",
    "description",
    "hold_seconds",
    "request_id",
)


def through_the_wallet(memo: dict[str, Any] | None) -> dict[str, Any]:
    """The memo as it comes back, after it was JSON."""
    assert memo is not None
    back: dict[str, Any] = json.loads(json.dumps(memo))
    return back


@pytest.mark.parametrize(
    "begun",
    [
        payment(),
        payment(identity="usr_payer key-1", metadata={"table": "7"}, reference="order-1", description="tea"),
        payment(hold_seconds=60),
    ],
)
def test_a_payment_comes_back_as_it_was_begun(begun: Payment) -> None:
    memo = through_the_wallet(memo_of(Intent(begun)))

    again = payment_from(memo, begun.id, **{name: getattr(begun, name) for name in OF_THE_ORDER})

    assert again == begun
    assert memo_of(Intent(again)) == memo


@pytest.mark.parametrize("kind", [Kind.CAPTURE, Kind.VOID, Kind.REFUND])
@pytest.mark.parametrize("changes", [{}, {"identity": "usr_payee key-2", "reason": "broken", "fee": 20}])
def test_an_operation_comes_back_as_it_was_begun(kind: Kind, changes: dict[str, Any]) -> None:
    begun = operation(kind, **changes)
    memo = through_the_wallet(memo_of(Intent(held(), begun)))

    again = operation_from(memo, begun.payment_id, begun.request_id)

    assert again == begun
    assert through_the_wallet(memo_of(Intent(held(), again))) == memo


def test_the_memo_stays_the_same_whatever_becomes_of_the_payment() -> None:
    """It is part of the order, and an order must be the same however often it is sent."""
    assert memo_of(Intent(held())) == memo_of(Intent(replace(held(), version=7, refunded_amount=5, updated_at=9**9)))


def test_what_was_not_said_is_not_in_the_memo() -> None:
    """It is stored with every payment, for ever."""
    assert "metadata" not in through_the_wallet(memo_of(Intent(payment())))
    assert "reason" not in through_the_wallet(memo_of(Intent(paid(), operation(Kind.REFUND))))


def test_an_expiry_has_no_memo() -> None:
    assert memo_of(Intent(held(), expiry_of(held()))) is None
