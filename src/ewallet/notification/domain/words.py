"""How an event is put into words for each person who has a part in it. Pure, and the same words every time."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

from ewallet.kernel.errors import Refusal, invalid
from ewallet.kernel.money import DECIMALS, Money


class Unrenderable(ValueError):
    """An event that cannot be put into words: a bug of its sender, for which no other event should wait."""


class Part(Enum):
    """What a recipient has to do with an event."""

    PAYER = auto()
    PAYEE = auto()
    OWNER = auto()


@dataclass(frozen=True, slots=True)
class Text:
    """What a person reads: the title alone must make sense on a locked screen."""

    title: str
    body: str


# The words in braces are members of the event's data, and `purpose` its reference if it has one (see _Words). The
# `amount` of a refund is the part refunded.
_TEXTS = {
    ("payment.succeeded", Part.PAYER): Text(
        "You paid {amount}",
        "To {merchantId}{purpose}.",
    ),
    ("payment.succeeded", Part.PAYEE): Text(
        "You received {netAmount}",
        "From {customerId}{purpose}: {amount} less a fee of {fee}.",
    ),
    ("payment.failed", Part.PAYER): Text(
        "Your payment of {amount} failed",
        "To {merchantId}{purpose}: {failureReason}. You were not charged.",
    ),
    ("payment.failed", Part.PAYEE): Text(
        "A payment of {amount} to you failed",
        "From {customerId}{purpose}: {failureReason}. You were not paid.",
    ),
    ("payment.authorized", Part.PAYER): Text(
        "{amount} is held for a payment",
        "To {merchantId}{purpose}. You pay when the merchant captures it.",
    ),
    ("payment.authorized", Part.PAYEE): Text(
        "A payment of {amount} is ready to capture",
        "From {customerId}{purpose}. The money is held for you.",
    ),
    ("payment.voided", Part.PAYER): Text(
        "A payment of {amount} was cancelled",
        "To {merchantId}{purpose}. The money is available to you again.",
    ),
    ("payment.voided", Part.PAYEE): Text(
        "A payment of {amount} to you was cancelled",
        "From {customerId}{purpose}. The money is no longer held.",
    ),
    ("payment.expired", Part.PAYER): Text(
        "A payment of {amount} has expired",
        "To {merchantId}{purpose}: it was not captured in time. The money is available to you again.",
    ),
    ("payment.expired", Part.PAYEE): Text(
        "A payment of {amount} to you has expired",
        "From {customerId}{purpose}: it was not captured in time. The money is no longer held.",
    ),
    ("payment.refunded", Part.PAYER): Text(
        "You got {amount} back",
        "From {merchantId}{purpose}.",
    ),
    ("payment.refunded", Part.PAYEE): Text(
        "You refunded {amount}",
        "To {customerId}{purpose}.",
    ),
    ("wallet.credited", Part.OWNER): Text(
        "{amount} was added to your wallet",
        "You have {available} available. Reference: {reference}.",
    ),
    ("wallet.debited", Part.OWNER): Text(
        "{amount} was taken from your wallet",
        "You have {available} available. Reference: {reference}.",
    ),
    ("wallet.frozen", Part.OWNER): Text(
        "Your wallet is frozen",
        "No money moves until it is unfrozen. Reason: {reason}.",
    ),
    ("wallet.unfrozen", Part.OWNER): Text(
        "Your wallet is active again",
        "Money moves as before. Reason: {reason}.",
    ),
}

EVENTS = frozenset(event for event, _ in _TEXTS)
"""Every event that has words."""

SECURITY_EVENTS = frozenset({"wallet.frozen", "wallet.unfrozen"})
"""What nobody can choose not to be told: it may be the only sign that somebody else is at work."""

_FAILURES = {
    "INSUFFICIENT_FUNDS": "the available balance was too small",
    "WALLET_FROZEN": "the wallet of one side is frozen",
    "WALLET_CLOSED": "the wallet of one side is closed",
    "CURRENCY_MISMATCH": "the wallet of one side has no balance in this currency",
    "UNKNOWN_MERCHANT": "there is no such merchant",
    "AMOUNT_TOO_SMALL": "the amount would not cover the fee",
    "LIMIT_EXCEEDED": "the amount is over a limit",
    "ABANDONED": "it could not be carried out in time",
}


def check_events(pointer: str, events: Sequence[str], known: frozenset[str]) -> Refusal | None:
    """Whether somebody can ask for these events, in the field ``pointer``. Refused with ``validation-error``."""
    for place, event in enumerate(events):
        if event not in known:
            return invalid(f"{pointer}/{place}", f"There is no event {event!r}; there are {', '.join(sorted(known))}.")
    return None


def render(event: str, data: Mapping[str, Any], recipients: Iterable[str]) -> dict[str, Text]:
    """Put an event into words for its recipients, by their user ids.

    Unrenderable: unknown event, a recipient without a part in it, or data that the words need and lack.
    """
    if event not in EVENTS:
        raise Unrenderable(f"there are no words for the event {event!r}")
    words = _Words(data)
    texts = {recipient: _TEXTS[event, _part(event, data, recipient)] for recipient in recipients}
    return {
        recipient: Text(text.title.format_map(words), text.body.format_map(words)) for recipient, text in texts.items()
    }


def _part(event: str, data: Mapping[str, Any], recipient: str) -> Part:
    """Which part the recipient has; who would pay himself is told as the payer."""
    if data.get("customerId") == recipient:
        return Part.OWNER if event.startswith("wallet.") else Part.PAYER
    if data.get("merchantId") == recipient and event.startswith("payment."):
        return Part.PAYEE
    raise Unrenderable(f"{recipient!r} has no part in this {event}")


class _Words(dict[str, str]):
    """The words that texts ask for, made of an event's data; each is made once, however many texts use it."""

    def __init__(self, data: Mapping[str, Any]) -> None:
        self._data = data

    def __missing__(self, name: str) -> str:
        word = self[name] = self._word(name)
        return word

    def _word(self, name: str) -> str:
        match name:
            case "amount" | "fee" | "netAmount" | "available":
                return self._money(name)
            case "purpose":
                return f" for {self._text('reference')}" if self._data.get("reference") else ""
            case "failureReason":
                reason = self._text(name)
                return _FAILURES.get(reason, reason.replace("_", " ").lower())
            case "reason":
                return self._text(name).removesuffix(".")
            case _:
                return self._text(name)

    def _money(self, name: str) -> str:
        amount, currency = self._data.get(name), self._text("currency")
        if type(amount) is not int or currency not in DECIMALS:
            raise Unrenderable(f"{name!r} is no amount of money")
        return str(Money(amount, currency))

    def _text(self, name: str) -> str:
        text = self._data.get(name)
        if not isinstance(text, str) or not text:
            raise Unrenderable(f"{name!r} is missing")
        return text
