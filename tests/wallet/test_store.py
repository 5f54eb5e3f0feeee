"""What the database itself keeps, and what ``verify`` finds when somebody got past it."""

from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import Connection, event, text
from sqlalchemy.exc import DBAPIError

from ewallet.kernel.caller import Caller, Role
from ewallet.plumbing.database import Database
from ewallet.plumbing.http.contract import encode_cursor
from ewallet.plumbing.telemetry import LEDGER_BALANCE, LEDGER_HELD, LEDGER_IMBALANCE, OUTBOX_OLDEST, OUTBOX_WAITING
from ewallet.wallet.messages import TransferKind, ValidateWallet
from ewallet.wallet.service import WalletService
from ewallet.wallet.store import StatementFilter, figures, statement_query, wallets_with_accounts
from tests.support.plumbing import before_each_read
from tests.support.verifying import faults_in
from tests.support.wallet import ALICE, BOB, group, open_wallet, opened_database, payment, transfer

APPEND_ONLY = ("wallet_transfers", "wallet_groups", "wallet_audit")


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    with opened_database(database_url) as opened:
        yield opened


@pytest.fixture
async def wallet(database: Database) -> WalletService:
    """A wallet in which every sort of thing has happened once."""
    service = WalletService(database, clock=lambda: 1_790_000_000_000_000)
    await open_wallet(service, ALICE, amount=10_000)
    await open_wallet(service, BOB, role=Role.MERCHANT)
    await service.post_group(payment(ALICE, BOB, 1250, 25))
    await service.post_group(payment(ALICE, BOB, 999_999, 25))
    await service.post_group(group(transfer(ALICE, BOB, 100, kind=TransferKind.PENDING)))
    return service


def execute(database: Database, statement: str) -> None:
    database.transact(lambda tx: tx.execute(text(statement)))


@pytest.mark.usefixtures("wallet")
@pytest.mark.parametrize("table", APPEND_ONLY)
@pytest.mark.parametrize("statement", ["UPDATE {} SET at = 0", "DELETE FROM {}"])
def test_the_database_refuses_to_change_the_books(database: Database, table: str, statement: str) -> None:
    with pytest.raises(DBAPIError, match=f"{table} is append-only"):
        execute(database, statement.format(table))


@pytest.mark.usefixtures("wallet")
@pytest.mark.parametrize(
    "change",
    [
        "UPDATE wallet_accounts SET debits_posted = credits_posted + 1 WHERE owner = 'usr_alice'",
        "UPDATE wallet_accounts SET debits_pending = credits_posted + 1 WHERE owner = 'usr_alice'",
        "UPDATE wallet_accounts SET credits_posted = -1 WHERE owner = 'cash'",
        "UPDATE wallet_accounts SET debits_pending = -1 WHERE owner = 'cash'",
        "UPDATE wallet_holds SET amount = 0",
        "INSERT INTO wallet_groups (id, outcome, body, request_id, at, reason) VALUES ('g', 'posted', '', '', 0, 'x')",
    ],
)
def test_the_database_refuses_what_the_rules_refuse(database: Database, change: str) -> None:
    with pytest.raises(DBAPIError, match=r"(?i)check|constraint"):
        execute(database, change)


@pytest.mark.usefixtures("wallet")
def test_a_wallet_whose_accounts_are_gone_is_still_there(database: Database) -> None:
    """Whoever reads it is not told that it does not exist; ``verify`` says what is wrong."""
    execute(database, "DELETE FROM wallet_accounts WHERE owner = 'usr_bob'")

    found = database.read(lambda tx: wallets_with_accounts(tx, [ALICE, BOB]))

    assert {owner: len(accounts) for owner, (_, accounts) in found.items()} == {ALICE: 1, BOB: 0}


def test_sound_books_have_no_faults(wallet: WalletService) -> None:
    assert faults_in(wallet) == []


@pytest.mark.usefixtures("wallet")
def test_what_the_books_hold_is_told_by_kind_of_owner_and_sums_up_to_zero(database: Database) -> None:
    found = database.read(lambda tx: list(figures(tx, 1_790_000_003_000_000)))
    value = {(figure.gauge, *figure.labels): figure.value for figure in found}

    by_owner = {owner: value[LEDGER_BALANCE, "USD", owner] for owner in ("customer", "merchant", "fees", "cash")}
    assert by_owner == {"customer": 8_750, "merchant": 1_225, "fees": 25, "cash": -10_000}
    assert (value[LEDGER_HELD, "USD"], value[LEDGER_IMBALANCE, "USD"]) == (100, 0)
    assert (value[OUTBOX_WAITING, "wallet"], value[OUTBOX_OLDEST, "wallet"]) == (1, 3)


@pytest.mark.usefixtures("wallet")
def test_a_balance_that_was_made_up_shows_as_an_imbalance(database: Database) -> None:
    execute(database, "UPDATE wallet_accounts SET credits_posted = credits_posted + 7 WHERE owner = 'usr_bob'")

    found = database.read(lambda tx: list(figures(tx, 1_790_000_000_000_000)))

    assert [figure.value for figure in found if figure.gauge is LEDGER_IMBALANCE] == [7]


def _unlocked(database: Database, table: str, statement: str) -> None:
    """What somebody with all rights could do."""

    def tamper(tx: Connection) -> None:
        for verb in ("update", "delete"):
            tx.execute(text(f"DROP TRIGGER {table}_no_{verb}"))
        tx.execute(text(statement))

    database.transact(tamper)


@pytest.mark.parametrize(
    ("table", "change", "fault"),
    [
        ("wallet_transfers", "UPDATE wallet_transfers SET amount = amount + 1 WHERE amount = 1225", "usr_bob:USD"),
        ("wallet_transfers", "DELETE FROM wallet_transfers WHERE amount = 25", "fees:USD"),
        ("wallet_transfers", "UPDATE wallet_transfers SET debit_balance_after = 1 WHERE amount = 25", "had 1 after"),
        ("wallet_transfers", "UPDATE wallet_transfers SET debit_account = 'x:USD' WHERE amount = 25", "does not exist"),
        ("wallet_audit", "UPDATE wallet_audit SET result = 'ok' WHERE result <> 'ok'", "is not what was written"),
        ("wallet_audit", "DELETE FROM wallet_audit WHERE sequence = 2", "audit record 2 is missing"),
    ],
)
def test_a_change_behind_the_rules_is_found_and_named(
    wallet: WalletService, database: Database, table: str, change: str, fault: str
) -> None:
    _unlocked(database, table, change)

    assert any(fault in sentence for sentence in faults_in(wallet))


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ("UPDATE wallet_accounts SET credits_posted = credits_posted + 1 WHERE owner = 'usr_bob'", "sum to zero"),
        ("UPDATE wallet_accounts SET credits_posted = credits_posted + 1 WHERE owner = 'usr_bob'", "usr_bob:USD has"),
        ("UPDATE wallet_accounts SET debits_pending = 7 WHERE owner = 'usr_alice'", "usr_alice:USD holds 7"),
        ("UPDATE wallet_holds SET state = 'VOIDED'", "usr_alice:USD holds 100"),
        ("UPDATE wallet_holds SET debit_account = 'x:USD'", "does not exist"),
        ("UPDATE wallet_audit_head SET sequence = sequence - 1", "audit record"),
    ],
)
def test_a_wrong_balance_is_found_and_named(wallet: WalletService, database: Database, change: str, fault: str) -> None:
    execute(database, change)

    assert any(fault in sentence for sentence in faults_in(wallet))


@pytest.mark.usefixtures("wallet")
def test_a_statement_reads_ranges_of_indexes_and_scans_nothing(database: Database) -> None:
    """A merchant with millions of entries must get the newest twenty at once."""
    query = statement_query(["usr_bob:USD"], StatementFilter(None, None, 999, 21))

    def plan(tx: Connection) -> str:
        compiled = query.compile(dialect=tx.dialect, compile_kwargs={"literal_binds": True})
        verb = "EXPLAIN QUERY PLAN" if database.dialect == "sqlite" else "EXPLAIN"
        return "\n".join(str(tuple(row)) for row in tx.exec_driver_sql(f"{verb} {str(compiled).replace('%%', '%')}"))

    explained = database.read(plan)

    for index in ("wallet_transfers_by_debit_account", "wallet_transfers_by_credit_account"):
        assert index in explained, explained
    assert "SCAN wallet_transfers" not in explained
    assert "wallet_transfers', 'ALL'" not in explained, explained


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_no_look_reads_a_whole_table(wallet: WalletService, database: Database) -> None:
    """Each must find its rows by an index, however many accounts and transfers there are."""
    looked: list[tuple[str, Any]] = []
    event.listen(database._reader, "before_cursor_execute", lambda *call: looked.append((call[2], call[3])))
    staff = Caller("usr_admin", Role.ADMIN, "req_look")
    page: dict[str, Any] = {"limit": 1, "cursor": encode_cursor(10**9)}
    since, until = "2020-01-01T00:00:00Z", "2090-01-01T00:00:00Z"

    with before_each_read(lambda statement, values: looked.append((statement, values))):
        await wallet.wallet(staff, ALICE)
        await wallet.limits(staff, ALICE)
        await wallet.validate(staff, ValidateWallet(customer_id=ALICE, amount=1, currency="USD"))
        await wallet.try_group(payment(ALICE, BOB, 1250, 25))
        await wallet.statement(staff, ALICE, currency="USD", start=since, end=until, **page)
        await wallet.statement(staff, BOB, currency=None, start=None, end=None, limit=1, cursor=None)
        await wallet.audit_trail(staff, subject=ALICE, request_id=None, **page)
        await wallet.audit_trail(staff, subject=None, request_id="req_look", **page)
        await wallet.audit_trail(staff, subject=None, request_id=None, **page)
        await wallet.without_wallet([ALICE, "usr_nobody"])
        await wallet.find_orders(["grp_unknown"])
        await wallet.orders_after(0)

    def plan(tx: Connection) -> list[str]:
        steps = [tx.exec_driver_sql(f"EXPLAIN QUERY PLAN {sql}", tuple(values)) for sql, values in tuple(looked)]
        return [step.detail for rows in steps for step in rows]

    steps = database.read(plan)
    assert len(steps) > 12
    assert [step for step in steps if step.startswith("SCAN wallet_")] == []
