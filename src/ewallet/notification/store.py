"""Notification's tables and every statement on them.

A stream reads what came after the last row that it sent, so rows must become visible in the order of their sequence,
with any number of processes writing. Therefore the sequence is not the database's own counter but a head row that
stays locked from before the first number is taken until the commit. The same lock orders the deliveries.

Each receiver of deliveries (a merchant's webhook, for example) has a row that says when its next one is due. A worker
claims it for a few seconds, so that one process at a time sends to a receiver. Whoever adds a delivery, and whoever
gives a receiver back, writes that row: no delivery is forgotten between the two.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from operator import attrgetter
from typing import Any, NamedTuple

from sqlalchemy import (
    Column,
    ColumnElement,
    Connection,
    Index,
    MetaData,
    Row,
    UniqueConstraint,
    delete,
    func,
    insert,
    select,
    update,
)

from ewallet.kernel.clock import MICROSECONDS_PER_SECOND
from ewallet.kernel.errors import Refusal, not_found
from ewallet.notification.domain.deliveries import Progress, State
from ewallet.notification.domain.endpoints import EndpointStatus
from ewallet.plumbing import statements
from ewallet.plumbing.audit import AuditLog
from ewallet.plumbing.figures import Figure, seconds_since
from ewallet.plumbing.json import encode
from ewallet.plumbing.outbox import Event
from ewallet.plumbing.schema import IDENTIFIER, INTEGER, KEY, LONG_TEXT, SHORT_TEXT, insert_rows, table, upsert_rows
from ewallet.plumbing.telemetry import DELIVERIES_LATE

metadata = MetaData()
audit = AuditLog(metadata, "notification")

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

memos = table(
    "notification_memos",
    metadata,
    # That of the notification beside which it is kept; few events have a memo.
    Column("sequence", INTEGER, primary_key=True, autoincrement=False),
    Column("memo", LONG_TEXT, nullable=False),
)

inbox_head = table(
    "notification_inbox_head",
    metadata,
    Column("id", INTEGER, primary_key=True, autoincrement=False),
    Column("sequence", INTEGER, nullable=False),
)

webhooks = table(
    "notification_webhooks",
    metadata,
    Column("id", IDENTIFIER, primary_key=True),
    Column("user_id", IDENTIFIER, nullable=False),
    Column("status", IDENTIFIER, nullable=False),
    Column("url", LONG_TEXT, nullable=False),
    # A JSON list of names; null for all.
    Column("events", LONG_TEXT, nullable=True),
    Column("secret", KEY, nullable=False),
    # Until then the secret before signs, too.
    Column("previous_secret", KEY, nullable=True),
    Column("previous_secret_until", INTEGER, nullable=True),
    Column("created_at", INTEGER, nullable=False),
    Column("updated_at", INTEGER, nullable=False),
    Index("notification_webhooks_by_user", "user_id", "id"),
)

preferences = table(
    "notification_preferences",
    metadata,
    Column("user_id", IDENTIFIER, primary_key=True),
    Column("email", SHORT_TEXT, nullable=True),
    # A JSON list of the events that are mailed; null for all.
    Column("email_events", LONG_TEXT, nullable=True),
    # In JSON, by the names of further channels: lists of events, and the addresses, which staff alone writes.
    Column("channel_events", LONG_TEXT, nullable=True),
    Column("addresses", LONG_TEXT, nullable=True),
    Column("locale", IDENTIFIER, nullable=True),
    Column("updated_at", INTEGER, nullable=False),
)

receivers = table(
    "notification_receivers",
    metadata,
    Column("id", IDENTIFIER, primary_key=True),
    # Which sender brings its deliveries.
    Column("channel", IDENTIFIER, nullable=False),
    Column("next_at", INTEGER, nullable=False),
    Column("owner", IDENTIFIER, nullable=False),
    Column("until", INTEGER, nullable=False),
    Index("notification_receivers_by_next_at", "next_at"),
    Index("notification_receivers_by_owner", "owner"),
)

deliveries = table(
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
    # For forgetting alone: without it each look for what is old enough would read the whole log.
    Index("notification_deliveries_by_creation", "created_at"),
)

NEVER = 2**62
"""When the next delivery is due of a receiver that has none."""

SCAN_ROWS = 500
"""Pending deliveries that are looked at together for those whose turn it is."""

# --- the inbox ----------------------------------------------------------------------------------------------------


class NewNotification(NamedTuple):
    """A row of the inbox before it has its place in the sequence, and its memo, if any.

    ``data`` and ``memo`` are JSON, ``created_at`` is in microseconds.
    """

    id: str
    user_id: str
    event: str
    title: str
    body: str
    data: str
    created_at: int
    memo: str | None = None


class Told(NamedTuple):
    """An event, and what one of its recipients has been told of it."""

    event: Event
    notification: NewNotification


def add(tx: Connection, notifications: Sequence[NewNotification]) -> Collection[str]:
    """Store those that are not stored yet, in their order; returns their ids.

    The head row is locked until the transaction ends.
    """
    if not notifications:
        return ()
    (sequence,) = statements.lock_head(tx, inbox_head, "sequence")
    by_id = {notification.id: notification for notification in notifications}
    stored = known(tx, by_id)
    new = [notification for notification in by_id.values() if notification.id not in stored]
    placed = list(enumerate(new, sequence + 1))
    insert_rows(tx, inbox, [(place, *fields[:-1], None) for place, fields in placed])
    insert_rows(tx, memos, [(place, fields.memo) for place, fields in placed if fields.memo is not None])
    statements.set_head(tx, inbox_head, sequence=sequence + len(new))
    return by_id.keys() - stored


def known(tx: Connection, ids: Collection[str]) -> set[str]:
    """Those ids that a notification has."""
    return {row[0] for row in statements.rows_in(tx, inbox, "id", ids, columns=("id",))}


def kept_after(tx: Connection, after: int, limit: int) -> Sequence[Row[int, str, str, str]]:
    """The next notifications that have a memo, by their sequence: ``sequence, event, data, memo``."""
    return tx.execute(
        select(inbox.c.sequence, inbox.c.event, inbox.c.data, memos.c.memo)
        .join_from(memos, inbox, memos.c.sequence == inbox.c.sequence)
        .where(memos.c.sequence > after)
        .order_by(memos.c.sequence)
        .limit(limit)
    ).all()


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


# --- merchants' webhooks ------------------------------------------------------------------------------------------


def add_webhook(tx: Connection, webhook: Mapping[str, Any]) -> None:
    """Store an endpoint, and the receiver that it is."""
    tx.execute(insert(webhooks).values(webhook))
    tx.execute(insert(receivers).values(id=webhook["id"], channel=WEBHOOK, next_at=NEVER, owner="", until=0))


WEBHOOK = "webhook"
"""The channel of merchants' endpoints."""

EMAIL = "email"
"""The channel of e-mail, and its one receiver, which the first migration makes: the mail server."""


def webhook(tx: Connection, webhook_id: str, *, lock: bool = False) -> Row[Any] | None:
    """An endpoint; None where there is none of that id."""
    query = select(webhooks).where(webhooks.c.id == webhook_id)
    return tx.execute(query.with_for_update() if lock else query).first()


def webhooks_of(tx: Connection, user_id: str, *, before: str, limit: int) -> Sequence[Row[Any]]:
    """A user's endpoints, newest first; ``before`` is the id to continue from."""
    return tx.execute(
        select(webhooks)
        .where(webhooks.c.user_id == user_id, webhooks.c.id < before)
        .order_by(webhooks.c.id.desc())
        .limit(limit)
    ).all()


def listening(tx: Connection, user_ids: Collection[str], status: str) -> Sequence[tuple[str, str, str | None]]:
    """The endpoints of these users that have a status: id, user and events of each."""
    rows = statements.rows_in(tx, webhooks, "user_id", user_ids, columns=("id", "user_id", "events", "status"))
    return [(webhook_id, user_id, events) for webhook_id, user_id, events, at in rows if at == status]


def change_webhook(tx: Connection, webhook_id: str, **values: Any) -> None:
    """Write columns of an endpoint."""
    tx.execute(update(webhooks).where(webhooks.c.id == webhook_id).values(values))


def remove_webhook(tx: Connection, webhook_id: str) -> None:
    """Forget an endpoint with all that was sent to it. Its receiver is locked first, as always."""
    for forgotten, key in ((receivers, "id"), (deliveries, "receiver"), (webhooks, "id")):
        tx.execute(delete(forgotten).where(forgotten.c[key] == webhook_id))


# --- how people want to be told -----------------------------------------------------------------------------------


def preferences_of(tx: Connection, user_id: str) -> Row[Any] | None:
    """What a user has said; None where nothing."""
    return tx.execute(select(preferences).where(preferences.c.user_id == user_id)).first()


def set_preferences(
    tx: Connection,
    user_id: str,
    *,
    email: str | None,
    email_events: str | None,
    channel_events: str,
    locale: str | None,
    now: int,
) -> None:
    """Replace what a user has said; the addresses on further channels stay."""
    row = (user_id, email, email_events, channel_events, None, locale, now)
    said = ("email", "email_events", "channel_events", "locale", "updated_at")
    upsert_rows(tx, preferences, [row], update=said)


def set_addresses(tx: Connection, user_id: str, addresses: Mapping[str, str], now: int) -> None:
    """Replace a user's addresses on further channels, each of which is a receiver from then on."""
    row = (user_id, None, None, None, encode(addresses).decode(), None, now)
    upsert_rows(tx, preferences, [row], update=("addresses", "updated_at"))
    upsert_rows(tx, receivers, [(channel, channel, NEVER, "", 0) for channel in sorted(addresses)], update=("channel",))


def locale_of(tx: Connection, user_id: str) -> str | None:
    """The locale that a user has chosen, if any."""
    return tx.execute(select(preferences.c.locale).where(preferences.c.user_id == user_id)).scalar_one_or_none()


class Contact(NamedTuple):
    """How a user is told beside the inbox, as it is stored: None where nothing was said."""

    email: str | None
    email_events: str | None
    channel_events: str | None
    addresses: str | None
    locale: str | None


def contacts_of(tx: Connection, user_ids: Collection[str]) -> Mapping[str, Contact]:
    """The contacts of those of these users about whom something is known, by user."""
    rows = statements.rows_in(tx, preferences, "user_id", user_ids, columns=("user_id", *Contact._fields))
    return {user_id: Contact(*rest) for user_id, *rest in rows}


# --- deliveries ---------------------------------------------------------------------------------------------------


class NewDelivery(NamedTuple):
    """A delivery that is due at once; times in microseconds."""

    id: str
    receiver: str
    event_id: str
    event: str
    ordering_key: str
    payload: str
    created_at: int


def add_deliveries(tx: Connection, new: Sequence[NewDelivery]) -> None:
    """Queue deliveries in their order, and tell their receivers' next owner."""
    rows = [(*fields, State.PENDING, 0, fields.created_at, None, None, fields.created_at) for fields in new]
    insert_rows(tx, deliveries, rows, columns=_NEW_COLUMNS)
    if new:
        call(tx, {delivery.receiver for delivery in new}, min(delivery.created_at for delivery in new))


_NEW_COLUMNS = (
    *NewDelivery._fields,
    *("state", "attempts", "next_attempt_at", "last_status", "last_error", "updated_at"),
)


def call(tx: Connection, receiver_ids: Collection[str], at: int) -> None:
    """Have somebody look after receivers at that time, if not before.

    No condition leaves a row out: InnoDB lets go, at READ COMMITTED, of what an UPDATE has not matched, and whoever
    gives a receiver back must wait here for what is being added.
    """
    ids = statements.in_list(receiver_ids)
    statements.run(
        tx,
        f"UPDATE {receivers.name} SET next_at = CASE WHEN next_at > ? THEN ? ELSE next_at END "  # noqa: S608  # names of ours; values are bound
        f"WHERE id IN {statements.marks(len(ids))}",
        (at, at, *ids),
    )


def delivery(tx: Connection, receiver: str, delivery_id: str) -> Row[Any] | None:
    """One delivery to a receiver."""
    return tx.execute(
        select(deliveries).where(deliveries.c.id == delivery_id, deliveries.c.receiver == receiver)
    ).first()


def deliveries_of(tx: Connection, receiver: str, *, before: int | None, limit: int) -> Sequence[Row[Any]]:
    """What was and will be sent to a receiver, newest first; ``before`` is the sequence to continue from."""
    query = select(deliveries).where(deliveries.c.receiver == receiver)
    if before is not None:
        query = query.where(deliveries.c.sequence < before)
    return tx.execute(query.order_by(deliveries.c.sequence.desc()).limit(limit)).all()


def due(tx: Connection, receiver: str, now: int, *, limit: int) -> Sequence[Row[Any]]:
    """Deliveries whose time has come, in their order: of each ordering key the first that is pending, or none."""
    sequences: list[int] = []
    for sequence, next_attempt_at in _first_of_each_key(tx, receiver):
        if next_attempt_at <= now:
            sequences.append(sequence)
        if len(sequences) == limit:
            break
    return tx.execute(
        select(deliveries).where(deliveries.c.sequence.in_(sequences)).order_by(deliveries.c.sequence)
    ).all()


def _first_of_each_key(tx: Connection, receiver: str) -> Iterator[tuple[int, int]]:
    """The first pending delivery of each ordering key: its sequence, and when it is to be sent."""
    seen: set[str] = set()
    place = 0
    while True:
        rows = statements.run(tx, _PENDING, (receiver, State.PENDING, place, SCAN_ROWS)).rows
        for sequence, ordering_key, next_attempt_at in rows:
            if ordering_key not in seen:
                seen.add(ordering_key)
                yield sequence, next_attempt_at
        if len(rows) < SCAN_ROWS:
            return
        place = rows[-1][0]


_PENDING = (
    f"SELECT sequence, ordering_key, next_attempt_at FROM {deliveries.name} "  # noqa: S608  # names of ours; values are bound
    "WHERE receiver = ? AND state = ? AND sequence > ? ORDER BY sequence LIMIT ?"
)


class Settlement(NamedTuple):
    """What has become of one attempt at a delivery."""

    sequence: int
    progress: Progress
    status: int | None
    error: str | None
    at: int


def settle(tx: Connection, settlements: Sequence[Settlement]) -> None:
    """Write what has become of attempts, unless a delivery was ended or tried again meanwhile."""
    for sequence, progress, status, error, at in sorted(settlements, key=attrgetter("sequence")):
        statements.run(
            tx,
            _SETTLE,
            (
                *(progress.state, progress.attempts, progress.next_attempt_at, status, error, at),
                *(sequence, State.PENDING, progress.attempts - 1),
            ),
        )


_SETTLE = (
    f"UPDATE {deliveries.name} SET state = ?, attempts = ?, next_attempt_at = ?, last_status = ?, last_error = ?, "  # noqa: S608  # names of ours; values are bound
    "updated_at = ? WHERE sequence = ? AND state = ? AND attempts = ?"
)


def cancel(tx: Connection, receiver: str, reason: str, now: int) -> None:
    """End what is pending for a receiver."""
    tx.execute(
        update(deliveries)
        .where(deliveries.c.receiver == receiver, deliveries.c.state == State.PENDING)
        .values(state=State.CANCELLED, last_error=reason, updated_at=now)
    )


def try_again(tx: Connection, receiver: str, delivery_id: str, now: int) -> None:
    """Send a delivery now, whatever had become of it, with all its attempts before it again."""
    tx.execute(
        update(deliveries)
        .where(deliveries.c.id == delivery_id, deliveries.c.receiver == receiver)
        .values(state=State.PENDING, attempts=0, next_attempt_at=now, updated_at=now)
    )
    call(tx, {receiver}, now)


def dead_letters(tx: Connection, *, limit: int) -> Sequence[Row[Any]]:
    """The latest deliveries that were given up. For an operator: it looks at all deliveries."""
    dead = select(deliveries).where(deliveries.c.state == State.DEAD)
    return tx.execute(dead.order_by(deliveries.c.updated_at.desc()).limit(limit)).all()


def revive(tx: Connection, now: int) -> int:
    """Send everything again that was given up, except to endpoints that are off; returns how many."""
    off = select(webhooks.c.id).where(webhooks.c.status != EndpointStatus.ENABLED)
    dead = (deliveries.c.state == State.DEAD, deliveries.c.receiver.not_in(off))
    waiting = tx.execute(select(deliveries.c.receiver).where(*dead).distinct()).scalars().all()
    if not waiting:
        return 0
    revived = tx.execute(
        update(deliveries).where(*dead).values(state=State.PENDING, attempts=0, next_attempt_at=now, updated_at=now)
    )
    call(tx, waiting, now)
    return revived.rowcount


FORGOTTEN_AT_ONCE = 500
"""Bounds how long forgetting holds the writer; more are left for the next round."""


def forget_deliveries(tx: Connection, before: int) -> int:
    """Remove deliveries that have been over, however they ended, since before that time; returns how many."""
    over = (deliveries.c.created_at < before, deliveries.c.updated_at < before, deliveries.c.state != State.PENDING)
    # DELETE with LIMIT is MySQL's only; the condition is repeated because one may be sent again since it was read.
    found = tx.execute(select(deliveries.c.sequence).where(*over).limit(FORGOTTEN_AT_ONCE)).scalars().all()
    if not found:
        return 0
    return tx.execute(delete(deliveries).where(deliveries.c.sequence.in_(sorted(found)), *over)).rowcount


# --- who sends ----------------------------------------------------------------------------------------------------


def anybody_waits(tx: Connection, now: int, channels: Iterable[str]) -> bool:
    """Whether there is a receiver on these channels whose next delivery is due, and that nobody looks after."""
    return tx.execute(select(receivers.c.id).where(*_waiting(now, channels)).limit(1)).first() is not None


def _waiting(now: int, channels: Iterable[str]) -> tuple[ColumnElement[bool], ...]:
    return receivers.c.next_at <= now, receivers.c.until < now, receivers.c.channel.in_(list(channels))


def claim(
    tx: Connection, owner: str, channels: Iterable[str], *, now: int, seconds: int, limit: int
) -> Sequence[tuple[str, str]]:
    """Take receivers that wait and nobody looks after, those that have waited longest first: id and channel of each."""
    free = tx.execute(
        select(receivers.c.id, receivers.c.channel)
        .where(*_waiting(now, channels))
        .order_by(receivers.c.next_at, receivers.c.id)
        .limit(limit)
        .with_for_update()
    ).all()
    if free:
        tx.execute(
            update(receivers)
            .where(receivers.c.id.in_([row.id for row in free]))
            .values(owner=owner, until=now + seconds * MICROSECONDS_PER_SECOND)
        )
    return [(row.id, row.channel) for row in free]


def prolong(tx: Connection, owner: str, *, now: int, seconds: int) -> None:
    """Keep what one owner has claimed, and has not lost."""
    tx.execute(
        update(receivers)
        .where(receivers.c.owner == owner, receivers.c.until >= now)
        .values(until=now + seconds * MICROSECONDS_PER_SECOND)
    )


def give_back(tx: Connection, receiver: str, owner: str, *, not_before: int = 0) -> int:
    """Let others look after a receiver when its next delivery is due; returns when that is."""
    mine = select(receivers.c.id).where(receivers.c.id == receiver, receivers.c.owner == owner).with_for_update()
    if tx.execute(mine).first() is None:
        return NEVER
    # With a rest before it, the time of the next delivery need not be looked for.
    next_at = not_before or min((at for _, at in _first_of_each_key(tx, receiver)), default=NEVER)
    tx.execute(update(receivers).where(receivers.c.id == receiver).values(next_at=next_at, owner="", until=0))
    return next_at


def give_all_back(tx: Connection, owner: str) -> None:
    """Let others look after everything of an owner at once: it is going."""
    tx.execute(update(receivers).where(receivers.c.owner == owner).values(owner="", until=0))


# --- figures ------------------------------------------------------------------------------------------------------


def figures(tx: Connection, now: int, *, channels: Iterable[str]) -> Iterator[Figure]:
    """How late deliveries are, for the metrics: not those that a receiver refuses, which are due later."""
    query = select(receivers.c.channel, func.min(receivers.c.next_at)).where(receivers.c.next_at <= now)
    due_since = {row[0]: row[1] for row in tx.execute(query.group_by(receivers.c.channel))}
    for channel in channels:
        yield Figure(DELIVERIES_LATE, (channel,), seconds_since(due_since.get(channel, now), now))
