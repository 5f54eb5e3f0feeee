"""The inbox, and the head row that orders it."""

from alembic import op
from sqlalchemy import Column, Index, MetaData, UniqueConstraint

from ewallet.plumbing.schema import IDENTIFIER, INTEGER, LONG_TEXT, SHORT_TEXT, create_missing, insert_missing, table

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
    head = table(
        "notification_inbox_head",
        metadata,
        Column("id", INTEGER, primary_key=True, autoincrement=False),
        Column("sequence", INTEGER, nullable=False),
    )
    create_missing(connection, metadata)
    insert_missing(connection, head, id=0, sequence=0)
