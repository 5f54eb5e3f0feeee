"""Money: a whole number of minor units and a currency (ISO 4217). No floats, no division.

A share of an amount is taken with its rounding named: ``basis_points(amount, 200)`` is 2 %, half to even.
"""

from dataclasses import dataclass

MINIMUM_AMOUNT = 1
MAXIMUM_AMOUNT = 10**15
"""The contract's bound on one amount. Nine thousand such amounts still fit a signed 64-bit sum."""

CURRENCY_PATTERN = "^[A-Z]{3}$"

# ISO 4217's active codes by the number of decimals of their minor unit; a test compares this with the published list.
# Codes without a minor unit (gold, SDR, the test code) are no money that a wallet could hold.
_CODES_BY_DECIMALS = {
    0: "BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX UYI VND VUV XAF XOF XPF",
    2: "AED AFN ALL AMD AOA ARS AUD AWG AZN BAM BBD BDT BMD BND BOB BOV BRL BSD BTN BWP BYN BZD CAD CDF CHE CHF CHW "
    "CNY COP COU CRC CUP CVE CZK DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL GHS GIP GMD GTQ GYD HKD HNL HTG HUF IDR "
    "ILS INR IRR JMD KES KGS KHR KPW KYD KZT LAK LBP LKR LRD LSL MAD MDL MGA MKD MMK MNT MOP MRU MUR MVR MWK MXN MXV "
    "MYR MZN NAD NGN NIO NOK NPR NZD PAB PEN PGK PHP PKR PLN QAR RON RSD RUB SAR SBD SCR SDG SEK SGD SHP SLE SOS SRD "
    "SSP STN SVC SYP SZL THB TJS TMT TOP TRY TTD TWD TZS UAH USD USN UYU UZS VED VES WST XAD XCD XCG YER ZAR ZMW ZWG",
    3: "BHD IQD JOD KWD LYD OMR TND",
    4: "CLF UYW",
}
DECIMALS = {code: decimals for decimals, codes in _CODES_BY_DECIMALS.items() for code in codes.split()}
"""Every currency that the platform accepts, with the number of decimals of its minor unit."""

_BASIS_POINTS_PER_WHOLE = 10_000


class CurrenciesDiffer(ValueError):
    """Amounts of two currencies were about to be mixed: a bug in the caller."""


@dataclass(frozen=True, slots=True, order=False)
class Money:
    """``Money(12500, "USD")`` is 125.00 US dollars."""

    amount: int
    currency: str

    def __add__(self, other: "Money") -> "Money":
        self._require_same_currency(other)
        return Money(self.amount + other.amount, self.currency)

    def __sub__(self, other: "Money") -> "Money":
        self._require_same_currency(other)
        return Money(self.amount - other.amount, self.currency)

    def __neg__(self) -> "Money":
        return Money(-self.amount, self.currency)

    def _require_same_currency(self, other: "Money") -> None:
        if self.currency != other.currency:
            raise CurrenciesDiffer(f"{self.currency} and {other.currency} cannot be added or subtracted")

    def __str__(self) -> str:
        """``125.00 USD``: for logs and receipts, unlocalised."""
        decimals = DECIMALS[self.currency]
        sign = "-" if self.amount < 0 else ""
        digits = str(abs(self.amount)).rjust(decimals + 1, "0")
        if decimals == 0:
            return f"{sign}{digits} {self.currency}"
        return f"{sign}{digits[:-decimals]}.{digits[-decimals:]} {self.currency}"


def is_currency(code: str) -> bool:
    """Whether the platform knows this ISO 4217 code."""
    return code in DECIMALS


def basis_points(amount: int, points: int) -> int:
    """``points``/10,000 of ``amount`` minor units, rounded half to even to a whole minor unit (both not negative)."""
    quotient, remainder = divmod(amount * points, _BASIS_POINTS_PER_WHOLE)
    twice = 2 * remainder
    if twice > _BASIS_POINTS_PER_WHOLE or (twice == _BASIS_POINTS_PER_WHOLE and quotient % 2 == 1):
        return quotient + 1
    return quotient
