"""Auth's use cases. Each is one local transaction, or, where a wallet is opened, one on either side of that call."""

import asyncio
import hmac
import secrets
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from weakref import WeakValueDictionary

import stamina
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from sqlalchemy import Connection

from ewallet.auth import domain, store
from ewallet.auth.domain import ANONYMOUS, Continued, Limit, Reused, Session, SessionBook, SigningKey, User, Visitor
from ewallet.auth.messages import (
    ClientCredentials,
    JsonWebKey,
    JsonWebKeySet,
    Login,
    Registration,
    ServiceToken,
    Tokens,
    TokenStatus,
    UserView,
    thumbprint,
)
from ewallet.kernel.caller import Caller, Role, platform
from ewallet.kernel.clock import MICROSECONDS_PER_SECOND, Clock, rfc3339
from ewallet.kernel.errors import InvariantBroken, OutcomeUnknown, Overloaded, Reason, Refusal, invalid, not_found
from ewallet.kernel.ids import is_id, new_id
from ewallet.plumbing.audit import SUCCEEDED, AuditRecord
from ewallet.plumbing.batching import Batcher
from ewallet.plumbing.database import Database
from ewallet.plumbing.http.trails import AuditTrail, audit_trail
from ewallet.plumbing.passwords import PasswordHasher
from ewallet.plumbing.settings import Settings
from ewallet.plumbing.tokens import AUDIENCE, ISSUER, PublicKeys, Verifier, sign
from ewallet.wallet.client import WalletClient
from ewallet.wallet.messages import OpenWallet

KEYS_READ_SECONDS = 2
"""How old the signing process's view of the keys may be; far less than a new key waits before it signs."""

LOGINS_AT_ONCE = 32
"""Far below the limit on failed logins from one address, and more than the threads that check passwords keep busy."""

WALLET_ATTEMPTS = 3
WALLET_SECONDS = 2.0
"""A registration waits this long for a wallet service that does not answer; then recovery finishes it."""

RECOVERY_AFTER = 5 * MICROSECONDS_PER_SECOND
"""A registration older than this is not under way any more: its process died or gave up."""

RECOVERED_AT_ONCE = 100
RECOVERY_LEASE_SECONDS = 30

INVALID_CREDENTIALS = Refusal(Reason.INVALID_CREDENTIALS, "The credentials are not valid.")
INVALID_REFRESH_TOKEN = Refusal(Reason.INVALID_TOKEN, "The refresh token is unknown, spent or expired: log in again.")
EMAIL_TAKEN = Refusal(Reason.EMAIL_TAKEN, "There is an account with this e-mail address.")


@dataclass(frozen=True, slots=True)
class _NewPerson:
    user: User
    record: AuditRecord


@dataclass(frozen=True, slots=True)
class _Guess:
    """A login that begins."""

    email: str
    visitor: Visitor
    email_limit: Limit
    address_limit: Limit

    @property
    def limits(self) -> tuple[Limit, Limit]:
        return self.email_limit, self.address_limit


@dataclass(frozen=True, slots=True)
class _NewSession:
    """A login whose password was right."""

    session: Session
    token_hash: str
    guess: _Guess


@dataclass(frozen=True, slots=True)
class _Presented:
    """A refresh token that somebody has shown."""

    token: str
    visitor: Visitor

    @property
    def hash(self) -> str:
        return domain.token_hash(self.token)


@dataclass(frozen=True, slots=True)
class _Refreshed:
    user: User
    refresh_token: str


class AuthService:
    """Every use case of auth; satisfies ``AuthClient`` for services in this process."""

    def __init__(
        self, database: Database, *, settings: Settings, wallet: WalletClient, verifier: Verifier, clock: Clock
    ) -> None:
        self._database = database
        self._settings = settings
        self._wallet = wallet
        self._verifier = verifier
        self._clock = clock
        self._passwords = PasswordHasher(settings.bcrypt_cost)
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._logins_at_once = asyncio.Semaphore(LOGINS_AT_ONCE)
        self._keys = _KeyRing(database, clock)
        self._worker_id = new_id("wkr", clock())
        self._people: Batcher[_NewPerson, Refusal | None] = Batcher(database, self._add_people)
        self._opened_wallets: Batcher[str, None] = Batcher(database, self._mark_wallets_opened)
        self._guesses: Batcher[_Guess, Refusal | None] = Batcher(database, self._count_guesses)
        self._logins: Batcher[_NewSession, None] = Batcher(database, self._add_sessions)
        self._refreshes: Batcher[_Presented, _Refreshed | Refusal] = Batcher(database, self._refresh_all)
        self._logouts: Batcher[_Presented, None] = Batcher(database, self._end_sessions)
        self._records: Batcher[AuditRecord, None] = Batcher(database, self._append_records)

    async def make_first_key(self) -> None:
        """Make a signing key where there is none; several processes may start at once."""
        await self._keys.make_first()

    def close(self) -> None:
        """Stop checking passwords."""
        self._passwords.close()

    # --- people ----------------------------------------------------------------------------------------------------

    async def register(self, visitor: Visitor, registration: Registration) -> UserView | Refusal:
        """Make a person and their wallet. Refused: ``validation-error``, ``email-taken``.

        The person is committed first, so that a registration that stops before the wallet is open is found and
        finished by :meth:`finish_registrations`.
        """
        user = await self._new_user(
            email=registration.email,
            password=registration.password,
            full_name=registration.full_name,
            role=Role(registration.role),
            currency=registration.currency,
        )
        if isinstance(user, Refusal):
            return user
        record = AuditRecord(user.id, "user.registered", user.id, visitor.request_id, SUCCEEDED, {"role": user.role})
        refusal = await self._people.submit(_NewPerson(user, record))
        if refusal is not None:
            return refusal
        await self._open_wallet(user, visitor.request_id)
        return _view(user)

    async def me(self, caller: Caller) -> UserView | Refusal:
        """The caller. Refused: ``not-found``."""
        found = await self._database.reading(lambda tx: store.users_by_id(tx, [caller.subject]))
        return _view(found[caller.subject]) if found else not_found("user")

    async def create_admin(self, caller: Caller, *, email: str, password: str) -> UserView | Refusal:
        """Make an administrator, who has no wallet. Refused: ``validation-error``, ``email-taken``."""
        user = await self._new_user(
            email=email, password=password, full_name="Administrator", role=Role.ADMIN, currency="USD"
        )
        if isinstance(user, Refusal):
            return user
        refusal = await self._people.submit(_NewPerson(user, AuditRecord.of(caller, "admin.created", user.id)))
        return refusal or _view(user)

    async def ensure_admin(self, email: str, password: str) -> UserView | Refusal:
        """Make the first administrator at start. Whoever is an administrator under this address stays as they are.

        Refused: ``validation-error``; ``email-taken`` where the address is a customer's or a merchant's.
        """
        address = domain.normalised_email(email)
        found = await self._database.reading(lambda tx: store.users_by_email(tx, [address]))
        if found:
            return _view(found[address]) if found[address].role is Role.ADMIN else EMAIL_TAKEN
        made = await self.create_admin(platform(new_id("req", self._clock())), email=email, password=password)
        if isinstance(made, Refusal) and made.reason is Reason.EMAIL_TAKEN:
            return await self.ensure_admin(email, password)  # another process was faster
        return made

    async def _new_user(
        self, *, email: str, password: str, full_name: str, role: Role, currency: str
    ) -> User | Refusal:
        email = domain.normalised_email(email)
        refusal = domain.check_person(email=email, full_name=full_name, password=password, currency=currency)
        if refusal is not None:
            return refusal
        with self._passwords.place():
            password_hash = await self._passwords.hash(password)
        now = self._clock()
        return User(
            id=new_id("usr", now),
            email=email,
            password_hash=password_hash,
            full_name=full_name,
            role=role,
            currency=currency,
            wallet_opened=role is Role.ADMIN,
            created_at=now,
        )

    def _add_people(self, tx: Connection, people: Sequence[_NewPerson]) -> list[Refusal | None]:
        """Give each address to the first who asks for it; who has got it already (a redo) keeps it."""
        store.lock(tx, store.USERS_LOCK)
        present = store.owners_of(tx, [person.user.email for person in people])
        owners = dict(present)
        for person in people:
            owners.setdefault(person.user.email, person.user.id)
        accepted = [owners[person.user.email] == person.user.id for person in people]
        added = [
            person
            for person, is_accepted in zip(people, accepted, strict=True)
            if is_accepted and person.user.email not in present
        ]
        store.add_users(tx, [person.user for person in added])
        store.audit.append(tx, self._clock(), [person.record for person in added])
        return [None if is_accepted else EMAIL_TAKEN for is_accepted in accepted]

    # --- wallets ---------------------------------------------------------------------------------------------------

    async def _open_wallet(self, user: User, request_id: str) -> None:
        """Open the wallet and remember it. OutcomeUnknown, Overloaded: recovery will do it."""
        order = OpenWallet(owner=user.id, role=user.role, currency=user.currency, actor=user.id, request_id=request_id)
        async for attempt in stamina.retry_context(
            on=(OutcomeUnknown, Overloaded),
            attempts=WALLET_ATTEMPTS,
            timeout=WALLET_SECONDS,
            wait_initial=0.05,
            wait_jitter=0.1,
        ):
            with attempt:
                await self._wallet.open_wallet(order)
        await self._opened_wallets.submit(user.id)

    def _mark_wallets_opened(self, tx: Connection, user_ids: Sequence[str]) -> list[None]:
        store.mark_wallets_opened(tx, user_ids)
        return [None] * len(user_ids)

    async def finish_registrations(self) -> int:
        """Open the wallets that interrupted registrations left out; returns how many. Under a lease."""
        stalled = await self._database.reading(
            lambda tx: store.users_without_wallet(
                tx, created_before=self._clock() - RECOVERY_AFTER, limit=RECOVERED_AT_ONCE
            )
        )
        if not stalled or not await self._database.writing(self._claim_recovery):
            return 0
        # All at once, so that one that cannot be opened does not keep the others waiting.
        openings = [self._open_wallet(user, new_id("req", self._clock())) for user in stalled]
        outcomes = await asyncio.gather(*openings, return_exceptions=True)
        for outcome in outcomes:
            if outcome is not None:
                raise outcome
        return len(stalled)

    def _claim_recovery(self, tx: Connection) -> bool:
        return store.leases.claim(
            tx, store.RECOVERY_LEASE, self._worker_id, now=self._clock(), seconds=RECOVERY_LEASE_SECONDS
        )

    # --- sessions --------------------------------------------------------------------------------------------------

    async def login(self, visitor: Visitor, login: Login) -> Tokens | Refusal:
        """Begin a session. Refused: ``invalid-credentials``, ``too-many-requests``.

        The attempt is counted as failed before the password is looked at, and taken back when it was right; an unknown
        address costs as much work as a wrong password.
        """
        email = domain.normalised_email(login.email)
        guess = _Guess(
            email=email,
            visitor=visitor,
            email_limit=Limit(domain.email_key(email), self._settings.login_failures),
            address_limit=Limit(domain.address_key(visitor.address), self._settings.login_failures_per_address),
        )
        refusal = await self._standing_refusal(guess)
        if refusal is not None:
            return refusal
        with self._passwords.place():
            async with self._turn(email):
                return await self._log_in(guess, login.password)

    async def _log_in(self, guess: _Guess, password: str) -> Tokens | Refusal:
        refusal = await self._guesses.submit(guess)
        if refusal is not None:
            return refusal
        found = await self._database.reading(lambda tx: store.users_by_email(tx, [guess.email]))
        user = found.get(guess.email)
        if not await self._password_is_right(user, password) or user is None:
            await self._records.submit(_failed_login(guess, user, Reason.INVALID_CREDENTIALS))
            return INVALID_CREDENTIALS
        refresh_token = secrets.token_urlsafe(domain.TOKEN_BYTES)
        session = self._new_session(user)
        await self._logins.submit(_NewSession(session, domain.token_hash(refresh_token), guess))
        return await self._tokens(user, refresh_token)

    async def _standing_refusal(self, guess: _Guess) -> Refusal | None:
        """What somebody is told who was refused before: it takes no place, no turn and no writing.

        So a flood of guesses at one account keeps nobody else from logging in.
        """
        guesses = await self._database.reading(lambda tx: store.guesses(tx, [limit.key for limit in guess.limits]))
        now = self._clock()
        counted = domain.begin_guess(guesses, guess.limits, now)
        already_counted = counted.items() <= guesses.items()
        return _too_many(domain.wait_of(counted, guess.limits, now)) if already_counted else None

    @asynccontextmanager
    async def _turn(self, email: str) -> AsyncIterator[None]:
        """Let logins of one account take turns, and only a few be under way at once.

        Each counts as failed until its password was right, so many right ones at the same moment would otherwise look
        like an attack. Nothing is lost: there are fewer threads that check passwords anyway.
        """
        turn = self._turns.setdefault(email, asyncio.Lock())
        async with turn, self._logins_at_once:
            yield

    async def _password_is_right(self, user: User | None, password: str) -> bool:
        """Check a password; a right one whose hash has another cost than the settings say is hashed anew."""
        right = await self._passwords.matches(password, user.password_hash if user else None)
        if right and user is not None and self._passwords.is_outdated(user.password_hash):
            new = await self._passwords.hash(password)
            await self._database.writing(
                lambda tx: store.set_password_hash(tx, user.id, old=user.password_hash, new=new)
            )
        return right

    async def refresh(self, visitor: Visitor, token: str) -> Tokens | Refusal:
        """Continue a session with its next refresh token. Refused: ``invalid-token``."""
        refreshed = await self._refreshes.submit(_Presented(token, visitor))
        if isinstance(refreshed, Refusal):
            return refreshed
        return await self._tokens(refreshed.user, refreshed.refresh_token)

    async def logout(self, visitor: Visitor, token: str) -> None:
        """End the session of a refresh token, spent or not; an unknown one has none."""
        await self._logouts.submit(_Presented(token, visitor))

    def _new_session(self, user: User) -> Session:
        now = self._clock()
        return Session(
            id=new_id("ses", now),
            user_id=user.id,
            seed=secrets.token_urlsafe(domain.TOKEN_BYTES),
            expires_at=now + self._session_duration,
            ended_at=None,
        )

    @property
    def _session_duration(self) -> int:
        return self._settings.refresh_token_seconds * MICROSECONDS_PER_SECOND

    async def _tokens(self, user: User, refresh_token: str) -> Tokens:
        return Tokens(
            access_token=await self._access_token(user.id, user.role),
            expires_in=self._settings.access_token_seconds,
            refresh_token=refresh_token,
        )

    def _count_guesses(self, tx: Connection, items: Sequence[_Guess]) -> list[Refusal | None]:
        """Count every login that begins, in order of arrival. A redo may count one twice, which only errs safely."""
        now = self._clock()
        guesses = store.locked_guesses(tx, (limit.key for item in items for limit in item.limits))
        changed: dict[str, domain.Guesses] = {}
        answers: list[Refusal | None] = []
        records = []
        for item in items:
            counted = domain.begin_guess(guesses, item.limits, now)
            new = {key: count for key, count in counted.items() if guesses[key] != count}
            wait_seconds = domain.wait_of(counted, item.limits, now)
            if wait_seconds and new:  # the first refused one of a window is worth a record, its repetitions are not
                records.append(_failed_login(item, None, Reason.TOO_MANY_REQUESTS))
            guesses.update(new)
            changed.update(new)
            answers.append(_too_many(wait_seconds) if wait_seconds else None)
        store.write_guesses(tx, changed)
        store.audit.append(tx, now, records)
        return answers

    def _add_sessions(self, tx: Connection, logins: Sequence[_NewSession]) -> list[None]:
        """Store sessions whose password was right, and take back what was counted against them. Known ones stay."""
        now = self._clock()
        known = store.known_sessions(tx, [login.session.id for login in logins])
        new = [login for login in logins if login.session.id not in known]
        store.add_sessions(tx, [(login.session, login.token_hash) for login in new], now)
        guesses = store.locked_guesses(tx, (limit.key for login in new for limit in login.guess.limits))
        for login in new:
            guesses[login.guess.email_limit.key] = domain.NO_GUESSES
            address = login.guess.address_limit
            guesses[address.key] = domain.take_back(guesses[address.key], address.maximum)
        store.write_guesses(tx, guesses)
        records = [
            _session_record(login.session.user_id, "login.succeeded", login.session, login.guess.visitor)
            for login in new
        ]
        store.audit.append(tx, now, records)
        return [None] * len(logins)

    def _refresh_all(self, tx: Connection, items: Sequence[_Presented]) -> list[_Refreshed | Refusal]:
        """Use refresh tokens in order of arrival. A redo finds a token spent just now and gives its successor again."""
        now = self._clock()
        hashes = [item.hash for item in items]
        session_of = store.sessions_of(tx, hashes)
        sessions = store.locked_sessions(tx, session_of.values())
        book = SessionBook(
            session_of=session_of,
            sessions=sessions,
            spent_at=store.spending_of(tx, sessions, hashes, since=now - domain.REFRESH_GRACE),
        )
        uses = [book.use(item.token, now) for item in items]
        expires_at = now + self._session_duration
        store.spend_refresh_tokens(tx, book.spent, now)
        store.add_refresh_tokens(tx, [(hashed, session_id, expires_at) for hashed, session_id in book.fresh])
        store.prolong_sessions(tx, [session_id for _, session_id in book.fresh], expires_at)
        store.end_sessions(tx, book.ended, now)
        records = [
            _session_record(ANONYMOUS, "session.reused", use.session, item.visitor, Reason.INVALID_TOKEN)
            for item, use in zip(items, uses, strict=True)
            if isinstance(use, Reused)
        ]
        store.audit.append(tx, now, records)
        users = store.users_by_id(tx, (session.user_id for session in sessions.values()))
        return [
            _Refreshed(users[use.session.user_id], use.token) if isinstance(use, Continued) else INVALID_REFRESH_TOKEN
            for use in uses
        ]

    def _end_sessions(self, tx: Connection, items: Sequence[_Presented]) -> list[None]:
        now = self._clock()
        session_of = store.sessions_of(tx, [item.hash for item in items])
        sessions = store.locked_sessions(tx, session_of.values())
        open_sessions = {session.id: session for session in sessions.values() if session.ended_at is None}
        store.end_sessions(tx, list(open_sessions), now)
        visitors = {session_of[item.hash]: item.visitor for item in items if item.hash in session_of}
        records = [
            _session_record(session.user_id, "session.ended", session, visitors[session.id])
            for session in open_sessions.values()
        ]
        store.audit.append(tx, now, records)
        return [None] * len(items)

    # --- access tokens ---------------------------------------------------------------------------------------------

    async def _access_token(self, subject: str, role: Role) -> str:
        now = self._clock()
        issued = now // MICROSECONDS_PER_SECOND
        return await self._keys.sign(
            {
                "iss": ISSUER,
                "sub": subject,
                "aud": AUDIENCE,
                "exp": issued + self._settings.access_token_seconds,
                "iat": issued,
                "jti": new_id("tok", now),
                "role": role.value,
            }
        )

    async def validate(self, token: str) -> TokenStatus:
        """Whom an access token stands for, now."""
        principal = await self._verifier.verify(token)
        if principal is None:
            return TokenStatus(active=False)
        expires_at = rfc3339(principal.expires_at * MICROSECONDS_PER_SECOND)
        return TokenStatus(active=True, subject=principal.subject, role=principal.role, expires_at=expires_at)

    async def public_keys(self) -> PublicKeys:
        """The keys of every access token that is still valid, by key id."""
        return await self._keys.published()

    async def key_set(self) -> JsonWebKeySet:
        """The same keys as a document for everybody (RFC 7517)."""
        return JsonWebKeySet(keys=[JsonWebKey.of(kid, key) for kid, key in (await self.public_keys()).items()])

    async def rotate_key(self, caller: Caller) -> str:
        """Publish a new signing key, which signs when the setting's delay is over; returns its id.

        The keys before it stay published until the last token that they signed has expired.
        """
        return await self._keys.rotate(caller, self._settings)

    # --- service clients -------------------------------------------------------------------------------------------

    async def create_client(self, caller: Caller, name: str) -> ClientCredentials | Refusal:
        """Let a back end in. Refused: ``validation-error``."""
        fault = domain.name_fault(name)
        if fault is not None:
            return invalid("/name", fault)
        now = self._clock()
        made = ClientCredentials(client_id=new_id("cli", now), client_secret=secrets.token_urlsafe(domain.TOKEN_BYTES))
        await self._database.writing(lambda tx: self._add_client(tx, caller, made, name))
        return made

    async def service_token(self, visitor: Visitor, client_id: str, client_secret: str) -> ServiceToken | Refusal:
        """An access token for a back end (RFC 6749, section 4.4). Refused: ``invalid-credentials``.

        Not limited as logins are: there is no guessing 256 random bits. A wrong secret of a known client is worth a
        record, because it may have been stolen and replaced.
        """
        if not is_id(client_id, "cli"):  # MySQL would find "cli_… " too, and the token would be somebody else's
            return INVALID_CREDENTIALS
        expected = await self._database.reading(lambda tx: store.client_secret_hash(tx, client_id))
        if expected is None:
            return INVALID_CREDENTIALS
        right = hmac.compare_digest(domain.token_hash(client_secret), expected)
        result = SUCCEEDED if right else Reason.INVALID_CREDENTIALS
        record = AuditRecord(
            client_id if right else ANONYMOUS, "client.authenticated", client_id, visitor.request_id, result, {}
        )
        await self._records.submit(record)
        if not right:
            return INVALID_CREDENTIALS
        return ServiceToken(
            access_token=await self._access_token(client_id, Role.SERVICE),
            expires_in=self._settings.access_token_seconds,
        )

    def _add_client(self, tx: Connection, caller: Caller, made: ClientCredentials, name: str) -> None:
        if store.client_secret_hash(tx, made.client_id) is not None:
            return  # a redo after a commit whose answer was lost
        now = self._clock()
        secret_hash = domain.token_hash(made.client_secret)
        store.add_client(tx, client_id=made.client_id, name=name, secret_hash=secret_hash, now=now)
        store.audit.append(tx, now, [AuditRecord.of(caller, "client.created", made.client_id, name=name)])

    # --- records ---------------------------------------------------------------------------------------------------

    async def audit_trail(
        self, _caller: Caller, *, subject: str | None, request_id: str | None, limit: int, cursor: str | None
    ) -> AuditTrail:
        """Audit records, newest first. Raises Refused where the cursor is none of ours."""
        return await audit_trail(
            self._database, store.audit, subject=subject, request_id=request_id, limit=limit, cursor=cursor
        )

    def _append_records(self, tx: Connection, records: Sequence[AuditRecord]) -> list[None]:
        """Append records that have no effect beside them. A redo may tell one twice: better than never."""
        store.audit.append(tx, self._clock(), records)
        return [None] * len(records)

    async def forget_expired(self) -> int:
        """Delete tokens, sessions, private keys and counts that nobody needs any more; returns how many."""
        now = self._clock()
        return await self._database.writing(
            lambda tx: store.forget(tx, now=now, guesses_since=now - domain.GUESSING_WINDOW)
        )


class _KeyRing:
    """The signing keys as this process last read them: every process of auth signs with the same ones."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._keys: list[SigningKey] = []
        self._read_at = float("-inf")
        self._private_keys: dict[str, EllipticCurvePrivateKey] = {}

    async def sign(self, claims: Mapping[str, Any]) -> str:
        """An access token, signed with the key whose turn it is."""
        if time.monotonic() - self._read_at > KEYS_READ_SECONDS:
            await self._read()
        kid = domain.signing_key(self._keys, self._clock()).kid
        return sign(claims, self._private_keys[kid], kid)

    async def published(self) -> PublicKeys:
        """The public keys, as they are in the database now."""
        await self._read()
        kids = domain.published(self._keys, self._clock())
        return {kid: self._private_keys[kid].public_key() for kid in kids}

    async def make_first(self) -> None:
        """Make a key that signs at once, unless there is one."""
        new = _new_signing_key(self._clock())
        await self._database.writing(lambda tx: self._add_first(tx, new))

    async def rotate(self, caller: Caller, settings: Settings) -> str:
        """Add a key that will sign soon and set when the others retire; returns its id."""
        now = self._clock()
        signs_from = now + settings.signing_delay_seconds * MICROSECONDS_PER_SECOND
        new = _new_signing_key(now, signs_from=signs_from)
        retires_at = domain.retirement(signs_from, settings.access_token_seconds)
        await self._database.writing(lambda tx: self._replace(tx, caller, new, retires_at))
        return new.kid

    def _add_first(self, tx: Connection, new: SigningKey) -> None:
        store.lock(tx, store.KEYS_LOCK)
        if not store.all_signing_keys(tx):
            store.add_signing_key(tx, new)

    def _replace(self, tx: Connection, caller: Caller, new: SigningKey, retires_at: int) -> None:
        store.lock(tx, store.KEYS_LOCK)
        if any(key.kid == new.kid for key in store.all_signing_keys(tx)):
            return  # a redo after a commit whose answer was lost
        store.retire_signing_keys(tx, at=retires_at)
        store.add_signing_key(tx, new)
        store.audit.append(tx, self._clock(), [AuditRecord.of(caller, "key.rotated", new.kid)])

    async def _read(self) -> None:
        started = time.monotonic()
        self._keys = await self._database.reading(store.all_signing_keys)
        self._read_at = started
        self._private_keys = {
            key.kid: self._private_keys.get(key.kid) or _private_key(key.private_key) for key in self._keys
        }


def _new_signing_key(now: int, *, signs_from: int | None = None) -> SigningKey:
    key = generate_private_key(SECP256R1())
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode("ascii")
    signs_from = now if signs_from is None else signs_from
    return SigningKey(thumbprint(key.public_key()), pem, created_at=now, signs_from=signs_from, retires_at=None)


def _private_key(pem: str) -> EllipticCurvePrivateKey:
    key = load_pem_private_key(pem.encode("ascii"), password=None)
    if not isinstance(key, EllipticCurvePrivateKey):
        raise InvariantBroken("a signing key is of another kind than those that we make")
    return key


def _too_many(wait_seconds: int) -> Refusal:
    return Refusal(
        Reason.TOO_MANY_REQUESTS,
        "There were too many failed logins for this account or from this network. Wait before the next attempt.",
        retry_after_seconds=wait_seconds,
    )


def _failed_login(guess: _Guess, user: User | None, reason: Reason) -> AuditRecord:
    """Who tried is unknown, and the address may be a password in the wrong field: it is kept as a hash."""
    detail = {"emailHash": guess.email_limit.key, "address": guess.visitor.address}
    subject = user.id if user else ANONYMOUS
    return AuditRecord(ANONYMOUS, "login.failed", subject, guess.visitor.request_id, reason, detail)


def _session_record(
    actor: str, action: str, session: Session, visitor: Visitor, result: str = SUCCEEDED
) -> AuditRecord:
    detail = {"session": session.id, "address": visitor.address}
    return AuditRecord(actor, action, session.user_id, visitor.request_id, result, detail)


def _view(user: User) -> UserView:
    return UserView(
        user_id=user.id,
        email=user.email,
        full_name=user.full_name,
        role=user.role,
        created_at=rfc3339(user.created_at),
    )
