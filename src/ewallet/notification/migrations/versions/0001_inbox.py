"""The inbox with the head row that orders it, memos, how else people are told, what is delivered outside, the audit."""

from alembic import op
from sqlalchemy import Column, Index, MetaData, UniqueConstraint

from ewallet.plumbing.audit import CHAIN_START
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

revision = "notification_0001"
down_revision = None


def upgrade() -> None:
    connection = op.get_bind()
    metadata = MetaData()
    table(
        "notification_inbox",
        metadata,
        Column("sequence", INTEGER, primary_key=True, autoincrement=False),
        Column("id", IDENTIFIER, nullable=False),
        Column("user_id", IDENTIFIER, nullable=False),
        Column("event", IDENTIFIER, nullable=False),
        Column("title", SHORT_TEXT, nullable=False),
        Column("body", LONG_TEXT, nullable=False),
        Column("data", LONG_TEXT, nullable=False),
        Column("created_at", INTEGER, nullable=False),
        Column("read_at", INTEGER, nullable=True),
        UniqueConstraint("id", name="notification_inbox_id"),
        Index("notification_inbox_by_user", "user_id", "sequence"),
        Index("notification_inbox_by_user_unread", "user_id", "read_at", "sequence"),
    )
    table(
        "notification_memos",
        metadata,
        Column("sequence", INTEGER, primary_key=True, autoincrement=False),
        Column("memo", LONG_TEXT, nullable=False),
    )
    head = table(
        "notification_inbox_head",
        metadata,
        Column("id", INTEGER, primary_key=True, autoincrement=False),
        Column("sequence", INTEGER, nullable=False),
    )
    table(
        "notification_webhooks",
        metadata,
        Column("id", IDENTIFIER, primary_key=True),
        Column("user_id", IDENTIFIER, nullable=False),
        Column("status", IDENTIFIER, nullable=False),
        Column("url", LONG_TEXT, nullable=False),
        Column("events", LONG_TEXT, nullable=True),
        Column("secret", KEY, nullable=False),
        Column("previous_secret", KEY, nullable=True),
        Column("previous_secret_until", INTEGER, nullable=True),
        Column("created_at", INTEGER, nullable=False),
        Column("updated_at", INTEGER, nullable=False),
        Index("notification_webhooks_by_user", "user_id", "id"),
    )
    table(
        "notification_preferences",
        metadata,
        Column("user_id", IDENTIFIER, primary_key=True),
        Column("email", SHORT_TEXT, nullable=True),
        Column("email_events", LONG_TEXT, nullable=True),
        Column("channel_events", LONG_TEXT, nullable=True),
        Column("addresses", LONG_TEXT, nullable=True),
        Column("locale", IDENTIFIER, nullable=True),
        Column("updated_at", INTEGER, nullable=False),
    )
    receivers = table(
        "notification_receivers",
        metadata,
        Column("id", IDENTIFIER, primary_key=True),
        Column("channel", IDENTIFIER, nullable=False),
        Column("next_at", INTEGER, nullable=False),
        Column("owner", IDENTIFIER, nullable=False),
        Column("until", INTEGER, nullable=False),
        Index("notification_receivers_by_next_at", "next_at"),
        Index("notification_receivers_by_owner", "owner"),
    )
    table(
        "notification_deliveries",
        metadata,
        Column("sequence", INTEGER, primary_key=True, autoincrement=True),
        Column("id", IDENTIFIER, nullable=False),
        Column("receiver", IDENTIFIER, nullable=False),
        Column("event_id", IDENTIFIER, nullable=False),
        Column("event", IDENTIFIER, nullable=False),
        Column("ordering_key", IDENTIFIER, nullable=False),
        Column("payload", LONG_TEXT, nullable=False),
        Column("state", IDENTIFIER, nullable=False),
        Column("attempts", INTEGER, nullable=False),
        Column("next_attempt_at", INTEGER, nullable=False),
        Column("last_status", INTEGER, nullable=True),
        Column("last_error", LONG_TEXT, nullable=True),
        Column("created_at", INTEGER, nullable=False),
        Column("updated_at", INTEGER, nullable=False),
        UniqueConstraint("id", name="notification_deliveries_id"),
        Index("notification_deliveries_by_state", "receiver", "state", "sequence"),
        Index("notification_deliveries_by_receiver", "receiver", "sequence"),
        Index("notification_deliveries_by_creation", "created_at"),
    )
    table(
        "notification_audit",
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
        Index("notification_audit_by_subject", "subject", "sequence"),
        Index("notification_audit_by_request", "request_id", "sequence"),
    )
    audit_head = table(
        "notification_audit_head",
        metadata,
        Column("chain", INTEGER, primary_key=True, autoincrement=False),
        Column("sequence", INTEGER, nullable=False),
        Column("hash", IDENTIFIER, nullable=False),
    )
    create_missing(connection, metadata)
    make_append_only(connection, "notification_audit")
    insert_missing(connection, audit_head, chain=0, sequence=0, hash=CHAIN_START)
    insert_missing(connection, head, id=0, sequence=0)
    insert_missing(connection, receivers, id="email", channel="email", next_at=2**62, owner="", until=0)
