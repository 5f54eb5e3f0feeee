"""`ewallet verify` finds and names what is wrong, and finds nothing where nothing is."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from ewallet.cli.databases import migrate_all
from ewallet.cli.terminal import Stopped
from ewallet.cli.verifying import verify
from ewallet.kernel.caller import Role, platform
from ewallet.kernel.clock import system_clock
from ewallet.plumbing.database import open_database
from ewallet.plumbing.settings import SERVICES, Settings, load_settings, variable
from ewallet.wallet.messages import MoveMoney, OpenWallet
from ewallet.wallet.service import WalletService
from tests.conftest import Backend

OWNER = "usr_01k00000000000000000000000"
OTHER = "usr_01k00000000000000000000001"

BACKENDS = ["sqlite", "mariadb"]


@pytest.fixture(params=BACKENDS)
def settings(request: pytest.FixtureRequest, fresh_databases: Callable[[Backend], dict[str, str]]) -> Settings:
    """Give the settings of a platform that has booked three transfers between two wallets and cash."""
    urls = fresh_databases(request.param)
    made = load_settings({variable(f"{service}_database_url"): url for service, url in urls.items()})
    migrate_all(made, SERVICES)
    asyncio.run(_book(made))
    return made


async def _book(settings: Settings) -> None:
    database = open_database(settings.database_url("wallet"), "wallet")
    service, caller = WalletService(database, clock=system_clock), platform("req_1")
    for owner in (OWNER, OTHER):
        await service.open_wallet(
            OpenWallet(owner=owner, role=Role.CUSTOMER, currency="USD", actor=owner, request_id="req_1")
        )
    for owner, reference in ((OWNER, "a"), (OTHER, "b"), (OWNER, "c")):
        order = MoveMoney(customer_id=owner, amount=10_00, currency="USD", reference=reference)
        await service.credit(caller, order, None)
    database.close()


def tamper(settings: Settings, *statements: str) -> None:
    """Change the wallet's tables as somebody with the database's password could."""
    database = open_database(settings.database_url("wallet"), "wallet")
    try:
        database.transact(lambda tx: [tx.execute(text(statement)) for statement in statements])
    finally:
        database.close()


def faults(settings: Settings, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(Stopped, match="found"):
        verify(settings)
    return capsys.readouterr().out


def test_books_in_order_are_ticked_off_with_their_counts(
    settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    verify(settings)

    shown = capsys.readouterr().out
    assert [line[0] for line in shown.splitlines()] == ["✓", "✓", "✓", "✓"]
    assert "3 transfers" in shown


def test_a_balance_that_was_helped_along_is_named(settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    tamper(settings, "UPDATE wallet_accounts SET credits_posted = credits_posted + 1 WHERE credits_posted = 2000")

    shown = faults(settings, capsys)

    assert f"{OWNER}:USD" in shown
    assert "do not sum to zero" in shown


def test_a_transfer_that_was_changed_is_named(settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    tamper(
        settings,
        "DROP TRIGGER wallet_transfers_no_update",
        "UPDATE wallet_transfers SET amount = amount + 1 WHERE reference = 'b'",
    )

    assert f"{OTHER}:USD" in faults(settings, capsys)


def test_an_audit_record_that_was_changed_is_named(settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    tamper(
        settings,
        "DROP TRIGGER wallet_audit_no_update",
        "UPDATE wallet_audit SET actor = 'somebody else' WHERE sequence = 2",
    )

    assert "audit record 2" in faults(settings, capsys)


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM wallet_transfers",
        "UPDATE wallet_transfers SET amount = 1",
        "DELETE FROM wallet_audit",
        "UPDATE wallet_audit SET actor = 'somebody else'",
    ],
)
def test_the_database_itself_refuses_to_change_the_books(settings: Settings, statement: str) -> None:
    with pytest.raises(DBAPIError, match="append-only"):
        tamper(settings, statement)


def test_verifying_what_was_never_started_says_so(tmp_path: Path) -> None:
    with pytest.raises(Stopped, match="start the platform once"):
        verify(Settings(data=str(tmp_path / "nowhere")))

    assert list(tmp_path.iterdir()) == []


def test_verifying_a_database_without_tables_says_what_to_do(mariadb_url: str) -> None:
    with pytest.raises(Stopped, match="ewallet migrate"):
        verify(Settings(wallet_database_url=mariadb_url))
