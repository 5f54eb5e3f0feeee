"""Notification's tables and every statement on them.

A stream reads what came after the last row that it sent, so rows must become visible in the order of their sequence,
with any number of processes writing. Therefore the sequence is not the database's own counter but a head row that
stays locked from before the first number is taken until the commit.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from sqlalchemy import Column, Connection, Index, MetaData, Row, UniqueConstraint, select, update

from ewallet.kernel.errors import Refusal, not_found
from ewallet.plumbing import statements
from ewallet.plumbing.schema import IDENTIFIER, INTEGER, LONG_TEXT, SHORT_TEXT, insert_rows, table

metadata = MetaData()

inbox = table(
    "notification_inbox",
    metadata,
    Column("sequence", INTEGER, primary_key=True, autoincrement=False),
    # Derived from the event and the recipient: what makes an event that comes again known.
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

inbox_head = table(
    "notification_inbox_head",
    metadata,
    Column("id", INTEGER, primary_key=True, autoincrement=False),
    Column("sequence", INTEGER, nullable=False),
)


class NewNotification(NamedTuple):
    """A row of the inbox before it has its place in the sequence; ``data`` is JSON, ``created_at`` in microseconds."""

    id: str
    user_id: str
    event: str
    title: str
    body: str
    data: str
    created_at: int


def add(tx: Connection, notifications: Sequence[NewNotification]) -> None:
    """Store those that are not stored yet, in their order; the head row is locked until the transaction ends."""
    if not notifications:
        return
    (sequence,) = statements.lock_head(tx, inbox_head, "sequence")
    by_id = {notification.id: notification for notification in notifications}
    known = {row[0] for row in statements.rows_in(tx, inbox, "id", by_id, columns=("id",))}
    new = [notification for notification in by_id.values() if notification.id not in known]
    insert_rows(tx, inbox, [(place, *fields, None) for place, fields in enumerate(new, sequence + 1)])
    statements.set_head(tx, inbox_head, sequence=sequence + len(new))


def page(tx: Connection, user_id: str, *, unread: bool | None, before: int | None, limit: int) -> Sequence[Row[Any]]:
    """A user's notifications newest first; ``before`` is the sequence to continue from."""
    query = select(inbox).where(inbox.c.user_id == user_id).order_by(inbox.c.sequence.desc()).limit(limit)
    if unread is not None:
        query = query.where(inbox.c.read_at.is_(None) if unread else inbox.c.read_at.is_not(None))
    if before is not None:
        query = query.where(inbox.c.sequence < before)
    return tx.execute(query).all()


def following(tx: Connection, user_id: str, after: int, *, limit: int) -> Sequence[Row[Any]]:
    """A user's notifications after a place in the sequence, oldest first."""
    return tx.execute(
        select(inbox)
        .where(inbox.c.user_id == user_id, inbox.c.sequence > after)
        .order_by(inbox.c.sequence)
        .limit(limit)
    ).all()


def place_of(tx: Connection, user_id: str, notification_id: str) -> int | None:
    """Where in the sequence a user's notification stands; None where the user has none of that id."""
    return tx.execute(
        select(inbox.c.sequence).where(inbox.c.id == notification_id, inbox.c.user_id == user_id)
    ).scalar_one_or_none()


def last_place(tx: Connection) -> int:
    """The newest place in the sequence; whatever is stored later stands behind it."""
    place: int = tx.execute(select(inbox_head.c.sequence)).scalar_one()
    return place


def users_after(tx: Connection, after: int) -> Sequence[str]:
    """Whose inbox has something after a place in the sequence."""
    return tx.execute(select(inbox.c.user_id).where(inbox.c.sequence > after).distinct()).scalars().all()


def mark_read(tx: Connection, user_id: str, notification_id: str, now: int) -> Refusal | None:
    """Remember when a user first read a notification. Refused with ``not-found``."""
    if place_of(tx, user_id, notification_id) is None:
        return not_found("notification")
    tx.execute(update(inbox).where(inbox.c.id == notification_id, inbox.c.read_at.is_(None)).values(read_at=now))
    return None
