"""People, sessions, service clients, signing keys, counts of failed logins; the audit chain and the leases."""

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

revision = "auth_0001"
down_revision = None


def upgrade() -> None:
    connection = op.get_bind()
    metadata = MetaData()
    table(
        "auth_users",
        metadata,
        Column("id", IDENTIFIER, primary_key=True),
        Column("email", SHORT_TEXT, nullable=False),
        Column("password_hash", IDENTIFIER, nullable=False),
        Column("full_name", SHORT_TEXT, nullable=False),
        Column("role", IDENTIFIER, nullable=False),
        Column("currency", IDENTIFIER, nullable=False),
        Column("wallet_opened", INTEGER, nullable=False),
        Column("created_at", INTEGER, nullable=False),
        UniqueConstraint("email", name="auth_users_email"),
        Index("auth_users_by_wallet_opened", "wallet_opened", "created_at"),
    )
    table(
        "auth_sessions",
        metadata,
        Column("id", IDENTIFIER, primary_key=True),
        Column("user_id", IDENTIFIER, nullable=False),
        Column("seed", IDENTIFIER, nullable=False),
        Column("created_at", INTEGER, nullable=False),
        Column("expires_at", INTEGER, nullable=False),
        Column("ended_at", INTEGER, nullable=True),
        Index("auth_sessions_by_expiry", "expires_at"),
    )
    table(
        "auth_refresh_tokens",
        metadata,
        Column("token_hash", IDENTIFIER, primary_key=True),
        Column("session_id", IDENTIFIER, nullable=False),
        Column("spent_at", INTEGER, nullable=True),
        Column("expires_at", INTEGER, nullable=False),
        Index("auth_refresh_tokens_by_session", "session_id", "spent_at"),
        Index("auth_refresh_tokens_by_expiry", "expires_at"),
    )
    table(
        "auth_clients",
        metadata,
        Column("id", IDENTIFIER, primary_key=True),
        Column("name", SHORT_TEXT, nullable=False),
        Column("secret_hash", IDENTIFIER, nullable=False),
        Column("created_at", INTEGER, nullable=False),
    )
    table(
        "auth_signing_keys",
        metadata,
        Column("kid", IDENTIFIER, primary_key=True),
        Column("private_key", LONG_TEXT, nullable=False),
        Column("created_at", INTEGER, nullable=False),
        Column("signs_from", INTEGER, nullable=False),
        Column("retires_at", INTEGER, nullable=True),
    )
    table(
        "auth_login_failures",
        metadata,
        Column("limit_key", IDENTIFIER, primary_key=True),
        Column("since", INTEGER, nullable=False),
        Column("failures", INTEGER, nullable=False),
        Index("auth_login_failures_by_since", "since"),
    )
    table(
        "auth_audit",
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
        Index("auth_audit_by_subject", "subject", "sequence"),
        Index("auth_audit_by_request", "request_id", "sequence"),
    )
    audit_head = table(
        "auth_audit_head",
        metadata,
        Column("chain", INTEGER, primary_key=True, autoincrement=False),
        Column("sequence", INTEGER, nullable=False),
        Column("hash", IDENTIFIER, nullable=False),
    )
    leases = table(
        "auth_leases",
        metadata,
        Column("name", IDENTIFIER, primary_key=True),
        Column("owner", IDENTIFIER, nullable=False),
        Column("until", INTEGER, nullable=False),
    )
    create_missing(connection, metadata)
    make_append_only(connection, "auth_audit")
    insert_missing(connection, audit_head, chain=0, sequence=0, hash=CHAIN_START)
    for name in ("recovery", "signing-keys", "users"):
        insert_missing(connection, leases, name=name, owner="", until=0)
