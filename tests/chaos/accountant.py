"""The accountant: reads everything back over the API and compares it with what people ordered and were answered.

It shares no code and no database with the product (a test of tests/house sees to that): what an amount, a fee or a
balance should be, it works out by itself. What it cannot read completely it does not judge: Incomplete is a failure.
"""

import asyncio
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import astuple, dataclass, field
from itertools import pairwise
from typing import Any

from tests.chaos.orders import CURRENCY, MOVEMENTS, Kind, Order, Person
from tests.chaos.wire import NoAnswer, NotSent, Wire

READERS = 8
PAID = {"SUCCESS", "PARTIALLY_REFUNDED", "REFUNDED"}
NEXT = {
    "": {"PENDING"},
    "PENDING": {"SUCCESS", "FAILED", "AUTHORIZED"},
    "AUTHORIZED": {"SUCCESS", "VOIDED", "EXPIRED"},
    "SUCCESS": {"PARTIALLY_REFUNDED", "REFUNDED"},
    "PARTIALLY_REFUNDED": {"PARTIALLY_REFUNDED", "REFUNDED"},
}
"""The states that may follow a state."""

EVENTS = {
    "AUTHORIZED": "payment.authorized",
    "SUCCESS": "payment.succeeded",
    "FAILED": "payment.failed",
    "VOIDED": "payment.voided",
    "EXPIRED": "payment.expired",
    "PARTIALLY_REFUNDED": "payment.refunded",
    "REFUNDED": "payment.refunded",
}
"""What is told when a payment comes to a state."""

FEE_BASIS_POINTS = 200
LOOK_AGAIN_SECONDS = 0.2

Items = list[dict[str, Any]]


class Incomplete(Exception):
    """Something could not be read, so nothing is known: neither that all is well nor that it is not."""


@dataclass
class Books:
    """Everything that the platform says, oldest first; by the id of its owner, or of its payment."""

    payments: Items = field(default_factory=list)
    histories: dict[str, Items] = field(default_factory=dict)
    refunds: dict[str, Items] = field(default_factory=dict)
    wallets: dict[str, dict[str, Any]] = field(default_factory=dict)
    statements: dict[str, Items] = field(default_factory=dict)
    inboxes: dict[str, Items] = field(default_factory=dict)
    payment_audit: Items = field(default_factory=list)
    wallet_audit: Items = field(default_factory=list)


# --- reading ------------------------------------------------------------------------------------------------------


class Reader:
    """Reads the books as people could. Incomplete: any answer that is missing, late or not what was asked for."""

    def __init__(self, wire: Wire, admin: Person, people: Sequence[Person]) -> None:
        self._wire = wire
        self._admin = admin
        self._people = people
        self._turns = asyncio.Semaphore(READERS)

    async def books(self) -> Books:
        """All of them; to be called when nobody orders anything."""
        admin, people = self._admin, self._people
        payments = await self.pages("/payment", admin)
        ids = [payment["transactionId"] for payment in payments]
        refunded = [payment["transactionId"] for payment in payments if payment["refundedAmount"]]
        return Books(
            payments=payments,
            histories=dict(zip(ids, await _all(self._history(each) for each in ids), strict=True)),
            refunds=dict(zip(refunded, await _all(map(self._refunds, refunded)), strict=True)),
            wallets=await self._by_person(lambda person: self.get(f"/wallet/{person.id}", admin)),
            statements=await self._by_person(lambda person: self.pages(f"/wallet/{person.id}/entries", admin)),
            inboxes=dict(
                zip(
                    [person.id for person in people],
                    await _all(self.pages("/notification", person) for person in people),
                    strict=True,
                )
            ),
            payment_audit=await self.pages("/payment/audit", admin),
            wallet_audit=await self.pages("/wallet/audit", admin),
        )

    async def unfinished(self) -> Items:
        """The payments that have not come to an end."""
        return await self.pages("/payment?status=PENDING", self._admin)

    async def pages(self, path: str, person: Person) -> Items:
        """A whole list, oldest first, however many pages it has."""
        items: Items = []
        page = await self.get(f"{path}{'&' if '?' in path else '?'}limit=100", person)
        items += page["items"]
        while (cursor := page["nextCursor"]) is not None:
            page = await self.get(f"{path}{'&' if '?' in path else '?'}limit=100&cursor={cursor}", person)
            items += page["items"]
        return items[::-1]

    async def get(self, path: str, person: Person) -> Any:
        """One answer."""
        async with self._turns:
            try:
                answer = await self._wire.call("GET", path, token=person.token)
            except (NotSent, NoAnswer) as error:
                raise Incomplete(f"GET {path}: {error}") from error
        if answer.status != 200:
            raise Incomplete(f"GET {path}: {answer}")
        return answer.body

    async def _history(self, payment_id: str) -> Items:
        history: Items = (await self.get(f"/payment/{payment_id}/history", self._admin))["items"]
        return history

    async def _refunds(self, payment_id: str) -> Items:
        return await self.pages(f"/payment/{payment_id}/refunds", self._admin)

    async def _by_person(self, read: Callable[[Person], Awaitable[Any]]) -> dict[str, Any]:
        read_all = await _all(read(person) for person in self._people)
        return dict(zip([person.id for person in self._people], read_all, strict=True))


async def _all(reads: Iterator[Awaitable[Any]]) -> list[Any]:
    return list(await asyncio.gather(*reads))


# --- what people ordered, in the words of the books -----------------------------------------------------------------


def fee_on(amount: int) -> int:
    """Two percent, half to even."""
    whole, rest = divmod(amount * FEE_BASIS_POINTS, 10_000)
    return whole + (rest > 5_000 or (rest == 5_000 and whole % 2 == 1))


def change(entry: dict[str, Any]) -> int:
    """What an entry adds to its owner's balance."""
    amount: int = entry["amount"]
    return amount if entry["type"] == "CREDIT" else -amount


@dataclass
class Case:
    """The orders and the books side by side, in the ways in which the checks look at them."""

    orders: Sequence[Order]
    books: Books
    by_key: dict[str, Order] = field(init=False)
    payments_by_key: dict[str, Items] = field(init=False)
    entries_by_payment: dict[str, dict[str, Items]] = field(init=False)
    entries_by_key: dict[str, Items] = field(init=False)
    orders_on: dict[str, list[Order]] = field(init=False)

    def __post_init__(self) -> None:
        self.by_key = {order.key: order for order in self.orders}
        self.payments_by_key = defaultdict(list)
        for payment in self.books.payments:
            self.payments_by_key[payment["reference"]].append(payment)
        self.orders_on = defaultdict(list)
        for order in self.orders:
            if order.of is not None:
                self.orders_on[order.of.key].append(order)
        self.entries_by_payment = defaultdict(lambda: defaultdict(list))
        self.entries_by_key = defaultdict(list)
        for owner, entries in self.books.statements.items():
            for entry in entries:
                if entry.get("transactionId"):
                    self.entries_by_payment[entry["transactionId"]][owner].append(entry)
                else:
                    self.entries_by_key[entry["reference"]].append(entry)

    def movements(self) -> Iterator[Order]:
        """The direct debits and credits."""
        return (order for order in self.orders if order.kind in MOVEMENTS)

    def states(self, payment: dict[str, Any]) -> list[str]:
        """Every state that a payment went through."""
        return [line["status"] for line in self.books.histories[payment["transactionId"]]]

    def refunds(self, payment: dict[str, Any]) -> Items:
        """The refunds of a payment that were carried out."""
        listed = self.books.refunds.get(payment["transactionId"], [])
        return [refund for refund in listed if refund["status"] == "SUCCESS"]

    def amounts(self, payment: dict[str, Any], side: str, *types: str) -> list[int]:
        """What was booked for a payment in the customer's or the merchant's statement, sorted."""
        entries = self.entries_by_payment.get(payment["transactionId"], {}).get(payment[f"{side}Id"], [])
        return sorted(entry["amount"] for entry in entries if entry["type"] in types)

    def wants(self, payment: dict[str, Any], *kinds: Kind) -> bool:
        """Whether somebody has sent an order of this kind for a payment, and was not told that it is refused."""
        order = self.by_key[payment["reference"]]
        candidates = [order, *self.orders_on[order.key]]
        return any(each.kind in kinds and each.sent and not each.refused for each in candidates)


# --- the checks: each a promise, and a sentence for every time that it is broken -----------------------------------

Check = Callable[[Case], Iterator[str]]


def what_was_acknowledged_is_there(case: Case) -> Iterator[str]:
    """Who was told that it is done finds it done, with the same ids and amounts."""
    payments = {payment["transactionId"]: payment for payment in case.books.payments}
    for order in case.orders:
        told = order.acknowledged
        if told is None:
            continue
        if order.kind in MOVEMENTS:
            there = told["transferId"] in {entry["transferId"] for entry in case.entries_by_key[order.key]}
        else:
            payment = payments.get(told["transactionId"])
            there = payment is not None and _is_there(case, order, told, payment)
        if not there:
            yield f"{order}: was told {told}, and that is not there"


def _is_there(case: Case, order: Order, told: dict[str, Any], payment: dict[str, Any]) -> bool:
    match order.kind:
        case Kind.PAY | Kind.HOLD if not case.orders_on[order.key]:
            return payment == told
        case Kind.PAY:
            return payment["status"] in PAID and payment["createdAt"] == told["createdAt"]
        case Kind.HOLD:
            return "AUTHORIZED" in case.states(payment) and payment["authorizedAmount"] == order.amount
        case Kind.CAPTURE:
            return payment["status"] in PAID and payment["amount"] == order.amount
        case Kind.VOID:
            return bool(payment["status"] == "VOIDED")
        case _:
            return told in case.refunds(payment)


def nothing_is_posted_that_was_not_asked_or_was_refused(case: Case) -> Iterator[str]:
    """Every movement of money goes back to an order that was sent, as it was sent, and that nobody saw refused."""
    known = {payment["transactionId"] for payment in case.books.payments if payment["reference"] in case.by_key}
    yield from (f"money was moved for {each}, which nobody ordered" for each in case.entries_by_payment.keys() - known)
    yield from (
        f"money was moved for {each}, which nobody ordered" for each in case.entries_by_key.keys() - case.by_key
    )
    for payment in case.books.payments:
        if payment["reference"] not in case.by_key:
            yield f"{payment} was never ordered"
            continue
        order = case.by_key[payment["reference"]]
        if (payment["authorizedAmount"], payment["customerId"]) != (order.amount, order.owner.id):
            yield f"{order}: {payment} is another payment than was ordered"
        if case.amounts(payment, "merchant", "CREDIT") and not case.wants(payment, Kind.PAY, Kind.CAPTURE):
            yield f"{order}: was refused or never sent, and yet the merchant has money of it"
        if payment["status"] == "VOIDED" and not case.wants(payment, Kind.VOID):
            yield f"{order}: is voided, and nobody wanted that"
        for refund in case.refunds(payment):
            asked = case.by_key.get(refund["reason"])
            if asked is None or asked.refused or not asked.sent or asked.amount != refund["amount"]:
                yield f"{order}: nobody asked for {refund}, or was told that it is refused"
    for order in case.movements():
        for entry in case.entries_by_key[order.key]:
            if order.refused or not order.sent:
                yield f"{order}: was refused or never sent, and yet money was moved"
            if (entry["amount"], entry["type"].lower()) != (order.amount, order.kind.value):
                yield f"{order}: {entry} is another movement than was ordered"


def one_payment_a_key_and_one_posting_a_step(case: Case) -> Iterator[str]:
    """However often it was asked, it was done once; and everybody who asked was told the same."""
    for order in case.orders:
        if (count := len(case.payments_by_key[order.key])) > 1:
            yield f"{order}: {count} payments"
        if order.kind in MOVEMENTS and (count := len(case.entries_by_key[order.key])) > 1:
            yield f"{order}: {count} postings"
        if len({str(answer.body) for answer in order.answers if answer.status in (200, 201)}) > 1:
            yield f"{order}: different answers to the same request: {order.answers}"
    for owner, entries in case.books.statements.items():
        for transfer, count in Counter(entry["transferId"] for entry in entries).items():
            if count > 1:
                yield f"{transfer} is {count} times in the statement of {owner}"
    for payment in case.books.payments:
        if (count := len(case.amounts(payment, "merchant", "CREDIT"))) > 1:
            yield f"{payment['transactionId']}: the merchant was paid {count} times"
        for key, count in Counter(refund["reason"] for refund in case.refunds(payment)).items():
            if count > 1:
                yield f"{payment['transactionId']}: {key} was refunded {count} times"


def every_group_is_whole(case: Case) -> Iterator[str]:
    """Of what moved money for a payment both sides and the fee are all there, and agree."""
    for payment in case.books.payments:
        sides = case.entries_by_payment.get(payment["transactionId"])
        if not sides:
            continue
        amount, fee = payment["amount"], fee_on(payment["amount"])
        paid = sorted(filter(None, (amount - fee, fee)))
        if (booked := case.amounts(payment, "customer", "DEBIT")) != paid:
            yield f"{payment['transactionId']}: the customer has paid {booked}, not {paid}"
        if (booked := case.amounts(payment, "merchant", "CREDIT")) != [amount - fee]:
            yield f"{payment['transactionId']}: the merchant was paid {booked}, not {amount - fee}"
        refunds = sorted(refund["amount"] for refund in case.refunds(payment))
        backs = [case.amounts(payment, "customer", "CREDIT"), case.amounts(payment, "merchant", "DEBIT")]
        if backs != [refunds, refunds]:
            yield f"{payment['transactionId']}: {refunds} were refunded, but the two sides have {backs}"
        ids = [
            {entry["transferId"] for entry in sides.get(payment[f"{side}Id"], [])} for side in ("merchant", "customer")
        ]
        if not ids[0] <= ids[1]:
            yield f"{payment['transactionId']}: the two sides name different transfers"
        if (payment["fee"], payment["netAmount"]) != (fee, amount - fee):
            yield f"{payment['transactionId']}: the fee on {amount} is {fee}, not {payment['fee']}"


def every_balance_is_the_sum_of_its_entries_and_was_never_below_zero(case: Case) -> Iterator[str]:
    """At every line of every statement the balance is what the lines so far make it, and not below zero."""
    held: Counter[str] = Counter()
    for payment in case.books.payments:
        if payment["status"] == "AUTHORIZED":
            held[payment["customerId"]] += payment["authorizedAmount"]
    for owner, entries in case.books.statements.items():
        balance = 0
        for entry in entries:
            balance += change(entry)
            if entry["balanceAfter"] != balance:
                yield f"{owner}: after {entry['transferId']} the balance is {entry['balanceAfter']}, not {balance}"
            if balance < 0:
                yield f"{owner}: after {entry['transferId']} the balance is below zero: {balance}"
        shown = (available(case.books, owner), _balance(case.books, owner)["held"])
        if shown != (balance - held[owner], held[owner]):
            yield f"{owner}: has {shown}, but entries make {balance}, of which payments hold {held[owner]}"


def every_payment_has_ended(case: Case) -> Iterator[str]:
    """No payment waits for ever, no client is left without an answer, and the history says how it ended."""
    for order in case.orders:
        if order.sent and not order.settled:
            yield f"{order}: nobody ever got a definite answer; the last ones are {order.answers[-3:]}"
    for payment in case.books.payments:
        states = case.states(payment)
        if payment["status"] == "PENDING":
            yield f"{payment['transactionId']} is still PENDING"
        if states[-1:] != [payment["status"]]:
            yield f"{payment['transactionId']} is {payment['status']}, but its history is {states}"
        if any(state not in NEXT.get(before, ()) for before, state in pairwise(["", *states])):
            yield f"{payment['transactionId']} has an impossible history: {states}"


def success_is_what_was_posted_and_kept(case: Case) -> Iterator[str]:
    """SUCCESS if and only if the money has moved, and stayed, but for what was refunded."""
    for payment in case.books.payments:
        paid, back = case.amounts(payment, "merchant", "CREDIT"), sum(case.amounts(payment, "merchant", "DEBIT"))
        if (payment["status"] in PAID) != bool(paid):
            yield f"{payment['transactionId']} is {payment['status']}, and the merchant has {paid} of it"
        if payment["refundedAmount"] != back:
            yield f"{payment['transactionId']}: {payment['refundedAmount']} are refunded, but {back} have moved"
        wanted = "REFUNDED" if back == payment["amount"] else "PARTIALLY_REFUNDED"
        if (back > 0 or payment["refundedAmount"] > 0) and payment["status"] != wanted:
            yield f"{payment['transactionId']} is {payment['status']}, not {wanted}"


def everybody_is_told_once(case: Case) -> Iterator[str]:
    """Each state of a payment and each movement is told once to each who is concerned, and nothing else is told."""
    wanted: Counter[tuple[str, str, str]] = Counter()
    for payment in case.books.payments:
        for state in case.states(payment)[1:]:
            for side in ("customerId", "merchantId"):
                wanted[payment[side], EVENTS[state], payment["transactionId"]] += 1
    for order in case.movements():
        for entry in case.entries_by_key[order.key]:
            wanted[order.owner.id, f"wallet.{order.kind}ed", entry["transferId"]] += 1
    told = Counter(
        (owner, item["event"], item["data"].get("transactionId") or item["data"]["transferId"])
        for owner, items in case.books.inboxes.items()
        for item in items
    )
    for key in sorted(wanted.keys() | told.keys()):
        if wanted[key] != told[key]:
            yield f"{key[0]} was told of {key[1]} of {key[2]} {told[key]} times, not {wanted[key]}"


def the_audit_is_whole(case: Case) -> Iterator[str]:
    """No number is missing, and each state and each movement has one record, in payment and in the wallet."""
    for name, records in (("payment", case.books.payment_audit), ("wallet", case.books.wallet_audit)):
        if [record["sequence"] for record in records] != list(range(1, len(records) + 1)):
            yield f"the numbers of {name}'s audit have gaps"
    done = Counter(each["subject"] for each in case.books.payment_audit if each["result"] == "ok")
    groups = [each for each in case.books.wallet_audit if each["action"] == "wallet.post_group"]
    posted = Counter(each["subject"] for each in groups if each["result"] == "ok")
    failed = Counter(each["subject"] for each in case.books.payment_audit if each["action"] == "payment.failed")
    for payment in case.books.payments:
        payment_id, states = payment["transactionId"], case.states(payment)[1:]
        wanted = (states.count("FAILED"), *([len(states) - states.count("FAILED")] * 2))
        if (found := (failed[payment_id], done[payment_id], posted[payment_id])) != wanted:
            yield f"{payment_id} went through {states}, but has {found} audit records, not {wanted}"
    movements = Counter(each["detail"].get("reference") for each in case.books.wallet_audit if each["result"] == "ok")
    for order in case.movements():
        if movements[order.key] != len(case.entries_by_key[order.key]):
            yield f"{order} has {movements[order.key]} audit records"


CHECKS: tuple[Check, ...] = (
    what_was_acknowledged_is_there,
    nothing_is_posted_that_was_not_asked_or_was_refused,
    one_payment_a_key_and_one_posting_a_step,
    every_group_is_whole,
    every_balance_is_the_sum_of_its_entries_and_was_never_below_zero,
    every_payment_has_ended,
    success_is_what_was_posted_and_kept,
    everybody_is_told_once,
    the_audit_is_whole,
)

Findings = dict[str, list[str]]
"""What is wrong, by the name of the check that found it."""


def findings_of(case: Case) -> Findings:
    """What every check has to say; empty where all is well."""
    return {check.__name__: found for check in CHECKS if (found := list(check(case)))}


def unexplained(case: Case) -> int:
    """Minor units in wallets that no order explains, or that orders explain and are not there."""
    expected: Counter[str] = Counter()
    for order in case.movements():
        if case.entries_by_key[order.key]:
            expected[order.owner.id] += order.amount if order.kind is Kind.CREDIT else -order.amount
    for payment in case.books.payments:
        if payment["reference"] not in case.by_key:
            continue
        order = case.by_key[payment["reference"]]
        held = order.amount if payment["status"] == "AUTHORIZED" else 0
        taken = _taken(case, order, payment) if payment["status"] in PAID else 0
        back = sum(case.by_key[refund["reason"]].amount for refund in case.refunds(payment))
        expected[order.owner.id] += back - taken - held
        expected[payment["merchantId"]] += taken - fee_on(taken) - back
    return sum(abs(available(case.books, owner) - expected[owner]) for owner in case.books.wallets)


def _taken(case: Case, order: Order, payment: dict[str, Any]) -> int:
    """What a payment should have taken: the whole of it, or what one of its captures asked for."""
    if order.kind is Kind.PAY:
        return order.amount
    captures = [each.amount for each in case.orders_on[order.key] if each.kind is Kind.CAPTURE and not each.refused]
    return int(payment["amount"]) if payment["amount"] in captures else sum(captures)


def available(books: Books, owner: str) -> int:
    """What somebody can spend."""
    amount: int = _balance(books, owner)["available"]
    return amount


def _balance(books: Books, owner: str) -> dict[str, int]:
    return next(each for each in books.wallets[owner]["balances"] if each["currency"] == CURRENCY)


@dataclass(frozen=True)
class Figures:
    """What a whole run comes to; everything but the first two should be zero. Amounts in minor units."""

    faults: int = 0
    acknowledged: int = 0
    lost: int = 0
    doubled: int = 0
    stuck: int = 0
    otherwise_wrong: int = 0
    unexplained: int = 0

    def __add__(self, other: "Figures") -> "Figures":
        return Figures(*(mine + others for mine, others in zip(astuple(self), astuple(other), strict=True)))

    @property
    def clean(self) -> bool:
        return not any(astuple(self)[2:])


@dataclass(frozen=True)
class Report:
    """The findings at the end, and how long it took until nothing moved any more."""

    case: Case
    findings: Findings
    seconds: float

    def figures(self, *, faults: int, orders_before: int) -> Figures:
        """The findings counted, after so many faults were injected; the first orders were there before them."""
        counts = {name: len(found) for name, found in self.findings.items()}
        return Figures(
            faults=faults,
            acknowledged=sum(order.acknowledged is not None for order in self.case.orders[orders_before:]),
            lost=counts.pop(what_was_acknowledged_is_there.__name__, 0),
            doubled=counts.pop(one_payment_a_key_and_one_posting_a_step.__name__, 0),
            stuck=counts.pop(every_payment_has_ended.__name__, 0),
            otherwise_wrong=sum(counts.values()),
            unexplained=unexplained(self.case),
        )

    def __str__(self) -> str:
        lines = [f"{name}: {sentence}" for name, found in self.findings.items() for sentence in found[:5]]
        return "\n".join([f"the accountant finds, after {self.seconds:.1f} s:", *lines])


async def audit(reader: Reader, orders: Sequence[Order], *, within_seconds: float) -> Report:
    """Look until all is well, or the time is over. Incomplete: the books could not be read in that time."""
    started = time.monotonic()
    while True:
        late = (seconds := time.monotonic() - started) > within_seconds
        try:
            if late or not await reader.unfinished():
                case = Case(orders, await reader.books())
                findings = findings_of(case)
                if late or not findings:
                    return Report(case, findings, seconds)
        except Incomplete:
            if late:
                raise
        await asyncio.sleep(LOOK_AGAIN_SECONDS)
