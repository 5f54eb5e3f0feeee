"""Wallets, accounts, limits, transfers, holds, outcomes and keys, with the audit, the outbox and the leases."""

from alembic import op
from sqlalchemy import CheckConstraint, Column, Index, MetaData, UniqueConstraint

from ewallet.plumbing.schema import (
    IDENTIFIER,
    INTEGER,
    KEY,
    LONG_TEXT,
    SHORT_TEXT,
    create_missing,
    insert_missing,
    make_append_only,
    table,
)

revision = "wallet_0001"
down_revision = None


def upgrade() -> None:
    connection = op.get_bind()
    metadata = MetaData()
    table(
        "wallet_wallets",
        metadata,
        Column("owner", IDENTIFIER, primary_key=True),
        Column("role", IDENTIFIER, nullable=False),
        Column("status", IDENTIFIER, nullable=False),
        Column("created_at", INTEGER, nullable=False),
        Column("updated_at", INTEGER, nullable=False),
    )
    table(
        "wallet_accounts",
        metadata,
        Column("id", IDENTIFIER, primary_key=True),
        Column("owner", IDENTIFIER, nullable=False),
        Column("role", IDENTIFIER, nullable=False),
        Column("currency", IDENTIFIER, nullable=False),
        Column("debits_must_not_exceed_credits", INTEGER, nullable=False),
        Column("debits_posted", INTEGER, nullable=False),
        Column("credits_posted", INTEGER, nullable=False),
        Column("debits_pending", INTEGER, nullable=False),
        Column("credits_pending", INTEGER, nullable=False),
        Column("frozen", INTEGER, nullable=False),
        Column("closed", INTEGER, nullable=False),
        Column("own_limits", INTEGER, nullable=False),
        Column("spent_on", INTEGER, nullable=False),
        Column("spent_today", INTEGER, nullable=False),
        Column("spent_this_month", INTEGER, nullable=False),
        Column("version", INTEGER, nullable=False),
        Column("created_at", INTEGER, nullable=False),
        Column("updated_at", INTEGER, nullable=False),
        Column("seal", IDENTIFIER, nullable=False),
        CheckConstraint(
            "debits_posted >= 0 AND credits_posted >= 0 AND debits_pending >= 0 AND credits_pending >= 0",
            name="wallet_accounts_count_up",
        ),
        CheckConstraint(
            "debits_must_not_exceed_credits = 0 OR debits_posted + debits_pending <= credits_posted",
            name="wallet_accounts_not_below_zero",
        ),
        CheckConstraint("spent_today >= 0 AND spent_this_month >= spent_today", name="wallet_accounts_spent_counts_up"),
        Index("wallet_accounts_by_owner", "owner"),
    )
    table(
        "wallet_limits",
        metadata,
        Column("account", IDENTIFIER, primary_key=True),
        Column("per_payment", INTEGER),
        Column("per_day", INTEGER),
        Column("per_month", INTEGER),
    )
    table(
        "wallet_transfers",
        metadata,
        Column("sequence", INTEGER, primary_key=True, autoincrement=False),
        Column("id", IDENTIFIER, nullable=False),
        Column("group_id", IDENTIFIER, nullable=False),
        Column("kind", IDENTIFIER, nullable=False),
        Column("debit_account", IDENTIFIER, nullable=False),
        Column("credit_account", IDENTIFIER, nullable=False),
        Column("amount", INTEGER, nullable=False),
        Column("currency", IDENTIFIER, nullable=False),
        Column("pending_id", IDENTIFIER),
        Column("expires_at", INTEGER),
        Column("transaction_id", IDENTIFIER),
        Column("reference", SHORT_TEXT),
        Column("description", LONG_TEXT),
        Column("debit_balance_after", INTEGER, nullable=False),
        Column("credit_balance_after", INTEGER, nullable=False),
        Column("at", INTEGER, nullable=False),
        UniqueConstraint("id", name="wallet_transfers_id"),
        CheckConstraint("amount > 0", name="wallet_transfers_amount_is_positive"),
        CheckConstraint("debit_account <> credit_account", name="wallet_transfers_accounts_are_different"),
        Index("wallet_transfers_by_debit_account", "debit_account", "sequence"),
        Index("wallet_transfers_by_credit_account", "credit_account", "sequence"),
    )
    table(
        "wallet_holds",
        metadata,
        Column("id", IDENTIFIER, primary_key=True),
        Column("debit_account", IDENTIFIER, nullable=False),
        Column("credit_account", IDENTIFIER, nullable=False),
        Column("amount", INTEGER, nullable=False),
        Column("currency", IDENTIFIER, nullable=False),
        Column("state", IDENTIFIER, nullable=False),
        Column("expires_at", INTEGER),
        Column("updated_at", INTEGER, nullable=False),
        Column("counted_on", INTEGER),
        Column("seal", IDENTIFIER, nullable=False),
        CheckConstraint("amount > 0", name="wallet_holds_amount_is_positive"),
        Index("wallet_holds_by_expiry", "state", "expires_at"),
    )
    table(
        "wallet_groups",
        metadata,
        Column("id", IDENTIFIER, primary_key=True),
        Column("outcome", IDENTIFIER, nullable=False),
        Column("reason", IDENTIFIER),
        Column("detail", LONG_TEXT),
        Column("body", LONG_TEXT, nullable=False),
        Column("answer", LONG_TEXT),
        Column("request_id", KEY, nullable=False),
        Column("at", INTEGER, nullable=False),
        CheckConstraint("(outcome = 'posted') = (reason IS NULL)", name="wallet_groups_posted_or_refused"),
    )
    table(
        "wallet_keys",
        metadata,
        Column("id", IDENTIFIER, primary_key=True),
        Column("caller", IDENTIFIER, nullable=False),
        Column("idempotency_key", KEY, nullable=False),
        Column("group_id", IDENTIFIER, nullable=False),
        Column("at", INTEGER, nullable=False),
    )
    table(
        "wallet_audit",
        metadata,
        Column("sequence", INTEGER, primary_key=True, autoincrement=False),
        Column("at", INTEGER, nullable=False),
        Column("actor", IDENTIFIER, nullable=False),
        Column("action", IDENTIFIER, nullable=False),
        Column("subject", IDENTIFIER, nullable=False),
        Column("request_id", KEY, nullable=False),
        Column("result", IDENTIFIER, nullable=False),
        Column("detail", LONG_TEXT, nullable=False),
        Column("hash", IDENTIFIER, nullable=False),
        Index("wallet_audit_by_subject", "subject", "sequence"),
        Index("wallet_audit_by_request", "request_id", "sequence"),
    )
    audit_head = table(
        "wallet_audit_head",
        metadata,
        Column("chain", INTEGER, primary_key=True, autoincrement=False),
        Column("sequence", INTEGER, nullable=False),
        Column("hash", IDENTIFIER, nullable=False),
    )
    table(
        "wallet_outbox",
        metadata,
        Column("sequence", INTEGER, primary_key=True, autoincrement=True),
        Column("event_id", IDENTIFIER, nullable=False),
        Column("ordering_key", IDENTIFIER, nullable=False),
        Column("payload", LONG_TEXT, nullable=False),
        Column("attempts", INTEGER, nullable=False),
        Column("next_attempt_at", INTEGER, nullable=False),
    )
    table(
        "wallet_outbox_dead",
        metadata,
        Column("sequence", INTEGER, primary_key=True, autoincrement=False),
        Column("event_id", IDENTIFIER, nullable=False),
        Column("payload", LONG_TEXT, nullable=False),
        Column("error", LONG_TEXT, nullable=False),
        Column("given_up_at", INTEGER, nullable=False),
    )
    leases = table(
        "wallet_leases",
        metadata,
        Column("name", IDENTIFIER, primary_key=True),
        Column("owner", IDENTIFIER, nullable=False),
        Column("until", INTEGER, nullable=False),
    )
    create_missing(connection, metadata)
    insert_missing(connection, audit_head, chain=0, sequence=0, hash="0" * 64)
    insert_missing(connection, leases, name="outbox-relay", owner="", until=0)
    for name in ("wallet_transfers", "wallet_groups", "wallet_audit"):
        make_append_only(connection, name)
