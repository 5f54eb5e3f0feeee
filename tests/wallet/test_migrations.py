"""The migrated schema is the one that the statements expect, on both databases."""

from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, inspect

from ewallet.plumbing.schema import version_table
from ewallet.wallet.store import metadata
from tests.support.wallet import opened_database


def test_the_migrations_make_the_tables_of_the_store(database_url: str) -> None:
    def differences(tx: Connection) -> list[object]:
        context = MigrationContext.configure(tx, opts={"version_table": version_table("wallet"), "compare_type": True})
        return list(compare_metadata(context, metadata))

    with opened_database(database_url) as database:
        assert database.read(differences) == []


def test_the_migrations_make_the_checks_of_the_store(database_url: str) -> None:
    def checks(tx: Connection) -> set[str | None]:
        inspector = inspect(tx)
        return {check["name"] for name in metadata.tables for check in inspector.get_check_constraints(name)}

    with opened_database(database_url) as database:
        assert database.read(checks) == {
            "wallet_accounts_count_up",
            "wallet_accounts_not_below_zero",
            "wallet_accounts_spent_counts_up",
            "wallet_transfers_amount_is_positive",
            "wallet_transfers_accounts_are_different",
            "wallet_holds_amount_is_positive",
            "wallet_groups_posted_or_refused",
        }
