"""Ledger tests as text: each line an operation and what it must answer.

    account  A1 100                            a customer's account with a balance of 100
    account  M1 0 MERCHANT                     the same for a merchant
    account  C1 0 unlimited                    an account that may go below zero
    missing  N1 CUSTOMER                       an owner who has a wallet, but no account in this currency
    freeze A1 · unfreeze A1 · close A1
    transfer T1 A1 A2 60            => posted  moves money at once
    hold     H1 A1 A2 60 timeout=5  => posted  sets money aside
    post     T2 A1 A2 40 of=H1      => posted  moves what was held; the rest is released
    void     T3 A1 A2 60 of=H1      => posted  releases it all
    group    T4 A1 A2 5 | hold H2 A1 M1 5 role=MERCHANT  => posted
    limit    A1 payment=50 day=90 month=99     what A1 may spend, from now on
    transfer T1 A1 M1 60 by=A1      => posted  counts towards the limits of A1; one `by` counts for the whole group
    post     T5 A1 A2 40 of=H1 ago=9           as of nine seconds ago: an order that was lost and comes again
    spent    A1 60 today 90 this month
    wait 5                                     seconds go by
    wait 3d                                    days go by
    expire   H1                     => True
    balance  A1 40 held 60

Amounts are minor units. The first day is January 1, 1970. Times and currencies that a table does not mention are the
same for all.
"""

from collections.abc import Mapping

from ewallet.kernel.clock import MICROSECONDS_PER_SECOND
from ewallet.wallet.domain.ledger import apply, expire, require_sound, sums
from ewallet.wallet.domain.limits import spent
from ewallet.wallet.domain.nouns import Account, Book, Kind, Limits, Transfer

CURRENCY = "USD"
KINDS = {"transfer": Kind.POSTED, "hold": Kind.PENDING, "post": Kind.POST, "void": Kind.VOID}


class Table:
    """Runs a table line by line on a book of its own; an answer that differs fails with the line."""

    def __init__(self) -> None:
        self.book = Book({})
        self.now = 0

    def run(self, text: str) -> None:
        for line in filter(None, (line.strip() for line in text.splitlines())):
            operation, _, expected = (part.strip() for part in line.partition("=>"))
            before = sums(self.book.accounts.values())
            answer = self._do(*operation.split(maxsplit=1))
            assert str(answer) == (expected or "None"), f"{line}   answered {answer}"
            if not operation.startswith("account"):
                require_sound(self.book, before)

    def _do(self, verb: str, rest: str) -> object:
        match verb, rest.split():
            case "account", [name, balance, *words]:
                self._open(name, int(balance), words)
            case "missing", [name, role]:
                self.book.roles[name] = role
            case (("freeze" | "unfreeze" | "close"), [name]):
                account = self.book.accounts[_id(name)]
                account.frozen, account.closed = verb == "freeze", verb == "close"
            case "limit", [name, *words]:
                limits = {f"per_{period}": int(amount) for period, amount in _options(words).items()}
                self.book.limits[_id(name)] = Limits(**limits)
            case "spent", [name, today, "today", this_month, "this", "month"]:
                account = self.book.accounts[_id(name)]
                assert spent(account, self.now) == (int(today), int(this_month)), spent(account, self.now)
            case "wait", [time]:
                seconds = int(time.removesuffix("d")) * (24 * 3600 if time.endswith("d") else 1)
                self.now += seconds * MICROSECONDS_PER_SECOND
            case "balance", [name, balance, "held", held]:
                account = self.book.accounts[_id(name)]
                assert (account.balance, account.debits_pending) == (int(balance), int(held)), account
            case "expire", [hold]:
                return expire(self.book, self.book.holds[hold], self.now)
            case "group", words:
                return self._apply([_part(part.split()) for part in rest.split("|")], _options(words))
            case _, words:
                return self._apply([_transfer(verb, words)], _options(words))
        return None

    def _open(self, name: str, balance: int, words: list[str]) -> None:
        role = next((word for word in words if word.isupper()), "CUSTOMER")
        limited = "unlimited" not in words
        account = Account(_id(name), name, role, CURRENCY, debits_must_not_exceed_credits=limited)
        account.credits_posted = balance
        self.book.accounts[account.id] = account

    def _apply(self, transfers: list[Transfer], options: Mapping[str, str]) -> str:
        as_of = self.now - int(options["ago"]) * MICROSECONDS_PER_SECOND if "ago" in options else None
        answer = apply(self.book, transfers, self.now, spender=options.get("by"), as_of=as_of)
        return "posted" if isinstance(answer, list) else answer


def _part(words: list[str]) -> Transfer:
    """A part of a group is a transfer where no other verb is given."""
    return _transfer(words[0], words[1:]) if words[0] in KINDS else _transfer("transfer", words)


def _transfer(verb: str, words: list[str]) -> Transfer:
    name, debit, credit, amount, *options = words
    given = _options(options)
    return Transfer(
        name,
        KINDS[verb],
        _id(debit),
        _id(credit),
        int(amount),
        given.get("currency", CURRENCY),
        given.get("role"),
        given.get("of"),
        int(given["timeout"]) if "timeout" in given else None,
    )


def _options(words: list[str]) -> dict[str, str]:
    return dict(word.split("=") for word in words if "=" in word)


def _id(name: str) -> str:
    """``A1`` is the owner of ``A1:USD``; a name with a colon is an account's id already."""
    return name if ":" in name else f"{name}:{CURRENCY}"
