"""Random operations on the ledger, compared at every step with an oracle that shares no code with it."""

from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from ewallet.wallet.domain.ledger import apply, expire, require_sound, sums
from ewallet.wallet.domain.nouns import Account, Book, Kind, Transfer

NAMES = ("cash", "a", "b", "c")
SECOND = 1_000_000

names = st.sampled_from(NAMES)
amounts = st.integers(1, 120)


@dataclass
class Oracle:
    """What must be true, said as plainly as possible: money is a list of moves, a hold is a row until it ends."""

    moves: list[tuple[str, str, int]] = field(default_factory=list)
    holds: dict[str, tuple[str, str, int, int | None]] = field(default_factory=dict)
    frozen: set[str] = field(default_factory=set)

    def balance(self, name: str) -> int:
        return sum(n for _, to, n in self.moves if to == name) - sum(n for by, _, n in self.moves if by == name)

    def held(self, name: str) -> int:
        return sum(amount for by, _, amount, _ in self.holds.values() if by == name)

    def may_pay(self, by: str, to: str, amount: int) -> bool:
        enough = by == "cash" or self.balance(by) - self.held(by) >= amount
        return by != to and not self.frozen & {by, to} and enough

    def pay_all(self, moves: list[tuple[str, str, int]]) -> bool:
        kept = list(self.moves)
        for move in moves:
            if not self.may_pay(*move):
                self.moves = kept
                return False
            self.moves.append(move)
        return True

    def hold(self, name: str, by: str, to: str, amount: int, until: int | None) -> bool:
        if self.may_pay(by, to, amount):
            self.holds[name] = (by, to, amount, until)
            return True
        return False

    def post(self, name: str, amount: int, now: int) -> bool:
        by, to, held, until = self.holds[name]
        if amount > held or self.frozen & {by, to} or (until is not None and until <= now):
            return False
        del self.holds[name]
        self.moves.append((by, to, amount))
        return True


class LedgerAgainstOracle(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.oracle = Oracle()
        self.now = 0
        self.number = 0
        self.book = Book(
            {f"{name}:USD": Account(f"{name}:USD", name, "CUSTOMER", "USD", name != "cash") for name in NAMES}
        )

    def order(
        self, kind: Kind, by: str, to: str, amount: int, *, of: str | None = None, timeout: int | None = None
    ) -> Transfer:
        self.number += 1
        return Transfer(f"T{self.number}", kind, f"{by}:USD", f"{to}:USD", amount, "USD", None, of, timeout)

    def applied(self, *transfers: Transfer) -> bool:
        return isinstance(apply(self.book, transfers, self.now), list)

    @rule(to=names, amount=amounts)
    def put_in(self, to: str, amount: int) -> None:
        assert self.applied(self.order(Kind.POSTED, "cash", to, amount)) == self.oracle.pay_all([("cash", to, amount)])

    @rule(moves=st.lists(st.tuples(names, names, amounts), min_size=1, max_size=4))
    def move_group(self, moves: list[tuple[str, str, int]]) -> None:
        assert self.applied(*(self.order(Kind.POSTED, *move) for move in moves)) == self.oracle.pay_all(moves)

    @rule(by=names, to=names, amount=amounts, timeout=st.none() | st.integers(1, 30))
    def hold(self, by: str, to: str, amount: int, timeout: int | None) -> None:
        order = self.order(Kind.PENDING, by, to, amount, timeout=timeout)
        until = None if timeout is None else self.now + timeout * SECOND
        assert self.applied(order) == self.oracle.hold(order.id, by, to, amount, until)

    @precondition(lambda self: self.oracle.holds)
    @rule(data=st.data(), amount=amounts)
    def post(self, data: st.DataObject, amount: int) -> None:
        name = data.draw(st.sampled_from(sorted(self.oracle.holds)))
        by, to, _, _ = self.oracle.holds[name]
        assert self.applied(self.order(Kind.POST, by, to, amount, of=name)) == self.oracle.post(name, amount, self.now)

    @precondition(lambda self: self.oracle.holds)
    @rule(data=st.data())
    def void(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.oracle.holds)))
        by, to, amount, until = self.oracle.holds[name]
        in_time = until is None or until > self.now
        assert self.applied(self.order(Kind.VOID, by, to, amount, of=name)) == in_time
        if in_time:
            del self.oracle.holds[name]

    @rule(seconds=st.integers(1, 20))
    def wait_and_expire(self, seconds: int) -> None:
        self.now += seconds * SECOND
        for name, (_, _, _, until) in list(self.oracle.holds.items()):
            over = until is not None and until <= self.now
            assert expire(self.book, self.book.holds[name], self.now) == over
            if over:
                del self.oracle.holds[name]

    @rule(name=st.sampled_from(NAMES[1:]))
    def freeze_or_unfreeze(self, name: str) -> None:
        self.oracle.frozen ^= {name}
        self.book.accounts[f"{name}:USD"].frozen = name in self.oracle.frozen

    @invariant()
    def balances_are_equal(self) -> None:
        for name in NAMES:
            account = self.book.accounts[f"{name}:USD"]
            assert (account.balance, account.debits_pending) == (self.oracle.balance(name), self.oracle.held(name))

    @invariant()
    def money_is_neither_made_nor_lost(self) -> None:
        assert sums(self.book.accounts.values()) == {"USD": (0, 0)}
        require_sound(self.book, {"USD": (0, 0)})


TestLedgerAgainstOracle = LedgerAgainstOracle.TestCase
TestLedgerAgainstOracle.settings = settings(max_examples=60, stateful_step_count=40)
