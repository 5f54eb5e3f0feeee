"""How an event is put into words for each person who has a part in it. Pure, and the same words every time."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from ewallet.kernel.errors import Refusal, invalid
from ewallet.kernel.money import DECIMALS, Money


class Unrenderable(ValueError):
    """An event that cannot be put into words: a bug of its sender, for which no other event should wait."""


class Part(StrEnum):
    """What a recipient has to do with an event."""

    PAYER = "payer"
    PAYEE = "payee"
    OWNER = "owner"


@dataclass(frozen=True, slots=True)
class Text:
    """What a person reads: the title alone must make sense on a locked screen."""

    title: str
    body: str


EVENTS = frozenset(
    {
        "payment.succeeded",
        "payment.failed",
        "payment.authorized",
        "payment.voided",
        "payment.expired",
        "payment.refunded",
        "wallet.credited",
        "wallet.debited",
        "wallet.frozen",
        "wallet.unfrozen",
    }
)
"""Every event that has words."""

SECURITY_EVENTS = frozenset({"wallet.frozen", "wallet.unfrozen"})
"""What nobody can choose not to be told: it may be the only sign that somebody else is at work."""


@dataclass(frozen=True, slots=True)
class Language:
    """How events are told in one locale.

    In braces stand members of an event's data; ``purpose`` is a payment's reference in a sentence. ``failures`` are by
    reason, ``money`` writes an amount as people there do.
    """

    texts: Mapping[tuple[str, Part], Text]
    purpose: str
    failures: Mapping[str, str]
    money: Callable[[Money], str]


@dataclass(frozen=True, slots=True)
class Languages:
    """Every language that there is, by its locale; ``default`` is that of who has chosen none."""

    by_locale: Mapping[str, Language]
    default: str

    def tell(self, event: str, data: Mapping[str, Any], recipients: Iterable[str]) -> dict[str, Text]:
        """An event in the default language; see :func:`render`. Unrenderable."""
        return render(self.by_locale[self.default], event, data, recipients)

    def translated(self, text: Text, locale: str | None, *, event: str, data: Mapping[str, Any], reader: str) -> Text:
        """What was told to a reader in the default language, as the reader's has it; the same where that cannot be."""
        if locale is None or locale == self.default or locale not in self.by_locale:
            return text
        try:
            return render(self.by_locale[locale], event, data, [reader])[reader]
        except Unrenderable:  # an old event, and a text that has been changed since
            return text


def parts(event: str) -> tuple[Part, ...]:
    """Who may have a part in an event."""
    return (Part.OWNER,) if event.startswith("wallet.") else (Part.PAYER, Part.PAYEE)


def check_events(pointer: str, events: Sequence[str], known: frozenset[str]) -> Refusal | None:
    """Whether somebody can ask for these events, in the field ``pointer``. Refused with ``validation-error``."""
    for place, event in enumerate(events):
        if event not in known:
            return invalid(f"{pointer}/{place}", f"There is no event {event!r}; there are {', '.join(sorted(known))}.")
    return None


def render(language: Language, event: str, data: Mapping[str, Any], recipients: Iterable[str]) -> dict[str, Text]:
    """Put an event into words for its recipients, by their user ids.

    Unrenderable: unknown event, a recipient without a part in it, or data that the words need and lack.
    """
    if event not in EVENTS:
        raise Unrenderable(f"there are no words for the event {event!r}")
    words = _Words(language, data)
    texts = {recipient: language.texts[event, _part(event, data, recipient)] for recipient in recipients}
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

    def __init__(self, language: Language, data: Mapping[str, Any]) -> None:
        self._language = language
        self._data = data

    def __missing__(self, name: str) -> str:
        word = self[name] = self._word(name)
        return word

    def _word(self, name: str) -> str:
        match name:
            case "amount" | "fee" | "netAmount" | "available":
                return self._money(name)
            case "purpose":
                return self._language.purpose.format_map(self) if self._data.get("reference") else ""
            case "failureReason":
                reason = self._text(name)
                return self._language.failures.get(reason, reason.replace("_", " ").lower())
            case "reason":
                return self._text(name).removesuffix(".")
            case _:
                return self._text(name)

    def _money(self, name: str) -> str:
        amount, currency = self._data.get(name), self._text("currency")
        if type(amount) is not int or currency not in DECIMALS:
            raise Unrenderable(f"{name!r} is no amount of money")
        return self._language.money(Money(amount, currency))

    def _text(self, name: str) -> str:
        text = self._data.get(name)
        if not isinstance(text, str) or not text:
            raise Unrenderable(f"{name!r} is missing")
        return text
