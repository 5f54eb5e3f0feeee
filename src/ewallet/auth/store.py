"""Auth's tables and every SQL statement on them. Times are microseconds since the epoch."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import Column, Connection, Index, MetaData, Row, UniqueConstraint, delete, or_, select, update

from ewallet.auth.domain import NO_GUESSES, Guesses, Session, SigningKey, User
from ewallet.kernel.caller import Role
from ewallet.plumbing.audit import AuditLog
from ewallet.plumbing.leases import Leases
from ewallet.plumbing.schema import IDENTIFIER, INTEGER, LONG_TEXT, SHORT_TEXT, insert_rows, table, upsert_rows

metadata = MetaData()
audit = AuditLog(metadata, "auth")
leases = Leases(metadata, "auth")

RECOVERY_LEASE = "recovery"
USERS_LOCK = "users"
KEYS_LOCK = "signing-keys"
LEASE_NAMES = (RECOVERY_LEASE, USERS_LOCK, KEYS_LOCK)
"""Rows of the lease table; the locks are never claimed, only held by a transaction (:func:`lock`)."""

users = table(
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

sessions = table(
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

refresh_tokens = table(
    "auth_refresh_tokens",
    metadata,
    Column("token_hash", IDENTIFIER, primary_key=True),
    Column("session_id", IDENTIFIER, nullable=False),
    Column("spent_at", INTEGER, nullable=True),
    Column("expires_at", INTEGER, nullable=False),
    Index("auth_refresh_tokens_by_session", "session_id", "spent_at"),
    Index("auth_refresh_tokens_by_expiry", "expires_at"),
)

clients = table(
    "auth_clients",
    metadata,
    Column("id", IDENTIFIER, primary_key=True),
    Column("name", SHORT_TEXT, nullable=False),
    Column("secret_hash", IDENTIFIER, nullable=False),
    Column("created_at", INTEGER, nullable=False),
)

signing_keys = table(
    "auth_signing_keys",
    metadata,
    Column("kid", IDENTIFIER, primary_key=True),
    Column("private_key", LONG_TEXT, nullable=False),
    Column("created_at", INTEGER, nullable=False),
    Column("signs_from", INTEGER, nullable=False),
    Column("retires_at", INTEGER, nullable=True),
)

login_failures = table(
    "auth_login_failures",
    metadata,
    Column("limit_key", IDENTIFIER, primary_key=True),
    Column("since", INTEGER, nullable=False),
    Column("failures", INTEGER, nullable=False),
    Index("auth_login_failures_by_since", "since"),
)


def lock(tx: Connection, name: str) -> None:
    """Let one transaction at a time, over all processes, past this point, until it ends."""
    tx.execute(select(leases.table.c.name).where(leases.table.c.name == name).with_for_update()).one()


# --- people ------------------------------------------------------------------------------------------------------


def add_users(tx: Connection, new: Sequence[User]) -> None:
    """Insert people; the caller holds ``USERS_LOCK`` and has seen that their addresses are free."""
    insert_rows(
        tx,
        users,
        [
            (
                user.id,
                user.email,
                user.password_hash,
                user.full_name,
                user.role.value,
                user.currency,
                int(user.wallet_opened),
                user.created_at,
            )
            for user in new
        ],
    )


def owners_of(tx: Connection, emails: Iterable[str]) -> dict[str, str]:
    """The ids of the people with these addresses, by address; those that nobody has are missing."""
    rows = tx.execute(select(users.c.email, users.c.id).where(users.c.email.in_(set(emails))))
    return {row.email: row.id for row in rows}


def users_by_email(tx: Connection, emails: Iterable[str]) -> dict[str, User]:
    """People by address; addresses that nobody has are missing."""
    rows = tx.execute(select(users).where(users.c.email.in_(set(emails))))
    return {row.email: _user(row) for row in rows}


def users_by_id(tx: Connection, ids: Iterable[str]) -> dict[str, User]:
    """People by id."""
    rows = tx.execute(select(users).where(users.c.id.in_(set(ids))))
    return {row.id: _user(row) for row in rows}


def users_without_wallet(tx: Connection, *, created_before: int, limit: int) -> list[User]:
    """People whose registration stopped before their wallet was opened, the oldest first."""
    rows = tx.execute(
        select(users)
        .where(users.c.wallet_opened == 0, users.c.created_at < created_before)
        .order_by(users.c.created_at)
        .limit(limit)
    )
    return [_user(row) for row in rows]


def users_after(tx: Connection, after: str, limit: int) -> list[User]:
    """The next people, by their ids."""
    return [_user(row) for row in tx.execute(select(users).where(users.c.id > after).order_by(users.c.id).limit(limit))]


def mark_wallets_opened(tx: Connection, user_ids: Sequence[str]) -> None:
    """Remember that these people's wallets exist."""
    tx.execute(update(users).where(users.c.id.in_(user_ids)).values(wallet_opened=1))


def set_password_hash(tx: Connection, user_id: str, *, old: str, new: str) -> None:
    """Replace a password's hash, unless it is not the one that was checked any more."""
    tx.execute(update(users).where(users.c.id == user_id, users.c.password_hash == old).values(password_hash=new))


def _user(row: Row[Any]) -> User:
    return User(
        id=row.id,
        email=row.email,
        password_hash=row.password_hash,
        full_name=row.full_name,
        role=Role(row.role),
        currency=row.currency,
        wallet_opened=bool(row.wallet_opened),
        created_at=row.created_at,
    )


# --- sessions ----------------------------------------------------------------------------------------------------


def known_sessions(tx: Connection, session_ids: Iterable[str]) -> set[str]:
    """Which of these sessions exist already."""
    return set(tx.execute(select(sessions.c.id).where(sessions.c.id.in_(set(session_ids)))).scalars())


def add_sessions(tx: Connection, new: Sequence[tuple[Session, str]], now: int) -> None:
    """Insert sessions, each with the hash of its first refresh token."""
    insert_rows(
        tx,
        sessions,
        [(session.id, session.user_id, session.seed, now, session.expires_at, None) for session, _ in new],
    )
    add_refresh_tokens(tx, [(token_hash, session.id, session.expires_at) for session, token_hash in new])


def add_refresh_tokens(tx: Connection, new: Sequence[tuple[str, str, int]]) -> None:
    """Insert fresh refresh tokens: hash, session, expiry."""
    insert_rows(tx, refresh_tokens, new, columns=("token_hash", "session_id", "expires_at"))


def sessions_of(tx: Connection, token_hashes: Iterable[str]) -> dict[str, str]:
    """The session that each of these tokens belongs to; unknown tokens are missing."""
    rows = tx.execute(
        select(refresh_tokens.c.token_hash, refresh_tokens.c.session_id).where(
            refresh_tokens.c.token_hash.in_(set(token_hashes))
        )
    )
    return {row.token_hash: row.session_id for row in rows}


def locked_sessions(tx: Connection, session_ids: Iterable[str]) -> dict[str, Session]:
    """Sessions by id, locked in sorted order: whoever holds a session alone may change its tokens."""
    rows = tx.execute(
        select(sessions).where(sessions.c.id.in_(set(session_ids))).order_by(sessions.c.id).with_for_update()
    )
    return {row.id: Session(row.id, row.user_id, row.seed, row.expires_at, row.ended_at) for row in rows}


def spending_of(
    tx: Connection, session_ids: Iterable[str], token_hashes: Iterable[str], *, since: int
) -> dict[str, int | None]:
    """When tokens of locked sessions were spent: these, and all that were spent after ``since`` or not at all."""
    tokens = refresh_tokens.c
    rows = tx.execute(
        select(tokens.token_hash, tokens.spent_at).where(
            tokens.session_id.in_(set(session_ids)),
            or_(tokens.spent_at.is_(None), tokens.spent_at >= since, tokens.token_hash.in_(set(token_hashes))),
        )
    )
    return {row.token_hash: row.spent_at for row in rows}


def spend_refresh_tokens(tx: Connection, token_hashes: Sequence[str], now: int) -> None:
    """Mark tokens of locked sessions as spent."""
    if token_hashes:
        tx.execute(update(refresh_tokens).where(refresh_tokens.c.token_hash.in_(token_hashes)).values(spent_at=now))


def prolong_sessions(tx: Connection, session_ids: Sequence[str], expires_at: int) -> None:
    """Move the expiry of sessions that were just used."""
    if session_ids:
        tx.execute(update(sessions).where(sessions.c.id.in_(session_ids)).values(expires_at=expires_at))


def end_sessions(tx: Connection, session_ids: Sequence[str], now: int) -> None:
    """End locked sessions."""
    if session_ids:
        tx.execute(update(sessions).where(sessions.c.id.in_(session_ids)).values(ended_at=now))


# --- limits ------------------------------------------------------------------------------------------------------


def guesses(tx: Connection, keys: Iterable[str]) -> dict[str, Guesses]:
    """The counts under these keys, as they were a moment ago; those without any are missing."""
    rows = tx.execute(select(login_failures).where(login_failures.c.limit_key.in_(set(keys))))
    return {row.limit_key: Guesses(row.since, row.failures) for row in rows}


def locked_guesses(tx: Connection, keys: Iterable[str]) -> dict[str, Guesses]:
    """The counts under these keys, locked in sorted order; a missing one is written as zero so that it can be."""
    ordered = sorted(set(keys))
    limit_key = login_failures.c.limit_key
    present = set(tx.execute(select(limit_key).where(limit_key.in_(ordered))).scalars())
    missing = [(key, NO_GUESSES.since, NO_GUESSES.count) for key in ordered if key not in present]
    # Where another process was faster the row stays as it is.
    upsert_rows(tx, login_failures, missing, update=("limit_key",))
    rows = tx.execute(select(login_failures).where(limit_key.in_(ordered)).order_by(limit_key).with_for_update())
    # A row that has just been forgotten counts as zero too.
    return dict.fromkeys(ordered, NO_GUESSES) | {row.limit_key: Guesses(row.since, row.failures) for row in rows}


def write_guesses(tx: Connection, changed: Mapping[str, Guesses]) -> None:
    """Set the counts of locked keys."""
    rows = [(key, counted.since, counted.count) for key, counted in sorted(changed.items())]
    upsert_rows(tx, login_failures, rows, update=("since", "failures"))


# --- service clients ---------------------------------------------------------------------------------------------


def add_client(tx: Connection, *, client_id: str, name: str, secret_hash: str, now: int) -> None:
    """Insert a service client."""
    insert_rows(tx, clients, [(client_id, name, secret_hash, now)])


def client_secret_hash(tx: Connection, client_id: str) -> str | None:
    """The hash of a client's secret; None where there is no such client."""
    return tx.execute(select(clients.c.secret_hash).where(clients.c.id == client_id)).scalar_one_or_none()


# --- signing keys ------------------------------------------------------------------------------------------------


def all_signing_keys(tx: Connection) -> list[SigningKey]:
    """Every key pair, retired ones too until they are forgotten."""
    rows = tx.execute(select(signing_keys).order_by(signing_keys.c.signs_from, signing_keys.c.kid))
    return [SigningKey(*row) for row in rows]


def add_signing_key(tx: Connection, key: SigningKey) -> None:
    """Insert a key pair; the caller holds ``KEYS_LOCK``."""
    insert_rows(tx, signing_keys, [(key.kid, key.private_key, key.created_at, key.signs_from, key.retires_at)])


def retire_signing_keys(tx: Connection, *, at: int) -> None:
    """Set when the present keys retire; one that has its date keeps it."""
    tx.execute(update(signing_keys).where(signing_keys.c.retires_at.is_(None)).values(retires_at=at))


# --- what need not be kept ---------------------------------------------------------------------------------------

FORGOTTEN_AT_ONCE = 1000
"""Bounds how long forgetting holds the writer; more are left for the next round."""


def forget(tx: Connection, *, now: int, guesses_since: int) -> int:
    """Delete what has run out: tokens, sessions, retired private keys, old counts. Returns how many rows."""
    return (
        _delete_some(tx, refresh_tokens.c.token_hash, refresh_tokens.c.expires_at < now)
        + _delete_some(tx, sessions.c.id, sessions.c.expires_at < now)
        + _delete_some(tx, signing_keys.c.kid, signing_keys.c.retires_at < now)
        + _delete_some(tx, login_failures.c.limit_key, login_failures.c.since < guesses_since)
    )


def _delete_some(tx: Connection, key: Column[str], condition: Any) -> int:
    # DELETE with LIMIT is MySQL's only; the condition is repeated because a row may have changed since it was read.
    keys = tx.execute(select(key).where(condition).limit(FORGOTTEN_AT_ONCE)).scalars().all()
    if not keys:
        return 0
    return tx.execute(delete(key.table).where(key.in_(keys), condition)).rowcount
