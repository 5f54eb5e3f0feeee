"""Failpoints: named places on the way of the money at which a test can let things go wrong.

Each lies in front of, inside or behind a commit or a call of another service. In the product a point is one look at a
variable. Only the launcher of tests/chaos arms them, from inside the process that it has started: no setting reaches
them, and a test of tests/house sees to it that nothing in the product does.
"""

from collections.abc import Callable
from typing import Literal

Point = Literal[
    # Any transaction of the service named beside it: everything is written; then, COMMIT has succeeded.
    "commit.before",
    "commit.after",
    # T1, T2 and T3 of a payment, and recovery's claim of one that is overdue. `written`: not committed yet.
    "payment.begin.before",
    "payment.begin.written",
    "payment.move.before",
    "payment.move.after",
    "payment.settle.before",
    "payment.settle.written",
    "payment.claim.after",
    # The wallet's only writing transaction: groups of payments, direct debits and credits.
    "wallet.batch.before",
    "wallet.batch.written",
    # The outbox of the service named beside it: an event is handed over, and then removed.
    "relay.deliver.before",
    "relay.deliver.after",
    "relay.settle.written",
    "notification.batch.written",
    # A call of another process, by its path: nothing was sent yet; then, the answer is here.
    "door.call.before",
    "door.call.after",
]

Handler = Callable[[Point, str], None]
"""What happens at a point; the second argument is which of several like it was reached."""

_handler: Handler | None = None


def reached(point: Point, which: str = "") -> None:
    """Do nothing, unless a test has armed the points; then whatever it wants to happen here, an error for example."""
    if _handler is not None:
        _handler(point, which)


def arm(handler: Handler) -> None:
    """Have a function called at every point of this process from now on. For tests alone."""
    global _handler  # noqa: PLW0603  # one for the process, because a point must cost nothing
    _handler = handler
