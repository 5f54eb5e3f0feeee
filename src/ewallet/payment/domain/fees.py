"""The fee: the platform's share of a payment, by a schedule that the operator configures."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from ewallet.kernel.errors import Reason, Refusal
from ewallet.kernel.money import Money, basis_points, is_currency


class FeesWrong(ValueError):
    """A fee schedule that cannot be; the message is a sentence for the person who configured it."""


@dataclass(frozen=True, slots=True)
class FeeRule:
    """A share in basis points (hundredths of a percent) plus a fixed part in minor units."""

    basis_points: int
    fixed: int = 0

    def fee(self, amount: int) -> int:
        """The fee on an amount: the share rounded half to even to a whole minor unit, plus the fixed part."""
        return basis_points(amount, self.basis_points) + self.fixed


_ENTRY = re.compile(r"([A-Z]{3})=(\d{1,5})\+(\d{1,15})", re.ASCII)
_MAXIMUM_BASIS_POINTS = 10_000


@dataclass(frozen=True, slots=True)
class FeeSchedule:
    """The fee of every currency; ``default`` applies where ``by_currency`` has no entry."""

    default: FeeRule
    by_currency: Mapping[str, FeeRule] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str, *, default_basis_points: int) -> "FeeSchedule":
        """Read ``USD=200+30,JPY=150+0``; FeesWrong names the entry that is wrong."""
        by_currency: dict[str, FeeRule] = {}
        for entry in filter(None, (part.strip() for part in text.split(","))):
            currency, rule = _parse_entry(entry)
            if currency in by_currency:
                raise FeesWrong(f"{currency} is there twice.")
            by_currency[currency] = rule
        return cls(FeeRule(default_basis_points), by_currency)

    def of(self, amount: int, currency: str) -> int:
        """The fee on an amount, though it may leave nothing of it."""
        return self.by_currency.get(currency, self.default).fee(amount)

    def fee_on(self, amount: int, currency: str) -> int | Refusal:
        """The fee on a payment. Refused with ``amount-too-small`` where nothing would be left for the merchant."""
        fee = self.of(amount, currency)
        if fee >= amount:
            fee_shown, amount_shown = Money(fee, currency), Money(amount, currency)
            detail = f"The fee of {fee_shown} leaves nothing of {amount_shown} for the merchant: pay more at once."
            return Refusal(Reason.AMOUNT_TOO_SMALL, detail)
        return fee


def _parse_entry(entry: str) -> tuple[str, FeeRule]:
    found = _ENTRY.fullmatch(entry)
    if found is None:
        raise FeesWrong(f"{entry!r} does not look like USD=200+30 (basis points plus a fixed part in minor units).")
    currency, rule = found[1], FeeRule(int(found[2]), int(found[3]))
    if not is_currency(currency):
        raise FeesWrong(f"{currency} is not a currency of ISO 4217 that the platform knows.")
    if rule.basis_points > _MAXIMUM_BASIS_POINTS:
        raise FeesWrong(f"{entry!r} has too many basis points: {_MAXIMUM_BASIS_POINTS} are the whole amount.")
    return currency, rule
