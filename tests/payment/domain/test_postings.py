"""What payments and operations ask of the ledger."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ewallet.kernel.money import MAXIMUM_AMOUNT
from ewallet.payment.domain.operations import Intent, Kind
from ewallet.payment.domain.postings import Group, Move, Side, group_of, releasing
from tests.payment.domain.values import WEEK_SECONDS, held, operation, paid, payment

amounts = st.integers(1, MAXIMUM_AMOUNT)


def moves(group: Group) -> list[tuple[Move, Side, Side, int]]:
    return [(leg.move, leg.payer, leg.payee, leg.amount) for leg in group.legs]


@given(amounts, st.data())
def test_the_legs_of_a_payment_add_up_to_what_the_customer_pays(amount: int, data: st.DataObject) -> None:
    fee = data.draw(st.integers(0, amount - 1))

    legs = group_of(Intent(payment(amount=amount, fee=fee))).legs

    assert sum(leg.amount for leg in legs) == amount
    assert all(leg.amount > 0 and leg.payer is Side.CUSTOMER and leg.move is Move.POSTED for leg in legs)
    assert {leg.payee: leg.amount for leg in legs} == {Side.MERCHANT: amount - fee} | ({Side.FEES: fee} if fee else {})


@given(amounts, st.data())
def test_the_legs_of_a_capture_add_up_to_what_is_captured_and_finish_the_hold(amount: int, data: st.DataObject) -> None:
    part = data.draw(st.integers(1, amount))
    fee = data.draw(st.integers(0, part - 1))
    hold = held(amount=amount, fee=0)
    (holding,) = group_of(Intent(hold)).legs

    net, *fees = group_of(Intent(hold, operation(Kind.CAPTURE, amount=part, fee=fee))).legs

    assert (net.move, net.finishes, net.amount) == (Move.POST, holding.id, part - fee)
    assert (net.payer, net.payee) == (Side.CUSTOMER, Side.MERCHANT)
    assert [(leg.move, leg.payee, leg.amount) for leg in fees] == ([(Move.POSTED, Side.FEES, fee)] if fee else [])


def test_a_hold_is_of_the_whole_amount_and_ends_by_itself() -> None:
    (holding,) = group_of(Intent(payment(hold_seconds=WEEK_SECONDS))).legs

    assert (holding.move, holding.payer, holding.payee) == (Move.PENDING, Side.CUSTOMER, Side.MERCHANT)
    assert holding.amount == 1000
    assert holding.hold_seconds == WEEK_SECONDS


def test_void_expiry_and_the_way_back_of_a_capture_release_the_whole_hold() -> None:
    hold, capture = held(), operation(Kind.CAPTURE, amount=400)

    groups = [
        group_of(Intent(hold, operation(Kind.VOID))),
        group_of(Intent(hold, operation(Kind.EXPIRY))),
        releasing(hold, capture),
    ]

    assert [moves(group) for group in groups] == [[(Move.VOID, Side.CUSTOMER, Side.MERCHANT, 1000)]] * 3
    (holding,) = group_of(Intent(hold)).legs
    assert {leg.finishes for group in groups for leg in group.legs} == {holding.id}
    assert releasing(hold, capture).id != group_of(Intent(hold, capture)).id


def test_a_refund_goes_from_the_merchant_to_the_customer() -> None:
    group = group_of(Intent(paid(), operation(Kind.REFUND, amount=300)))

    assert moves(group) == [(Move.POSTED, Side.MERCHANT, Side.CUSTOMER, 300)]


def test_a_step_that_is_repeated_has_the_same_ids_and_everything_else_has_others() -> None:
    one, other = payment(), payment(id="pay_01m3250v000gdbp3tn14t1q2bn")
    capture, second = operation(Kind.CAPTURE, fee=5), operation(Kind.CAPTURE, fee=5)
    intents = [Intent(one), Intent(other), Intent(held(), capture), Intent(held(), second)]

    groups = [group_of(intent) for intent in intents]

    assert groups == [group_of(intent) for intent in intents]
    assert len({group.id for group in groups}) == 4
    assert len({leg.id for group in groups for leg in group.legs}) == 8


# The ids of steps are stored by the ledger for ever. A release that derived others would not find what an earlier one
# has done, and would do it again.


def test_the_ids_of_a_payment_are_what_they_were_in_every_release() -> None:
    paying, holding = group_of(Intent(payment())), group_of(Intent(payment(hold_seconds=60)))

    assert paying.id == holding.id == "grp_01m3250v00e4043a37a682da7e"
    assert [leg.id for leg in paying.legs] == ["trf_01m3250v00a83fe7f2f71b0377", "trf_01m3250v00ce3c1430e18cc5d9"]
    assert [leg.id for leg in holding.legs] == ["trf_01m3250v003d5c25d9bd3f0804"]


@pytest.mark.parametrize(
    ("kind", "group_id", "leg_ids"),
    [
        (
            Kind.CAPTURE,
            "grp_01m3250v0030ec846fa0c91599",
            ["trf_01m3250v006208eb7ad1711ee9", "trf_01m3250v0005c7f3bea6854426"],
        ),
        (Kind.VOID, "grp_01m3250v00863a5d3795adbbc3", ["trf_01m3250v009723341a55f49d43"]),
        (Kind.EXPIRY, "grp_01m3250v0064a7d4a45d989e5b", ["trf_01m3250v00bc3c3ce5121905c1"]),
        (Kind.REFUND, "grp_01m3250v0037c84c331000da66", ["trf_01m3250v006a61bd788f41d4b1"]),
    ],
)
def test_the_ids_of_an_operation_are_what_they_were_in_every_release(
    kind: Kind, group_id: str, leg_ids: list[str]
) -> None:
    group = group_of(Intent(held(), operation(kind, id=f"{kind.prefix}_01m3250v000gdbp3tn14t1q2bn", fee=5)))

    assert group.id == group_id
    assert [leg.id for leg in group.legs] == leg_ids
