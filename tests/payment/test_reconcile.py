"""One database is put back to an older copy: everything that is lost is found, and no unit is missing after it.

A story of random payments, operations and direct movements is told once, and all databases are copied before each of
its steps. Then each of them is put back to every one of its copies. SEED repeats a story.
"""

import asyncio
import os
import random
import shutil
import sqlite3
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing, nullcontext
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import AsyncMock

import msgspec
import pytest
from sqlalchemy import Connection, func, or_, select

from ewallet.kernel.caller import Role
from ewallet.kernel.clock import MICROSECONDS_PER_SECOND
from ewallet.kernel.errors import OutcomeUnknown, Refused
from ewallet.notification.service import NotificationService
from ewallet.notification.store import inbox
from ewallet.payment.reconcile import Reconciliation
from ewallet.payment.saga import LEASE_SECONDS, Saga
from ewallet.payment.service import PaymentService
from ewallet.payment.store import operations, outbox, payments
from ewallet.payment.worker import Recovery
from ewallet.plumbing.database import Database, open_database
from ewallet.plumbing.outbox import Event
from ewallet.plumbing.reconciling import Case
from ewallet.plumbing.verifying import count
from ewallet.wallet import store as wallet_store
from ewallet.wallet.domain.wallets import Change
from ewallet.wallet.messages import MoveMoney
from ewallet.wallet.service import WalletService
from ewallet.wallet.store import accounts, groups, keys
from tests.support.migrated import migrate
from tests.support.notification import LANGUAGES
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

STEPS = 34
SEED = int(os.environ.get("SEED", random.randrange(10**9)))
SERVICES = ("wallet", "payment", "notification")
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
    """A wallet, a payment and a notification service on databases in one folder."""

    folder: Path
    clock: TickingClock
    databases: dict[str, Database]
    wallet: WalletService
    payment: PaymentService
    notification: NotificationService

    async def reconciled(self) -> list[Case]:
        database, saga = self.databases["payment"], self.payment.saga
        return await Reconciliation(database, self.wallet, saga, receiver=self.notification, clock=self.clock).run()

    async def relayed(self) -> None:
        """Let everything that was told arrive."""
        for service, waiting in (("wallet", wallet_store.outbox.events), ("payment", outbox.events)):
            rows = self.databases[service].read(lambda tx: tx.execute(select(waiting).order_by("sequence")).all())  # noqa: B023  # read at once
            assert not await self.notification.deliver([msgspec.json.decode(row.payload, type=Event) for row in rows])
            self.databases[service].transact(lambda tx: tx.execute(waiting.delete()))  # noqa: B023  # as above

    def inbox(self) -> dict[str, tuple[str, ...]]:
        """What everybody was told, by the ids of the notifications."""
        columns = [each for each in inbox.c if each.name not in ("sequence", "read_at")]
        query = select(inbox.c.id, *columns)
        return self.databases["notification"].read(lambda tx: {row[0]: tuple(row[1:]) for row in tx.execute(query)})

    def copy(self, step: int) -> None:
        """Copy the databases as they are, while they are open."""
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
        """How many orders and movements the wallet has decided."""
        return self.databases["wallet"].read(lambda tx: count(tx, groups))

    def keys(self) -> set[tuple[str, ...]]:
        """The idempotency keys of direct movements, and what they belong to."""
        query = select(keys.c.caller, keys.c.idempotency_key, keys.c.group_id)
        return self.databases["wallet"].read(lambda tx: {tuple(row) for row in tx.execute(query)})

    def faults(self) -> list[str]:
        return [*faults_in(self.wallet), *faults_in(self.payment)]


@asynccontextmanager
async def world(folder: Path, now: int = NOW) -> AsyncIterator[World]:
    clock = TickingClock(now)
    databases = {service: open_database(f"sqlite:///{folder / service}", service) for service in SERVICES}
    notification = NotificationService(databases["notification"], languages=LANGUAGES, clock=clock)
    wallet = WalletService(databases["wallet"], clock=clock, receiver=notification)
    payment = PaymentService(
        databases["payment"],
        wallet,
        fees=TWO_PERCENT,
        hold_seconds=HOLD_SECONDS,
        clock=clock,
        events_added=lambda: None,
    )
    try:
        yield World(folder, clock, databases, wallet, payment, notification)
    finally:
        for database in databases.values():
            database.close()


async def tell(folder: Path) -> None:
    """Let random things happen, and copy all databases before each."""
    async with world(folder) as told:
        await open_wallet(told.wallet, CUSTOMER)
        await open_wallet(told.wallet, MERCHANT, role=Role.MERCHANT)
        request = MoveMoney(customer_id=CUSTOMER, amount=FUNDS, currency="USD", reference="salary")
        await told.wallet.credit(BACK_END, request, None)
        chance = random.Random(SEED)
        print(f"SEED={SEED}")  # noqa: T201  # to repeat what failed
        for step in range(STEPS):
            await told.relayed()
            told.copy(step)
            if step == STEPS - 10:
                await a_week_passes(told)
            await happen(told, chance, step)
        await a_week_passes(told)
        await told.relayed()


async def a_week_passes(told: World) -> None:
    """And every hold that is left ends."""
    told.clock.now += WEEK
    await told.wallet.expire_holds()
    await Recovery(told.payment.saga).run_once()


async def happen(told: World, chance: random.Random, step: int) -> None:
    service, key = told.payment, chance.choice([None, f"key-{step}"])
    listed = await service.list_payments(ADMIN, status=None, since=None, until=None, limit=100, cursor=None)
    existing = chance.choice(listed.items or [None])
    match chance.choice(["pay", "pay", "too much", "hold", "hold", "capture", "capture", "void", "refund", "move"]):
        case "move":
            await move(told.wallet, chance, step, key)
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


async def move(wallet: WalletService, chance: random.Random, step: int, key: str | None) -> None:
    """A direct credit or debit, perhaps in a currency that the wallet did not have, and a scare."""
    currency = chance.choice(["USD", "EUR"])
    await wallet.open_balance(ADMIN, CUSTOMER, currency)
    request = MoveMoney(customer_id=CUSTOMER, amount=100 + step, currency=currency, reference=f"step {step}")
    await wallet.credit(BACK_END, request, key)
    if chance.random() < 0.5:
        back = MoveMoney(customer_id=CUSTOMER, amount=50, currency=currency, reference=f"back {step}", description="no")
        await wallet.debit(BACK_END, back, None)
    for change in (Change.FREEZE, Change.UNFREEZE):
        await wallet.change_status(ADMIN, CUSTOMER, change, "a scare")


@pytest.fixture(scope="module")
def story(scratch: Path) -> Iterator[Path]:
    """Give a folder with all databases as they are in the end, and with their copies."""
    with tempfile.TemporaryDirectory(dir=scratch) as name:
        folder = Path(name)
        for service in SERVICES:
            migrate(service, f"sqlite:///{folder / service}")
        asyncio.run(tell(folder))
        yield folder


@pytest.mark.parametrize(("service", "step"), CUTS)
async def test_what_one_database_has_lost_comes_back_from_the_others(
    service: str, step: int, story: Path, scratch: Path
) -> None:
    with tempfile.TemporaryDirectory(dir=scratch) as name:
        folder = Path(name)
        for each in SERVICES:
            shutil.copy(story / (f"{each}-{step}" if each == service else each), folder / each)
        async with world(story) as before:
            balances, states, decided = before.balances(), before.states(), before.groups()
            told, used = before.inbox(), before.keys()
        async with world(folder, now=NOW + 3 * WEEK) as after:
            lost, orders_lost = states.keys() - after.states().keys(), decided - after.groups()
            untold = {(row[2], *row[5:]) for each, row in told.items() if each not in after.inbox()}

            cases = await after.reconciled()

            assert [case for case in cases if not case.settled] == []
            # The end of a hold is written down with the hold itself, and finished like any other.
            found = {case.id for case in cases if case.what.startswith("the wallet has it")}
            assert found == {each for each in lost if not each.startswith("exp_")}
            events = [case for case in cases if case.done == "told again"]
            assert len(events) == len(untold)
            assert len(cases) - len(found) - len(events) == orders_lost
            await after.wallet.expire_holds()
            await Recovery(after.payment.saga).run_once()
            await after.relayed()
            assert after.balances() == balances
            assert after.states() == states
            assert after.keys() == used
            assert after.inbox() == told
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


async def test_an_operation_on_a_payment_that_cannot_be_written_down_is_named_too(small: World) -> None:
    payment = (await paid(small.payment, order(amount=100), "key")).transaction_id
    await refund(small.payment, payment, amount=30)
    async with put_back(small, "payment") as after:
        await pay(after.payment, order(amount=100), "key")

        _payment, left = await after.reconciled()

    assert (left.settled, left.amount, left.done) == (False, 30, "nothing: its payment could not be written down")


@pytest.mark.parametrize("cut", [None, "payment"], ids=["known", "lost"])
async def test_an_order_with_another_body_is_named_with_its_amount(small: World, cut: str | None) -> None:
    """Whoever asks again by this id would be told that it is another order's: nobody can finish it by rule."""
    payment = (await paid(small.payment, order(amount=100))).transaction_id
    change_bodies(small.databases["wallet"], '"hash"', '"table":7,"hash"')
    async with put_back(small, cut) if cut else nullcontext(small) as after:
        [left] = await after.reconciled()

    assert (left.id, left.settled, left.amount) == (payment, False, 100)
    assert left.what.endswith("the wallet has an order of 1.00 USD by its id, with a different memo")


def change_bodies(database: Database, old: str, new: str) -> None:
    """Change every order in the wallet by hand."""

    def change(tx: Connection) -> None:
        for (trigger,) in tx.exec_driver_sql("SELECT name FROM sqlite_schema WHERE type = 'trigger'").all():
            tx.exec_driver_sql(f"DROP TRIGGER {trigger}")
        tx.execute(groups.update().values(body=func.replace(groups.c.body, old, new)))

    database.transact(change)


async def test_what_is_under_way_is_no_disagreement_and_what_was_left_behind_is_finished(
    small: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody may be carrying it out; when nobody can be any more, others may need its outcome."""
    with monkeypatch.context() as patched:
        patched.setattr(Saga, "_settle", AsyncMock(side_effect=OutcomeUnknown("the process has died")))
        with pytest.raises(Refused):
            await pay(small.payment, order(amount=100))

    assert await small.reconciled() == []
    [(payment, (status, _, _))] = small.states().items()
    assert status == "PENDING"
    change_bodies(small.databases["wallet"], '"hash"', '"table":7,"hash"')
    small.clock.now += LEASE_SECONDS * MICROSECONDS_PER_SECOND
    [left] = await small.reconciled()
    assert left.what.startswith("PENDING, but the wallet has an order of 1.00 USD")
    change_bodies(small.databases["wallet"], '"table":7,', "")
    assert await small.reconciled() == []
    assert small.states()[payment][0] == "SUCCESS"


async def test_balances_that_the_wallet_has_lost_are_opened_again(small: World) -> None:
    for owner, role in ((CUSTOMER, Role.CUSTOMER), (MERCHANT, Role.MERCHANT)):
        await open_wallet(small.wallet, owner, role=role, currency="EUR")
    salary = MoveMoney(customer_id=CUSTOMER, amount=500, currency="EUR", reference="Gehalt")
    await small.wallet.credit(BACK_END, salary, "key")
    await pay(small.payment, order(amount=100, currency="EUR"))
    await small.relayed()
    balances = small.balances()
    async with put_back(small, "wallet") as after:
        moved, posted = await after.reconciled()
        assert after.balances() == balances
        assert await after.reconciled() == []

    assert (moved.amount, moved.currency, moved.done) == (500, "EUR", "booked again")
    assert (posted.amount, posted.currency, posted.done) == (100, "EUR", "posted again")


async def test_a_lost_movement_whose_reference_was_used_again_is_left_to_a_person(small: World) -> None:
    """Its back end may have repeated it, which is well, or ordered something else with the reference."""
    for reference in ("repeated", "used again"):
        request = MoveMoney(customer_id=CUSTOMER, amount=50, currency="USD", reference=reference)
        await small.wallet.credit(BACK_END, request, None)
    await small.relayed()
    async with put_back(small, "wallet") as after:
        for reference, amount in (("repeated", 50), ("used again", 60)):
            request = MoveMoney(customer_id=CUSTOMER, amount=amount, currency="USD", reference=reference)
            await after.wallet.credit(BACK_END, request, None)

        [left] = await after.reconciled()

    assert (left.settled, left.amount, left.done) == (False, 50, "nothing: its reference was used again")


async def test_a_lost_debit_that_is_not_covered_any_more_is_left_and_can_be_booked_later(small: World) -> None:
    debit = MoveMoney(customer_id=CUSTOMER, amount=900, currency="USD", reference="cash machine")
    await small.wallet.debit(BACK_END, debit, None)
    await small.relayed()
    async with put_back(small, "wallet") as after:
        await pay(after.payment, order(amount=700))
        [left] = await after.reconciled()
        credit = MoveMoney(customer_id=CUSTOMER, amount=900, currency="USD", reference="sorry")
        await after.wallet.credit(BACK_END, credit, None)
        [settled] = await after.reconciled()

    assert (left.settled, left.amount) == (False, 900)
    assert (settled.id, settled.done) == (left.id, "booked again")


async def test_a_dead_letter_is_told_again_and_named_while_it_cannot_be(small: World) -> None:
    """There is no other way back for what the relay has given up."""
    await pay(small.payment, order(amount=100))
    give_up(small.databases["payment"])
    rename(small.databases["payment"], "payment.succeeded", "payment.paid")
    [left] = await small.reconciled()
    rename(small.databases["payment"], "payment.paid", "payment.succeeded")

    [settled] = await small.reconciled()

    assert (left.settled, left.amount) == (False, 100)
    assert left.done == "nothing: there are no words for the event 'payment.paid'"
    assert (settled.id, settled.settled, settled.done) == (left.id, True, "told again")
    assert await small.reconciled() == []
    assert [row[2] for row in small.inbox().values()] == ["payment.succeeded"] * 2


def give_up(database: Database) -> None:
    """As the relay does in the end."""

    def move(tx: Connection) -> None:
        [row] = tx.execute(select(outbox.events)).all()
        dead = {"sequence": row.sequence, "event_id": row.event_id, "payload": row.payload}
        tx.execute(outbox.dead.insert().values(**dead, error="poison", given_up_at=NOW))
        tx.execute(outbox.events.delete())

    database.transact(move)


def rename(database: Database, old: str, new: str) -> None:
    """Give the event of a dead letter another name."""
    payload = func.replace(outbox.dead.c.payload, old, new)
    database.transact(lambda tx: tx.execute(outbox.dead.update().values(payload=payload)))


async def test_a_platform_that_agrees_is_left_alone(small: World) -> None:
    await pay(small.payment, order(amount=100))
    before = small.states()

    assert await small.reconciled() == []
    assert small.states() == before
