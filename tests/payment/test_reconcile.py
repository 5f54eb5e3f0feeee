"""One of two databases is put back to an older copy: everything that is lost is found, and no unit is missing after it.

A story of random payments and operations is told once, and both databases are copied before each of its steps. Then the
wallet's, and payment's as well, is put back to every one of these copies.
"""

import asyncio
import random
import shutil
import sqlite3
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from pathlib import Path

import pytest
from sqlalchemy import Connection, or_, select

from ewallet.kernel.caller import Role
from ewallet.payment.reconcile import Case, Reconciliation
from ewallet.payment.service import PaymentService
from ewallet.payment.store import operations, payments
from ewallet.payment.worker import Recovery
from ewallet.plumbing.database import Database, open_database
from ewallet.plumbing.migrations import migrate
from ewallet.plumbing.verifying import count
from ewallet.wallet.messages import MoveMoney
from ewallet.wallet.service import WalletService
from ewallet.wallet.store import accounts, groups
from tests.support.payment import (
    ADMIN,
    CUSTOMER,
    HOLD_SECONDS,
    MERCHANT,
    TWO_PERCENT,
    capture,
    order,
    paid,
    pay,
    refund,
    void,
)
from tests.support.verifying import faults_in
from tests.support.wallet import BACK_END, NOW, open_wallet

STEPS = 50
SEED = 20_261_122
SERVICES = ("wallet", "payment")
CUTS = [(service, step) for service in SERVICES for step in range(STEPS)]
WEEK = HOLD_SECONDS * 1_000_000
FUNDS = 100_000


class TickingClock:
    """A millisecond passes whenever somebody looks."""

    def __init__(self, now: int) -> None:
        self.now = now

    def __call__(self) -> int:
        self.now += 1_000
        return self.now


@dataclass(frozen=True)
class World:
    """A wallet and a payment service on databases in one folder."""

    folder: Path
    clock: TickingClock
    databases: dict[str, Database]
    wallet: WalletService
    payment: PaymentService

    async def reconciled(self) -> list[Case]:
        database = self.databases["payment"]
        return await Reconciliation(database, self.wallet, self.payment.saga, clock=self.clock).run()

    def copy(self, step: int) -> None:
        """Copy both databases as they are, while they are open."""
        for service in SERVICES:
            with (
                closing(sqlite3.connect(self.folder / service)) as source,
                closing(sqlite3.connect(self.folder / f"{service}-{step}")) as target,
            ):
                source.backup(target)

    def balances(self) -> dict[str, int]:
        """What everybody has to spend."""
        available = accounts.c.credits_posted - accounts.c.debits_posted - accounts.c.debits_pending
        query = select(accounts.c.id, available)
        return dict(self.databases["wallet"].read(lambda tx: [tuple(row) for row in tx.execute(query)]))

    def states(self) -> dict[str, tuple[str, str, int]]:
        """Status, idempotency identity and amount of all payments, and of the operations that went to the wallet."""
        asked = or_(operations.c.status != "FAILED", operations.c.updated_at > operations.c.created_at)

        def look(tx: Connection) -> dict[str, tuple[str, str, int]]:
            rows = [*tx.execute(select(payments)), *tx.execute(select(operations).where(asked))]
            return {row.id: (row.status, row.identity, row.amount) for row in rows}

        return self.databases["payment"].read(look)

    def groups(self) -> int:
        """How many orders the wallet has decided."""
        return self.databases["wallet"].read(lambda tx: count(tx, groups))

    def faults(self) -> list[str]:
        return [*faults_in(self.wallet), *faults_in(self.payment)]


@asynccontextmanager
async def world(folder: Path, now: int = NOW) -> AsyncIterator[World]:
    clock = TickingClock(now)
    databases = {service: open_database(f"sqlite:///{folder / service}", service) for service in SERVICES}
    wallet = WalletService(databases["wallet"], clock=clock)
    payment = PaymentService(
        databases["payment"],
        wallet,
        fees=TWO_PERCENT,
        hold_seconds=HOLD_SECONDS,
        clock=clock,
        events_added=lambda: None,
    )
    try:
        yield World(folder, clock, databases, wallet, payment)
    finally:
        for database in databases.values():
            database.close()


async def tell(folder: Path) -> None:
    """Let random things happen, and copy both databases before each."""
    async with world(folder) as told:
        await open_wallet(told.wallet, CUSTOMER)
        await open_wallet(told.wallet, MERCHANT, role=Role.MERCHANT)
        request = MoveMoney(customer_id=CUSTOMER, amount=FUNDS, currency="USD", reference="salary")
        await told.wallet.credit(BACK_END, request, None)
        chance = random.Random(SEED)
        for step in range(STEPS):
            told.copy(step)
            if step == STEPS - 10:
                await a_week_passes(told)
            await happen(told.payment, chance, step)
        await a_week_passes(told)


async def a_week_passes(told: World) -> None:
    """And every hold that is left ends."""
    told.clock.now += WEEK
    await told.wallet.expire_holds()
    await Recovery(told.payment.saga).run_once()


async def happen(service: PaymentService, chance: random.Random, step: int) -> None:
    key = chance.choice([None, f"key-{step}"])
    listed = await service.list_payments(ADMIN, status=None, since=None, until=None, limit=100, cursor=None)
    existing = chance.choice(listed.items or [None])
    match chance.choice(["pay", "pay", "too much", "hold", "hold", "capture", "capture", "void", "refund", "refund"]):
        case "too much":
            await pay(service, order(amount=10**9, description="a yacht"), key)
        case "capture" if existing is not None:
            await capture(service, existing.transaction_id, key, amount=chance.choice([None, 50]))
        case "void" if existing is not None:
            await void(service, existing.transaction_id, key)
        case "refund" if existing is not None:
            await refund(service, existing.transaction_id, key, amount=chance.choice([None, 20]), reason="broken")
        case choice:
            request = order(amount=chance.randint(50, 900), capture=choice != "hold", metadata={"step": f"{step}"})
            await pay(service, request, key)


@pytest.fixture(scope="module")
def story(scratch: Path) -> Iterator[Path]:
    """Give a folder with both databases as they are in the end, and with their copies."""
    with tempfile.TemporaryDirectory(dir=scratch) as name:
        folder = Path(name)
        for service in SERVICES:
            migrate(service, f"sqlite:///{folder / service}")
        asyncio.run(tell(folder))
        yield folder


@pytest.mark.parametrize(("service", "step"), CUTS)
async def test_what_one_database_has_lost_comes_back_from_the_other(
    service: str, step: int, story: Path, scratch: Path
) -> None:
    with tempfile.TemporaryDirectory(dir=scratch) as name:
        folder = Path(name)
        for each in SERVICES:
            shutil.copy(story / (f"{each}-{step}" if each == service else each), folder / each)
        async with world(story) as before:
            balances, states, decided = before.balances(), before.states(), before.groups()
        async with world(folder, now=NOW + 3 * WEEK) as after:
            lost, orders_lost = states.keys() - after.states().keys(), decided - after.groups()

            cases = await after.reconciled()

            assert [case for case in cases if not case.settled] == []
            # The end of a hold is written down with the hold itself, and finished like any other.
            found = {case.id for case in cases if case.what.startswith("the wallet has it")}
            assert found == {each for each in lost if not each.startswith("exp_")}
            assert len(cases) - len(found) == orders_lost
            await after.wallet.expire_holds()
            await Recovery(after.payment.saga).run_once()
            assert after.balances() == balances
            assert after.states() == states
            assert await after.reconciled() == []
            assert after.faults() == []


@pytest.fixture
async def small(scratch: Path) -> AsyncIterator[World]:
    """Give a world without any history, whose customer can pay."""
    with tempfile.TemporaryDirectory(dir=scratch) as name:
        for service in SERVICES:
            migrate(service, f"sqlite:///{Path(name, service)}")
        async with world(Path(name)) as made:
            await open_wallet(made.wallet, CUSTOMER)
            await open_wallet(made.wallet, MERCHANT, role=Role.MERCHANT)
            request = MoveMoney(customer_id=CUSTOMER, amount=1000, currency="USD", reference="salary")
            await made.wallet.credit(BACK_END, request, None)
            made.copy(0)
            yield made


@asynccontextmanager
async def put_back(made: World, service: str) -> AsyncIterator[World]:
    """The same world, with one database as it was in the beginning."""
    made.databases[service].close()
    shutil.copy(made.folder / f"{service}-0", made.folder / service)
    async with world(made.folder, now=made.clock.now) as after:
        yield after


async def test_what_the_wallet_would_refuse_is_left_and_can_still_be_posted_later(small: World) -> None:
    """A refusal would stand for ever under the payment's ids, so the wallet is only asked what it would say."""
    await pay(small.payment, order(amount=700))
    async with put_back(small, "wallet") as after:
        debit = MoveMoney(customer_id=CUSTOMER, amount=900, currency="USD", reference="cash machine")
        await after.wallet.debit(BACK_END, debit, None)
        [left] = await after.reconciled()
        assert (left.settled, left.amount) == (False, 700)
        assert left.done == "nothing: The available balance is smaller than the amount."

        credit = MoveMoney(customer_id=CUSTOMER, amount=900, currency="USD", reference="sorry")
        await after.wallet.credit(BACK_END, credit, None)
        [settled] = await after.reconciled()

    assert (settled.id, settled.done) == (left.id, "posted again")


async def test_a_key_goes_on_meaning_what_it_meant(small: World) -> None:
    first = await paid(small.payment, order(amount=100), "key")
    async with put_back(small, "payment") as after:
        await after.reconciled()

        again = await paid(after.payment, order(amount=100), "key")

    assert (again.transaction_id, again.created_at) == (first.transaction_id, first.created_at)


async def test_a_key_that_was_used_again_meanwhile_is_left_to_a_person(small: World) -> None:
    """The customer has paid twice, because payment had forgotten the first time: that nobody can undo by rule."""
    await pay(small.payment, order(amount=100), "key")
    async with put_back(small, "payment") as after:
        await pay(after.payment, order(amount=100), "key")

        [left] = await after.reconciled()

    assert (left.settled, left.amount, left.done) == (False, 100, "nothing: its idempotency key was used again")


async def test_states_that_contradict_each_other_are_named(small: World) -> None:
    payment = (await paid(small.payment, order(amount=100))).transaction_id
    small.databases["payment"].transact(lambda tx: tx.execute(payments.update().values(status="FAILED")))

    [left] = await small.reconciled()

    assert (left.id, left.settled, left.what) == (payment, False, "FAILED, but the wallet has posted it")


async def test_a_platform_that_agrees_is_left_alone(small: World) -> None:
    await pay(small.payment, order(amount=100))
    before = small.states()

    assert await small.reconciled() == []
    assert small.states() == before
