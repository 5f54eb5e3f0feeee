"""What a payment and a look cost when much is in place: ``python -m bench.growth [--sizes …] [--write]``.

One database grows by the product's own calls, so that ``ewallet verify`` finds it right, and at each size the same
things are timed: payments, a look at a wallet, a page of a statement and of the payments, the newest and one from the
middle of a long list. Without HTTP, which does not grow.
"""

import argparse
import asyncio
import random
import statistics
import subprocess
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import uvloop
from matplotlib.figure import Figure
from rich.console import Console

from bench.platform import ewallet
from bench.report import machine
from bench.store import MERCHANTS, STAFF, Services, open_customer, open_wallet, services
from ewallet.cli.serving import tune_interpreter
from ewallet.kernel.caller import Caller, Role
from ewallet.kernel.errors import Refused, unwrap
from ewallet.payment.messages import InitiatePayment, PaymentList
from ewallet.plumbing.http.contract import decode_cursor, encode_cursor
from ewallet.plumbing.settings import Settings
from ewallet.plumbing.telemetry import configure_logging
from ewallet.wallet.messages import Statement
from ewallet.wallet.service import Position

SIZES = "1000:10000,100000:1000000,1000000:5000000"
OPENED_AT_ONCE = 512
PAID_AT_ONCE = 512
PAYERS = 64
PAYING_SECONDS = 5.0
LOOKS = 200
PAGE = 20

DOCUMENT = Path(__file__).parent.parent / "docs" / "growth.md"
DOCUMENT_HEAD = """# Growth

What a payment and a look cost when much is in place, in milliseconds of processor time, which other work on the machine
disturbs less than the clock's; without HTTP, which does not grow. `make bench-growth WRITE=1` writes this page: one
SQLite database grows by the product's own calls, and is verified at the end. A payment is one among 64 at a time; looks
come one after the other, and their median counts. A page has twenty lines; the one from the middle is as far from the
newest line of its list as from the oldest. The merchant whose lists these are takes part in every sixteenth payment.

![Milliseconds](growth.svg)

"""

NAMES = (
    "a payment",
    "a look at a wallet",
    "the newest page of a statement",
    "a page from its middle",
    "the newest page of a merchant's payments",
    "a page from their middle",
)

BUYER, SELLER = Role.CUSTOMER, Role.MERCHANT
console = Console(highlight=False)


class Size(NamedTuple):
    """What is in place: customers with money, and transfers (one for each customer's money, two for a payment)."""

    accounts: int
    transfers: int


class Costs(NamedTuple):
    """Milliseconds of processor time at one size: a payment among many, and the median of looks one by one."""

    payment: float
    wallet: float
    newest_entries: float
    middle_entries: float
    newest_payments: float
    middle_payments: float


class Growing:
    """A platform to which customers and payments are added."""

    def __init__(self, running: Services) -> None:
        self._wallet, self._payment = running
        self._accounts = 0
        self._transfers = 0
        self._random = random.Random(5)  # the same people each time, no secret
        self._middle_payment = ""

    async def grow(self, size: Size) -> None:
        """Add what is missing."""
        if not self._accounts:
            for number in range(MERCHANTS):
                await open_wallet(self._wallet, f"usr_merchant{number}", SELLER)
        for numbers in _chunks(range(self._accounts, size.accounts), OPENED_AT_ONCE):
            await asyncio.gather(*(open_customer(self._wallet, number) for number in numbers))
        self._transfers += size.accounts - self._accounts
        self._accounts = size.accounts
        while self._transfers < size.transfers:
            await self._pay_many()
            if not self._middle_payment or self._transfers <= size.transfers // 2:
                await self._note_middle()

    async def costs(self) -> Costs:
        """Time everything."""
        seller = Caller("usr_merchant0", SELLER, "bench")
        entries = await self._middle_of_entries(seller)
        payments = encode_cursor(self._middle_payment)
        return Costs(
            payment=await self._payment_milliseconds(),
            wallet=await _median(lambda: self._wallet.wallet(STAFF, self._somebody())),
            newest_entries=await _median(lambda: self._entries(seller, None)),
            middle_entries=await _median(lambda: self._entries(seller, entries)),
            newest_payments=await _median(lambda: self._payments(seller, None)),
            middle_payments=await _median(lambda: self._payments(seller, payments)),
        )

    def _somebody(self) -> str:
        return f"usr_customer{self._random.randrange(self._accounts)}"

    async def _pay_many(self) -> None:
        """Payments of as many customers, who are anybody."""
        await asyncio.gather(*(self._pay(number) for number in range(PAID_AT_ONCE)))
        self._transfers += 2 * PAID_AT_ONCE

    async def _pay(self, number: int) -> None:
        order = InitiatePayment(merchant_id=f"usr_merchant{number % MERCHANTS}", amount=1250, currency="USD")
        with suppress(Refused):  # not known in time, on a machine that does other things: recovery finishes it
            await self._payment.initiate(Caller(self._somebody(), BUYER, "bench"), order, None)

    async def _payment_milliseconds(self) -> float:
        """Of one payment, where so many customers pay one after the other each."""
        paid, started, used = 0, time.perf_counter(), time.process_time()

        async def keep_paying(number: int) -> None:
            nonlocal paid
            while time.perf_counter() < started + PAYING_SECONDS:
                await self._pay(number)
                paid += 1

        await asyncio.gather(*(keep_paying(number) for number in range(PAYERS)))
        self._transfers += 2 * paid
        return (time.process_time() - used) * 1000 / paid

    async def _note_middle(self) -> None:
        newest = await self._payments(Caller("usr_merchant0", SELLER, "bench"), None)
        self._middle_payment = newest.items[0].transaction_id

    async def _payments(self, caller: Caller, cursor: str | None) -> PaymentList:
        return await self._payment.list_payments(caller, status=None, since=None, until=None, limit=PAGE, cursor=cursor)

    async def _entries(self, caller: Caller, cursor: str | None) -> Statement:
        statement = await self._wallet.statement(
            caller, caller.subject, currency=None, start=None, end=None, limit=PAGE, cursor=cursor
        )
        return unwrap(statement)

    async def _middle_of_entries(self, caller: Caller) -> str:
        """The cursor of a page as far from the newest entry as from the oldest."""
        newest = (await self._entries(caller, None)).next_cursor or ""
        return encode_cursor(decode_cursor(newest, Position)[0] // 2)


async def _median(look: Callable[[], Awaitable[object]]) -> float:
    milliseconds = []
    for _ in range(LOOKS):
        used = time.process_time()
        await look()
        milliseconds.append((time.process_time() - used) * 1000)
    return statistics.median(milliseconds)


def _chunks(numbers: range, size: int) -> Iterator[range]:
    return (numbers[start : start + size] for start in range(0, len(numbers), size))


async def measure(settings: Settings, sizes: Sequence[Size]) -> list[Costs]:
    """The costs at each size."""
    found = []
    async with services(settings) as running:
        growing = Growing(running)
        for size in sizes:
            started = time.perf_counter()
            await growing.grow(size)
            found.append(await growing.costs())
            seconds = time.perf_counter() - started
            console.print(f"{_named(size)}: {seconds:,.0f} s")
    return found


def main() -> None:
    """Grow, measure, verify, print; ``--write`` puts the table and a picture into ``docs``."""
    parser = argparse.ArgumentParser(prog="python -m bench.growth", description=__doc__)
    parser.add_argument("--sizes", default=SIZES, help="accounts:transfers, separated by commas")
    parser.add_argument("--write", action="store_true", help="write docs/growth.md and its picture")
    arguments = parser.parse_args()
    sizes = [Size(*map(int, size.split(":"))) for size in arguments.sizes.split(",")]
    configure_logging("error", "json")
    with tempfile.TemporaryDirectory(prefix="ewallet-growth-") as folder:
        tune_interpreter()
        costs = uvloop.run(measure(Settings(data=folder), sizes))
        verified = subprocess.run([ewallet(), "verify"], env={"EWALLET_DATA": folder, "PATH": ""}, check=False)
    if verified.returncode:
        raise SystemExit("ewallet verify finds the books wrong: this run counts for nothing")
    lines = _lines(sizes, costs)
    console.print("\n".join(lines), soft_wrap=True)
    if arguments.write:
        DOCUMENT.write_text(DOCUMENT_HEAD + "\n".join([f"Measured on {machine()}.", "", *lines, ""]), encoding="utf-8")
        _draw(sizes, costs)


def _named(size: Size) -> str:
    return f"{size.accounts:,} accounts, {size.transfers:,} transfers"


def _lines(sizes: Sequence[Size], costs: Sequence[Costs]) -> list[str]:
    """A table in Markdown: a line for each thing, a column for each size."""
    return [
        "| milliseconds | " + " | ".join(map(_named, sizes)) + " |",
        "| --- |" + " ---: |" * len(sizes),
        *(
            f"| {name} | " + " | ".join(f"{value:.2f}" for value in values) + " |"
            for name, values in zip(NAMES, zip(*costs, strict=True), strict=True)
        ),
    ]


def _draw(sizes: Sequence[Size], costs: Sequence[Costs]) -> None:
    figure = Figure(figsize=(9, 4.5), layout="constrained")
    axes = figure.subplots()
    for name, values in zip(NAMES, zip(*costs, strict=True), strict=True):
        axes.plot([size.transfers for size in sizes], values, marker="o", label=name)
    axes.set_xscale("log")
    axes.set_ylim(bottom=0)
    axes.set_xlabel("transfers in place")
    axes.set_ylabel("milliseconds of processor time")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.savefig(DOCUMENT.with_suffix(".svg"), metadata={"Date": None})


if __name__ == "__main__":
    main()
