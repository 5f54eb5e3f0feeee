"""Payments with their history, the operations on them, audit, outbox and leases."""

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

revision = "payment_0001"
down_revision = None


def upgrade() -> None:
    connection = op.get_bind()
    metadata = MetaData()
    table(
        "payment_payments",
        metadata,
        Column("id", IDENTIFIER, primary_key=True),
        Column("status", IDENTIFIER, nullable=False),
        Column("version", INTEGER, nullable=False),
        Column("customer_id", IDENTIFIER, nullable=False),
        Column("merchant_id", IDENTIFIER, nullable=False),
        Column("amount", INTEGER, nullable=False),
        Column("fee", INTEGER, nullable=False),
        Column("net_amount", INTEGER, nullable=False),
        Column("hold_seconds", INTEGER, nullable=True),
        Column("captured_amount", INTEGER, nullable=True),
        Column("captured_fee", INTEGER, nullable=True),
        Column("refunded_amount", INTEGER, nullable=False),
        Column("operations_begun", INTEGER, nullable=False),
        Column("currency", IDENTIFIER, nullable=False),
        Column("reference", SHORT_TEXT, nullable=True),
        Column("description", LONG_TEXT, nullable=True),
        Column("metadata", LONG_TEXT, nullable=False),
        Column("failure_reason", IDENTIFIER, nullable=True),
        Column("failure_detail", LONG_TEXT, nullable=True),
        Column("failure_members", LONG_TEXT, nullable=True),
        Column("identity", SHORT_TEXT, nullable=False),
        Column("request_hash", IDENTIFIER, nullable=False),
        Column("request_id", KEY, nullable=False),
        Column("lease_until", INTEGER, nullable=False),
        Column("created_at", INTEGER, nullable=False),
        Column("settled_at", INTEGER, nullable=True),
        Column("updated_at", INTEGER, nullable=False),
        CheckConstraint("amount > 0", name="payment_payments_amount"),
        CheckConstraint("fee >= 0 AND net_amount > 0 AND fee + net_amount = amount", name="payment_payments_fee"),
        CheckConstraint(
            "captured_amount IS NULL"
            " OR (captured_amount <= amount AND captured_fee >= 0 AND captured_fee < captured_amount)",
            name="payment_payments_captured",
        ),
        CheckConstraint(
            "refunded_amount BETWEEN 0 AND COALESCE(captured_amount, amount)", name="payment_payments_refunded"
        ),
        UniqueConstraint("identity", name="payment_payments_identity"),
        Index("payment_payments_by_customer", "customer_id", "id"),
        Index("payment_payments_by_merchant", "merchant_id", "id"),
        Index("payment_payments_by_status", "status", "id"),
    )
    table(
        "payment_history",
        metadata,
        Column("payment_id", IDENTIFIER, primary_key=True),
        Column("number", INTEGER, primary_key=True, autoincrement=False),
        Column("status", IDENTIFIER, nullable=False),
        Column("at", INTEGER, nullable=False),
        Column("actor", IDENTIFIER, nullable=False),
        Column("reason", IDENTIFIER, nullable=True),
        Column("digest", IDENTIFIER, nullable=False),
    )
    table(
        "payment_bulk_members",
        metadata,
        Column("payment_id", IDENTIFIER, primary_key=True),
        Column("bulk_id", IDENTIFIER, nullable=False),
        Column("place", INTEGER, nullable=False),
        UniqueConstraint("bulk_id", "place", name="payment_bulk_members_by_bulk"),
    )
    table(
        "payment_operations",
        metadata,
        Column("id", IDENTIFIER, primary_key=True),
        Column("payment_id", IDENTIFIER, nullable=False),
        Column("kind", IDENTIFIER, nullable=False),
        Column("status", IDENTIFIER, nullable=False),
        Column("amount", INTEGER, nullable=False),
        Column("fee", INTEGER, nullable=False),
        Column("reason", LONG_TEXT, nullable=True),
        Column("failure_reason", IDENTIFIER, nullable=True),
        Column("failure_detail", LONG_TEXT, nullable=True),
        Column("failure_members", LONG_TEXT, nullable=True),
        Column("actor", IDENTIFIER, nullable=False),
        Column("identity", SHORT_TEXT, nullable=False),
        Column("request_hash", IDENTIFIER, nullable=False),
        Column("request_id", KEY, nullable=False),
        Column("lease_until", INTEGER, nullable=False),
        Column("created_at", INTEGER, nullable=False),
        Column("updated_at", INTEGER, nullable=False),
        Column("seal", IDENTIFIER, nullable=False),
        CheckConstraint("fee >= 0 AND amount >= fee", name="payment_operations_amount"),
        UniqueConstraint("identity", name="payment_operations_identity"),
        Index("payment_operations_by_payment", "payment_id", "kind", "id"),
        Index("payment_operations_by_lease", "status", "lease_until"),
    )
    table(
        "payment_audit",
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
        Index("payment_audit_by_subject", "subject", "sequence"),
        Index("payment_audit_by_request", "request_id", "sequence"),
    )
    audit_head = table(
        "payment_audit_head",
        metadata,
        Column("chain", INTEGER, primary_key=True, autoincrement=False),
        Column("sequence", INTEGER, nullable=False),
        Column("hash", IDENTIFIER, nullable=False),
    )
    table(
        "payment_outbox",
        metadata,
        Column("sequence", INTEGER, primary_key=True, autoincrement=True),
        Column("event_id", IDENTIFIER, nullable=False),
        Column("ordering_key", IDENTIFIER, nullable=False),
        Column("payload", LONG_TEXT, nullable=False),
        Column("attempts", INTEGER, nullable=False),
        Column("next_attempt_at", INTEGER, nullable=False),
    )
    table(
        "payment_outbox_dead",
        metadata,
        Column("sequence", INTEGER, primary_key=True, autoincrement=False),
        Column("event_id", IDENTIFIER, nullable=False),
        Column("payload", LONG_TEXT, nullable=False),
        Column("error", LONG_TEXT, nullable=False),
        Column("given_up_at", INTEGER, nullable=False),
    )
    leases = table(
        "payment_leases",
        metadata,
        Column("name", IDENTIFIER, primary_key=True),
        Column("owner", IDENTIFIER, nullable=False),
        Column("until", INTEGER, nullable=False),
    )
    create_missing(connection, metadata)
    insert_missing(connection, audit_head, chain=0, sequence=0, hash="0" * 64)
    for name in ("outbox-relay", "reconciliation"):
        insert_missing(connection, leases, name=name, owner="", until=0)
    for name in ("payment_history", "payment_audit"):
        make_append_only(connection, name)
