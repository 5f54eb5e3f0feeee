"""What clients want of the platform, and every answer that they get: the accountant's own record."""

import asyncio
import random
import time
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from tests.chaos.wire import Answer, NoAnswer, NotSent, Wire

CURRENCY = "USD"
PATIENCE_SECONDS = 180
"""Who has no definite answer by then is stuck; the platform is being killed again and again meanwhile."""

AT_ONCE = 700
"""Connections of all clients: below the thousand that a process may usually have."""

PAUSE_SECONDS = 0.05
LONGEST_PAUSE_SECONDS = 0.5


class Kind(StrEnum):
    """What can be ordered."""

    PAY = "pay"
    HOLD = "hold"
    CAPTURE = "capture"
    VOID = "void"
    REFUND = "refund"
    CREDIT = "credit"
    DEBIT = "debit"


PAYMENTS = {Kind.PAY, Kind.HOLD}
MOVEMENTS = {Kind.CREDIT, Kind.DEBIT}


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody with a token that outlives every test."""

    id: str
    role: str
    token: str


@dataclass(slots=True)
class Order:
    """One thing that is wanted once, however often it is asked for.

    ``key`` is its idempotency key, and its reference or reason in whatever the platform shows. ``by`` asks; ``owner``
    is whose wallet is meant. ``of`` is the payment that is captured, voided or refunded, which must be acknowledged.
    """

    kind: Kind
    key: str
    by: Person
    owner: Person
    amount: int
    merchant: Person | None = None
    of: "Order | None" = None
    sent: bool = False
    answers: list[Answer] = field(default_factory=list)

    @property
    def acknowledged(self) -> dict[str, Any] | None:
        """What the platform has said that it did; None where it has not said so."""
        return next((answer.body for answer in self.answers if answer.status in (200, 201)), None)

    @property
    def refused(self) -> bool:
        """Whether somebody was told that this will never be done."""
        return any(is_refusal(answer) for answer in self.answers)

    @property
    def settled(self) -> bool:
        return self.acknowledged is not None or self.refused

    @property
    def path(self) -> str:
        if self.of is not None and self.of.acknowledged is not None:
            return f"/payment/{self.of.acknowledged['transactionId']}/{self.kind}"
        return "/payment/initiate" if self.kind in PAYMENTS else f"/wallet/{self.kind}"

    @property
    def body(self) -> dict[str, Any]:
        match self.kind:
            case Kind.CAPTURE:
                return {"amount": self.amount}
            case Kind.VOID:
                return {}
            case Kind.REFUND:
                return {"amount": self.amount, "reason": self.key}
        order = {"amount": self.amount, "currency": CURRENCY, "reference": self.key}
        if self.merchant is None:
            return {"customerId": self.owner.id, **order}
        return {"merchantId": self.merchant.id, "capture": self.kind is Kind.PAY, **order}

    def __str__(self) -> str:
        return f"{self.kind} {self.key} of {self.amount}"


def is_refusal(answer: Answer) -> bool:
    """Whether an answer is definite. ``request-in-progress`` is none, and neither is 429: ask again."""
    if answer.status == 409:
        return not answer.body["type"].endswith("request-in-progress")
    return 400 <= answer.status < 500 and answer.status != 429


class Clients:
    """People in front of one platform. What they order stays in ``orders``."""

    def __init__(self, wire: Wire, orders: list[Order] | None = None) -> None:
        self.wire = wire
        self.orders = orders if orders is not None else []
        self._turns = asyncio.Semaphore(AT_ONCE)

    def order(
        self,
        kind: Kind,
        *,
        by: Person,
        owner: Person,
        amount: int,
        merchant: Person | None = None,
        of: Order | None = None,
    ) -> Order:
        """Write an order down; nothing is sent yet."""
        order = Order(kind, f"order-{len(self.orders)}", by, owner, amount, merchant, of)
        self.orders.append(order)
        return order

    async def carry_out(self, order: Order, *, within_seconds: float = PATIENCE_SECONDS) -> Answer | None:
        """Ask until there is a definite answer, as a good client does; None where there is none in time."""
        deadline, pause = time.monotonic() + within_seconds, PAUSE_SECONDS
        while time.monotonic() < deadline:
            answer = await self.ask(order)
            if answer is not None and (answer.status < 300 or is_refusal(answer)):
                return answer
            await asyncio.sleep(pause * random.uniform(0.5, 1))
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
        return None

    async def ask(self, order: Order) -> Answer | None:
        """Ask once, and write the answer down; None where there was none."""
        try:
            async with self._turns:
                answer = await self.wire.call(
                    "POST", order.path, order.body, token=order.by.token, headers={"Idempotency-Key": order.key}
                )
        except NotSent:
            return None
        except NoAnswer:
            order.sent = True
            return None
        order.sent = True
        order.answers.append(answer)
        return answer
