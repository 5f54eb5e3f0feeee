"""Whatever somebody changes by hand in the wallet's books, ``verify`` names it."""

import asyncio
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Column, Connection, Table, text

from ewallet.kernel.caller import Role
from ewallet.kernel.errors import unwrap
from ewallet.plumbing import verifying
from ewallet.wallet import store
from ewallet.wallet.domain.wallets import Change
from ewallet.wallet.messages import MoveMoney, SetLimits, TransferKind
from ewallet.wallet.service import WalletService
from ewallet.wallet.verify import faults
from tests.support.plumbing import ManualClock
from tests.support.tampering import Tampered, copied, found, path_of, tables_of
from tests.support.wallet import (
    ADMIN,
    ALICE,
    BACK_END,
    BOB,
    CAROL,
    NOW,
    group,
    open_wallet,
    opened_database,
    payment,
    running_wallet,
    transfer,
)

BOOKS = tables_of(
    store.metadata,
    # What is on its way, and who may do background work: neither is kept.
    without={"wallet_outbox", "wallet_outbox_dead", "wallet_leases"},
)
COLUMNS = [(table, column) for table in BOOKS for column in table.columns]


async def fill(url: str) -> None:
    """Books in which every sort of thing has happened."""
    clock = ManualClock(NOW)
    async with running_wallet(url, clock=clock) as wallet:
        await open_wallet(wallet, ALICE, amount=10_000)
        await open_wallet(wallet, ALICE, currency="EUR", amount=500)
        await open_wallet(wallet, BOB, role=Role.MERCHANT)
        await open_wallet(wallet, CAROL)
        for reference, amount in (("r1", 100), ("r2", 200), ("r3", 999_999)):
            order = MoveMoney(customer_id=ALICE, amount=amount, currency="USD", reference=reference, description="d")
            await wallet.debit(BACK_END, order, f"key-{reference}")
        await wallet.post_group(payment(ALICE, BOB, 1250, 25))
        await wallet.post_group(payment(ALICE, BOB, 999_999, 25))
        await wallet.abandon_group(payment(ALICE, BOB, 77, 7))
        await hold_and_end(wallet)
        for owner, per_day in ((ALICE, 1000), (ALICE, 2000), (BOB, 3000)):
            limits = SetLimits(per_payment=100, per_day=per_day, per_month=None)
            unwrap(await wallet.change_limits(ADMIN, owner, "USD", limits))
        clock.pass_seconds(60)
        assert await wallet.expire_holds() == 1
        for owner, change in (
            (BOB, Change.FREEZE),
            (BOB, Change.UNFREEZE),
            (CAROL, Change.CLOSE),
            (BOB, Change.FREEZE),
        ):
            unwrap(await wallet.change_status(ADMIN, owner, change, "because"))


async def hold_and_end(wallet: WalletService) -> None:
    """Four holds: one taken in part, one released, one about to expire, one that stays."""
    orders = [
        transfer(ALICE, BOB, 100 + n, kind=TransferKind.PENDING, timeout_seconds=60 if n == 2 else None)
        for n in range(4)
    ]
    for order in orders:
        await wallet.post_group(group(order))
    await wallet.post_group(group(transfer(ALICE, BOB, 40, kind=TransferKind.POST, pending_id=orders[0].id)))
    await wallet.post_group(group(transfer(ALICE, BOB, 101, kind=TransferKind.VOID, pending_id=orders[1].id)))


@pytest.fixture(scope="module")
def original(scratch: Path) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        url = f"sqlite:///{folder}/wallet"
        asyncio.run(fill(url))
        yield path_of(url)


@pytest.fixture
def folder(scratch: Path) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=scratch) as name:
        yield Path(name)


@pytest.fixture
def tampered(original: Path, folder: Path) -> Tampered:
    return Tampered(original, folder / "wallet", "wallet")


def name_of(table: Table, row: dict[str, Any]) -> str:
    """What a person knows a row by."""
    match table.name:
        case "wallet_audit":
            return f"record {row['sequence']}"
        case "wallet_audit_head":
            return "audit"
        case "wallet_wallets":
            return str(row["owner"])
        case "wallet_limits":
            return str(row["account"])
        case _:
            return str(row["id"])


def test_books_that_nobody_touched_are_whole(tampered: Tampered, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many pages they have."""
    for at_once in (verifying.AT_ONCE, 7, 1):
        monkeypatch.setattr(verifying, "AT_ONCE", at_once)
        assert tampered.faults(faults) == ""


@pytest.mark.parametrize(("table", "column"), COLUMNS, ids=lambda part: part.name)
def test_a_value_that_was_changed_is_named(table: Table, column: Column[Any], original: Path, folder: Path) -> None:
    rows = Tampered(original, folder / "rows", "wallet").rows(table)
    for number in {0, len(rows) // 2, len(rows) - 1}:
        tampered = Tampered(original, folder / f"wallet-{number}", "wallet")
        row = rows[number]
        after = row | {column.name: tampered.change(table, row, column)}

        shown = tampered.faults(faults)

        assert name_of(table, row) in shown or name_of(table, after) in shown, (row, after, shown)


REMOVABLE = [
    table
    for table in BOOKS
    # A key without its row is forgotten, no more: its reference still keeps money from moving twice.
    if table.name != "wallet_keys"
]


@pytest.mark.parametrize("table", REMOVABLE, ids=lambda table: table.name)
def test_a_row_that_was_removed_is_named(table: Table, original: Path, folder: Path) -> None:
    rows = Tampered(original, folder / "rows", "wallet").rows(table)
    for number, row in enumerate(rows):
        tampered = Tampered(original, folder / f"wallet-{number}", "wallet")
        tampered.remove(table, row)

        assert named(table, row) in tampered.faults(faults)


def named(table: Table, row: dict[str, Any]) -> str:
    """What is said of a row that is gone: a transfer is known by its group then."""
    return str(row["group_id"]) if table.name == "wallet_transfers" else name_of(table, row)


@pytest.mark.parametrize("table", REMOVABLE, ids=lambda table: table.name)
def test_the_end_of_a_table_that_was_cut_off_is_found(table: Table, tampered: Tampered) -> None:
    tail = tampered.rows(table)[-2:]
    tampered.remove(table, *tail)

    first_wrong = tail[0] if table.name == "wallet_audit" else tail[-1]
    assert named(table, first_wrong) in tampered.faults(faults)


@pytest.mark.parametrize("table", BOOKS, ids=lambda table: table.name)
def test_a_row_that_was_copied_is_named(table: Table, tampered: Tampered) -> None:
    row = copied(table, tampered.rows(table)[-1])
    tampered.insert(table, row)

    shown = tampered.faults(faults)

    assert name_of(table, row) in shown


@pytest.mark.parametrize(
    "table", [table for table in BOOKS if table.name != "wallet_audit_head"], ids=lambda table: table.name
)
def test_two_rows_that_changed_places_are_named(table: Table, tampered: Tampered) -> None:
    first, *_, last = tampered.rows(table)
    tampered.swap(table, first, last)

    shown = tampered.faults(faults)

    assert name_of(table, first) in shown


def test_an_older_row_that_was_put_back_is_named(database_url: str) -> None:
    """Its own seal is whole: what others say of it gives it away. Here of a hold that is as if it had never ended."""

    async def scenario() -> None:
        async with running_wallet(database_url) as wallet:
            await open_wallet(wallet, ALICE, amount=100)
            await open_wallet(wallet, BOB)
            hold = transfer(ALICE, BOB, 10, kind=TransferKind.PENDING)
            await wallet.post_group(group(hold))
            before = wallet._database.read(lambda tx: tx.execute(store.holds.select()).one())
            await wallet.post_group(group(transfer(ALICE, BOB, 10, kind=TransferKind.POST, pending_id=hold.id)))
            values = dict(before._mapping)
            wallet._database.transact(lambda tx: tx.execute(store.holds.update().values(**values)))
            assert f"hold {hold.id} is PENDING" in found(wallet._database, faults)

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ("UPDATE wallet_transfers SET description = 'y' WHERE kind = 'POST'", "is not what audit record"),
        ("UPDATE wallet_groups SET request_id = 'x'", "is not what audit record"),
        ("DELETE FROM wallet_transfers WHERE amount = 25", "is missing"),
        ("UPDATE wallet_accounts SET version = version + 1 WHERE owner = 'cash'", "account cash:USD"),
        ("UPDATE wallet_wallets SET status = 'ACTIVE'", f"wallet {BOB}"),
        ("DELETE FROM wallet_holds WHERE state = 'EXPIRED'", "is missing"),
        ("UPDATE wallet_keys SET idempotency_key = 'x'", "idempotency key"),
    ],
)
def test_mariadb_is_verified_in_the_same_way(mariadb_url: str, change: str, fault: str) -> None:
    asyncio.run(fill(mariadb_url))
    with opened_database(mariadb_url) as database:
        assert found(database, faults) == ""
        triggers = [f"wallet_{table}_no_{verb}" for table in ("transfers", "groups") for verb in ("update", "delete")]
        for statement in (*(f"DROP TRIGGER {trigger}" for trigger in triggers), change):
            database.transact(partial(Connection.execute, statement=text(statement)))

        assert fault in found(database, faults)
