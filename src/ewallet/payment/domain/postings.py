"""What a payment and the operations on it ask of the ledger. Every id is the same however often a step is repeated."""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum, StrEnum, auto
from typing import assert_never

from ewallet.kernel.ids import derived_id
from ewallet.payment.domain.operations import Intent, Kind, Operation
from ewallet.payment.domain.payments import Charge, Payment


class Side(Enum):
    """Whose account money leaves or reaches."""

    CUSTOMER = auto()
    MERCHANT = auto()
    FEES = auto()


class Move(StrEnum):
    """POSTED moves money at once; PENDING holds it; POST and VOID finish the payment's hold. The ledger's words."""

    POSTED = "POSTED"
    PENDING = "PENDING"
    POST = "POST"
    VOID = "VOID"


@dataclass(frozen=True, slots=True)
class Leg:
    """One transfer. ``finishes`` is the id of the hold that POST and VOID finish."""

    id: str
    move: Move
    payer: Side
    payee: Side
    amount: int
    finishes: str | None = None
    hold_seconds: int | None = None


@dataclass(frozen=True, slots=True)
class Group:
    """Legs that happen all together or not at all, under the id by which the ledger keeps their outcome."""

    id: str
    legs: tuple[Leg, ...]


def group_of(intent: Intent) -> Group:
    """What carries an intent out."""
    payment, operation = intent.payment, intent.operation
    if operation is None:
        return Group(derived_id("grp", payment.id, "pay"), tuple(_paying(payment)))
    match operation.kind:
        case Kind.CAPTURE:
            return Group(derived_id("grp", operation.id, "capture"), tuple(_capturing(payment, operation)))
        case Kind.VOID | Kind.EXPIRY:
            return releasing(payment, operation)
        case Kind.REFUND:
            back = Leg(
                derived_id("trf", operation.id, "refund"), Move.POSTED, Side.MERCHANT, Side.CUSTOMER, operation.amount
            )
            return Group(derived_id("grp", operation.id, "refund"), (back,))
    assert_never(operation.kind)


def releasing(payment: Payment, operation: Operation) -> Group:
    """What gives a hold up: on purpose, because its time is over, or because its capture was refused for good."""
    void = Leg(
        derived_id("trf", operation.id, "void"),
        Move.VOID,
        Side.CUSTOMER,
        Side.MERCHANT,
        payment.amount,
        finishes=_hold_id(payment),
    )
    return Group(derived_id("grp", operation.id, "void"), (void,))


def _paying(payment: Payment) -> Iterator[Leg]:
    """The whole amount as a hold for the merchant, or net amount and fee, if any, at once."""
    if payment.hold_seconds is None:
        net_id = derived_id("trf", payment.id, "net")
        yield Leg(net_id, Move.POSTED, Side.CUSTOMER, Side.MERCHANT, payment.charge.net)
        yield from _fee(payment.id, payment.charge)
    else:
        yield Leg(
            _hold_id(payment),
            Move.PENDING,
            Side.CUSTOMER,
            Side.MERCHANT,
            payment.amount,
            hold_seconds=payment.hold_seconds,
        )


def _capturing(payment: Payment, capture: Operation) -> Iterator[Leg]:
    """The net amount out of the hold, whose end releases all the rest; out of that comes the fee, if any."""
    charge, net_id = Charge(capture.amount, capture.fee), derived_id("trf", capture.id, "net")
    yield Leg(net_id, Move.POST, Side.CUSTOMER, Side.MERCHANT, charge.net, finishes=_hold_id(payment))
    yield from _fee(capture.id, charge)


def _fee(source: str, charge: Charge) -> Iterator[Leg]:
    if charge.fee:
        yield Leg(derived_id("trf", source, "fee"), Move.POSTED, Side.CUSTOMER, Side.FEES, charge.fee)


def _hold_id(payment: Payment) -> str:
    return derived_id("trf", payment.id, "hold")
