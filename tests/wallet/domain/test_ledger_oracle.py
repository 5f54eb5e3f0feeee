"""Random operations on the ledger, compared at every step with an oracle that shares no code with it."""

from dataclasses import dataclass, field
from datetime import date, timedelta

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from ewallet.wallet.domain.ledger import apply, expire, require_sound, sums
from ewallet.wallet.domain.limits import spent
from ewallet.wallet.domain.nouns import Account, Book, Kind, Limits, Transfer

NAMES = ("cash", "a", "b", "c")
SECOND = 1_000_000
DAY_SECONDS = 24 * 3600

names = st.sampled_from(NAMES)
amounts = st.integers(1, 120)
limits = st.none() | st.integers(0, 300)


@dataclass
class Spending:
    """One payment or hold that counts towards the limits of ``by``, on a day."""

    by: str
    on: date
    amount: int


@dataclass
class Oracle:
    """What must be true, said as plainly as possible: money is a list of moves, a hold is a row until it ends.

    What somebody has spent is a list, too; ``counted`` finds the line of a hold in it.
    """

    today: date = date(1970, 1, 1)
    limits: dict[str, tuple[int | None, int | None, int | None]] = field(default_factory=dict)
    spendings: list[Spending] = field(default_factory=list)
    counted: dict[str, Spending] = field(default_factory=dict)
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

    def spent_today(self, by: str) -> int:
        return sum(each.amount for each in self.spendings if (each.by, each.on) == (by, self.today))

    def spent_this_month(self, by: str) -> int:
        month = (self.today.year, self.today.month)
        return sum(each.amount for each in self.spendings if (each.by, each.on.year, each.on.month) == (by, *month))

    def within_limits(self, by: str, more: int) -> bool:
        sums = (more, self.spent_today(by) + more, self.spent_this_month(by) + more)
        allowed = self.limits.get(by, (None, None, None))
        return more == 0 or all(most is None or sum_ <= most for sum_, most in zip(sums, allowed, strict=True))

    def spend(self, by: str, amount: int) -> Spending:
        assert self.within_limits(by, amount), "a limit is never exceeded, at no moment"
        self.spendings.append(Spending(by, self.today, amount))
        return self.spendings[-1]

    def pay_all(self, moves: list[tuple[str, str, int]], spender: str | None = None) -> bool:
        spends = sum(amount for by, _, amount in moves if by == spender)
        if spender is not None and not self.within_limits(spender, spends):
            return False
        kept = list(self.moves)
        for move in moves:
            if not self.may_pay(*move):
                self.moves = kept
                return False
            self.moves.append(move)
        if spender is not None:
            self.spend(spender, spends)
        return True

    def hold(self, name: str, by: str, to: str, amount: int, until: int | None, *, counts: bool) -> bool:
        if not self.may_pay(by, to, amount) or (counts and not self.within_limits(by, amount)):
            return False
        self.holds[name] = (by, to, amount, until)
        if counts:
            self.counted[name] = self.spend(by, amount)
        return True

    def end(self, name: str, taken: int) -> None:
        del self.holds[name]
        if name in self.counted:
            self.counted[name].amount = taken

    def post(self, name: str, amount: int, fee: int, now: int) -> bool:
        by, to, held, until = self.holds[name]
        if amount + fee > held or self.frozen & {by, to} or (until is not None and until <= now):
            return False
        if fee and by == "cash":
            return False
        self.end(name, amount + fee)
        self.moves += [(by, to, amount), (by, "cash", fee)]
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

    def applied(self, *transfers: Transfer, spender: str | None = None) -> bool:
        return isinstance(apply(self.book, transfers, self.now, spender=spender), list)

    @rule(to=names, amount=amounts)
    def put_in(self, to: str, amount: int) -> None:
        assert self.applied(self.order(Kind.POSTED, "cash", to, amount)) == self.oracle.pay_all([("cash", to, amount)])

    @rule(moves=st.lists(st.tuples(names, names, amounts), min_size=1, max_size=4), spender=st.none() | names)
    def move_group(self, moves: list[tuple[str, str, int]], spender: str | None) -> None:
        orders = [self.order(Kind.POSTED, *move) for move in moves]
        assert self.applied(*orders, spender=spender) == self.oracle.pay_all(moves, spender)

    @rule(by=names, to=names, amount=amounts, timeout=st.none() | st.integers(1, 30), counts=st.booleans())
    def hold(self, by: str, to: str, amount: int, timeout: int | None, counts: bool) -> None:
        order = self.order(Kind.PENDING, by, to, amount, timeout=timeout)
        until = None if timeout is None else self.now + timeout * SECOND
        applied = self.applied(order, spender=by if counts else None)
        assert applied == self.oracle.hold(order.id, by, to, amount, until, counts=counts)

    @precondition(lambda self: self.oracle.holds)
    @rule(data=st.data(), amount=amounts, fee=st.integers(0, 5))
    def post(self, data: st.DataObject, amount: int, fee: int) -> None:
        """A capture: the fee comes out of what the hold releases, so the two together are no more than was held."""
        name = data.draw(st.sampled_from(sorted(self.oracle.holds)))
        by, to, held, _ = self.oracle.holds[name]
        fee = min(fee, max(0, held - amount))
        orders = [self.order(Kind.POST, by, to, amount, of=name)]
        orders += [self.order(Kind.POSTED, by, "cash", fee)] if fee else []
        assert self.applied(*orders) == self.oracle.post(name, amount, fee, self.now)

    @rule(name=st.sampled_from(NAMES[1:]), payment=limits, day=limits, month=limits)
    def set_limits(self, name: str, payment: int | None, day: int | None, month: int | None) -> None:
        self.oracle.limits[name] = (payment, day, month)
        self.book.limits[f"{name}:USD"] = Limits(payment, day, month)

    @precondition(lambda self: self.oracle.holds)
    @rule(data=st.data())
    def void(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.oracle.holds)))
        by, to, amount, until = self.oracle.holds[name]
        in_time = until is None or until > self.now
        assert self.applied(self.order(Kind.VOID, by, to, amount, of=name)) == in_time
        if in_time:
            self.oracle.end(name, 0)

    @rule(seconds=st.integers(1, 20) | st.integers(1, 40).map(lambda days: days * DAY_SECONDS))
    def wait_and_expire(self, seconds: int) -> None:
        self.now += seconds * SECOND
        self.oracle.today = date(1970, 1, 1) + timedelta(seconds=self.now // SECOND)
        for name, (_, _, _, until) in list(self.oracle.holds.items()):
            over = until is not None and until <= self.now
            assert expire(self.book, self.book.holds[name], self.now) == over
            if over:
                self.oracle.end(name, 0)

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
    def what_was_spent_is_counted(self) -> None:
        for name in NAMES:
            counted = spent(self.book.accounts[f"{name}:USD"], self.now)
            assert counted == (self.oracle.spent_today(name), self.oracle.spent_this_month(name))

    @invariant()
    def money_is_neither_made_nor_lost(self) -> None:
        assert sums(self.book.accounts.values()) == {"USD": (0, 0)}
        require_sound(self.book, {"USD": (0, 0)})


TestLedgerAgainstOracle = LedgerAgainstOracle.TestCase
TestLedgerAgainstOracle.settings = settings(max_examples=60, stateful_step_count=40)
