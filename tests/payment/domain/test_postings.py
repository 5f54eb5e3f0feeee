"""What payments and operations ask of the ledger."""

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
    assert {leg.payee: leg.amount for leg in legs}.get(Side.FEES, 0) == fee


@given(amounts, st.data())
def test_the_legs_of_a_capture_add_up_to_what_is_captured_and_finish_the_hold(amount: int, data: st.DataObject) -> None:
    part = data.draw(st.integers(1, amount))
    fee = data.draw(st.integers(0, part - 1))
    hold = held(amount=amount, fee=0)
    (holding,) = group_of(Intent(hold)).legs

    net, *fees = group_of(Intent(hold, operation(Kind.CAPTURE, amount=part, fee=fee))).legs

    assert (net.move, net.finishes, net.amount) == (Move.POST, holding.id, part - fee)
    assert [(leg.move, leg.payee, leg.amount) for leg in fees] == ([(Move.POSTED, Side.FEES, fee)] if fee else [])


def test_a_hold_is_of_the_whole_amount_and_ends_by_itself() -> None:
    (holding,) = group_of(Intent(payment(hold_seconds=WEEK_SECONDS))).legs

    assert (holding.move, holding.payee, holding.amount) == (Move.PENDING, Side.MERCHANT, 1000)
    assert holding.hold_seconds == WEEK_SECONDS


def test_void_expiry_and_the_way_back_of_a_capture_release_the_whole_hold() -> None:
    hold, capture = held(), operation(Kind.CAPTURE, amount=400)

    groups = [
        group_of(Intent(hold, operation(Kind.VOID))),
        group_of(Intent(hold, operation(Kind.EXPIRY))),
        releasing(hold, capture),
    ]

    assert [moves(group) for group in groups] == [[(Move.VOID, Side.CUSTOMER, Side.MERCHANT, 1000)]] * 3
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
