"""The rules of auth: who may register, which passwords are too easy, how a session lives, when guessing must wait.

Pure: time and randomness are arguments. Times and durations are microseconds; limits count within a window of time.
"""

import base64
import hashlib
import hmac
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv6Address, ip_address, ip_network

from ewallet.kernel.caller import Role
from ewallet.kernel.clock import MICROSECONDS_PER_SECOND
from ewallet.kernel.errors import FieldError, InvariantBroken, Reason, Refusal
from ewallet.kernel.money import is_currency

ANONYMOUS = "anonymous"
"""The actor of what somebody does who has not shown who they are."""


@dataclass(frozen=True, slots=True)
class Visitor:
    """Somebody without an access token: all that is known is where the request came from."""

    address: str
    request_id: str


@dataclass(frozen=True, slots=True)
class User:
    """A person. ``currency`` is that of the wallet; an administrator's wallet counts as opened though there is none."""

    id: str
    email: str
    password_hash: str
    full_name: str
    role: Role
    currency: str
    wallet_opened: bool
    created_at: int


# --- registration ------------------------------------------------------------------------------------------------

MAXIMUM_EMAIL_LENGTH = 254
"""What fits into SMTP's path of 256 characters with its angle brackets (RFC 5321, erratum 1690)."""

MAXIMUM_NAME_LENGTH = 200
MINIMUM_PASSWORD_LENGTH = 12
MAXIMUM_PASSWORD_LENGTH = 200

# Quoted local parts, comments and address lists, which RFC 5322 allows, are what nobody has and injections need.
_ATOM = r"[^@\s.<>()\[\],;:\\\"]+"
_EMAIL = re.compile(rf"^{_ATOM}(\.{_ATOM})*@(localhost|{_ATOM}(\.{_ATOM})+)$")

# Control, unassigned and separator characters, and those that change the direction of what stands beside them: none
# can be seen, and each can make one name look like another.
_INVISIBLE_CATEGORIES = ("Cc", "Cn", "Co", "Cs", "Zl", "Zp")
_DIRECTION_MARKS = frozenset("\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def normalised_email(email: str) -> str:
    """The one spelling under which an address is stored and looked up: lower case, composed (Unicode NFC)."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", email).lower())


def check_person(*, email: str, full_name: str, password: str, currency: str) -> Refusal | None:
    """Everything that is wrong with a new person, at once. ``email`` is normalised already."""
    faults = (
        ("/email", email_fault(email)),
        ("/password", password_fault(password, email)),
        ("/fullName", name_fault(full_name)),
        ("/currency", None if is_currency(currency) else f"{currency} is no currency that the platform knows."),
    )
    errors = tuple(FieldError(pointer, fault) for pointer, fault in faults if fault is not None)
    if not errors:
        return None
    return Refusal(Reason.VALIDATION_ERROR, f"{errors[0].pointer}: {errors[0].detail}", errors=errors)


def email_fault(email: str) -> str | None:
    """What keeps a text from being an address. Only a letter to it could tell whether it exists."""
    if len(email) > MAXIMUM_EMAIL_LENGTH:
        return f"An e-mail address has at most {MAXIMUM_EMAIL_LENGTH} characters."
    if not _EMAIL.match(email) or _has_invisible(email) or any(unicodedata.category(c) == "Cf" for c in email):
        return "This is not an e-mail address."
    return None


def name_fault(name: str) -> str | None:
    """What keeps a text from being a person's, a shop's or a program's name."""
    if not name.strip():
        return "A name needs at least one character that can be seen."
    if len(name) > MAXIMUM_NAME_LENGTH:
        return f"A name has at most {MAXIMUM_NAME_LENGTH} characters."
    if _has_invisible(name):
        return "A name has no control characters."
    return None


def _has_invisible(text: str) -> bool:
    return any(unicodedata.category(c) in _INVISIBLE_CATEGORIES or c in _DIRECTION_MARKS for c in text)


# --- passwords ---------------------------------------------------------------------------------------------------
# After NIST SP 800-63B: length, no composition rules, and a list of what everybody tries first.

# Among the most used in published leaks, as they are or with digits and signs around them ("Password2024!").
_COMMON_WORDS = """
    1q2w3e4r5t6y 1qaz2wsx3edc 1qazxsw23edc aaasssdddfff abcabc abcdef access admin administrator alexander asdf
    asdfasdf asdfjkl baseball basketball batman bienvenue blinkonehundred bonjour butterfly changeit changeme charlie
    chelsea chocolate christopher computer default demo dragon elizabeth ewallet family firebird football forever
    freedom friends gfhjkm guest hello hellohello hellokitty heslo iamthebest ihateyou ilovemyfamily ilovemyself
    iloveyou iloveyouforever iloveyousomuch internet jennifer jesuschrist juventus killer letmein letmeinnow liverpool
    login loveyou manchester manchesterunited master maverick metallica michael michelle mickeymouse monkey motdepasse
    mustang mypassword naruto newpassword ninja nopassword ofcourse onedirection p455w0rd p@ssw0rd p@ssword pa$$word
    pa55word parola pass passpass passw0rd passwd password password1password passwort pokemon princess q1w2e3r4t5y6
    qazwsx qazwsxedc qazwsxedcrfv qweasdzxc qwer qwerasdfzxcv qwerqwer qwert qwerty qwertyqwerty root samsung scoobydoo
    secret secretpassword senha serenity shadow slipknot spiderman starwars summer sunshine superman superstar
    taylorswift temp temppassword test testing testpassword testtest thankyou thisismypassword thisispassword
    tinkerbell trustno twilight unbelievable unknown user username wallet welcome welcomehome whatever winter wordpass
    yourpassword zaq12wsxcde3 zaq1xsw2cde3 zxcvbnm
"""
_COMMON = frozenset(_COMMON_WORDS.split())
_ROWS = (
    *("01234567890123456789", "abcdefghijklmnopqrstuvwxyz"),
    *("qwertyuiop", "asdfghjkl", "zxcvbnm", "qwertzuiop", "azertyuiop"),
)
_RUNS = (*_ROWS, *(row[::-1] for row in _ROWS))
_SHORTEST_RUN = 3
_LONGEST_REPEATED_PIECE = 8


def password_fault(password: str, email: str) -> str | None:
    """What is wrong with a new password. Only its length and how soon it would be guessed count."""
    if len(password) < MINIMUM_PASSWORD_LENGTH:
        return f"A password has at least {MINIMUM_PASSWORD_LENGTH} characters."
    if len(password) > MAXIMUM_PASSWORD_LENGTH:
        return f"A password has at most {MAXIMUM_PASSWORD_LENGTH} characters."
    if _is_common(password.casefold(), email):
        return "This password is among the first that would be guessed: choose another, such as a few random words."
    return None


def _is_common(password: str, email: str) -> bool:
    core = _letters(password)
    own_words = {_letters(email.partition("@")[0]), email} - {""}
    return password in _COMMON or core in _COMMON | own_words or _is_repetition(password) or _is_made_of_runs(password)


def _letters(text: str) -> str:
    """The text without the digits and signs around it."""
    return re.sub(r"^[\W\d_]+|[\W\d_]+$", "", text)


def _is_repetition(password: str) -> bool:
    """Whether the password is one short piece several times: a text has period p if it is found in itself p later."""
    period = (password + password).find(password, 1)
    return period < len(password) and period <= _LONGEST_REPEATED_PIECE


def _is_made_of_runs(password: str) -> bool:
    """Whether the password is pieces of the alphabet, of the digits or of a keyboard's rows, and at most two more."""
    while len(password) >= _SHORTEST_RUN:
        length = next((n for n in range(len(password), _SHORTEST_RUN - 1, -1) if _is_run(password[:n])), 0)
        if length == 0:
            return False
        password = password[length:]
    return True


def _is_run(piece: str) -> bool:
    return any(piece in run for run in _RUNS)


# --- sessions ----------------------------------------------------------------------------------------------------
# A refresh token is spent by its first use, which gives its successor. The successor is computed from the token and
# the session's own random seed, so a repeated use within the grace gives the same successor again without anybody
# having stored it, and a copy of the database gives no token at all.

TOKEN_BYTES = 32
"""Randomness of a refresh token, of a session's seed and of a client's secret: nobody guesses 256 bits."""

REFRESH_GRACE = 10 * MICROSECONDS_PER_SECOND
"""How long a spent token may come again: its answer was lost, or two windows of one browser refreshed at once."""


@dataclass(frozen=True, slots=True)
class Session:
    """A family of refresh tokens, from a login until it is ended or not used any more."""

    id: str
    user_id: str
    seed: str
    expires_at: int
    ended_at: int | None


@dataclass(frozen=True, slots=True)
class Continued:
    """The session goes on with ``token``."""

    session: Session
    token: str


@dataclass(frozen=True, slots=True)
class Reused:
    """A token of the session came that was spent long ago: somebody has a copy, so the session is over."""

    session: Session


def token_hash(token: str) -> str:
    """How a refresh token or a client's secret is stored.

    A plain SHA-256 is enough: with 256 random bits there is nothing to guess, so there is nothing to slow down.
    """
    return hashlib.sha256(token.encode()).hexdigest()


def successor(token: str, seed: str) -> str:
    """The token that follows ``token`` in the session with this seed."""
    digest = hmac.digest(seed.encode(), token.encode(), "sha256")
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


class SessionBook:
    """The sessions that some refresh tokens belong to, as they stand after each use.

    ``session_of`` maps the hashes of presented tokens to ids of ``sessions``. ``spent_at`` says when each of them was
    spent, and also each other token of these sessions that was spent within the grace or not at all.
    """

    def __init__(
        self, *, session_of: Mapping[str, str], sessions: Mapping[str, Session], spent_at: Mapping[str, int | None]
    ) -> None:
        self._session_of = session_of
        self._sessions = dict(sessions)
        self._spent_at = dict(spent_at)
        self.spent: list[str] = []
        """Hashes of the tokens that were spent."""
        self.fresh: list[tuple[str, str]] = []
        """Hashes of their successors, each with its session's id."""
        self.ended: list[str] = []
        """Ids of the sessions that a reuse has ended."""

    def use(self, token: str, now: int) -> Continued | Reused | None:
        """Use a refresh token; None where it is unknown or its session is over."""
        hashed = token_hash(token)
        session = self._sessions.get(self._session_of.get(hashed, ""))
        if session is None or session.ended_at is not None or session.expires_at <= now:
            return None
        when = self._spent_at[hashed]
        if when is None:
            return self._spend(token, session, now)
        following = successor(token, session.seed)
        # Whoever has used the successor did get the answer, so a lost one is no excuse any more.
        answer_arrived = self._spent_at.get(token_hash(following), when) is not None
        if answer_arrived or now - when > REFRESH_GRACE:
            return self._end(session, now)
        return Continued(session, following)

    def _spend(self, token: str, session: Session, now: int) -> Continued:
        following = successor(token, session.seed)
        self._spent_at[token_hash(token)] = now
        self._spent_at[token_hash(following)] = None
        self.spent.append(token_hash(token))
        self.fresh.append((token_hash(following), session.id))
        return Continued(session, following)

    def _end(self, session: Session, now: int) -> Reused:
        self._sessions[session.id] = replace(session, ended_at=now)
        self.ended.append(session.id)
        return Reused(session)


# --- limits on guessing ------------------------------------------------------------------------------------------

GUESSING_WINDOW = 15 * 60 * MICROSECONDS_PER_SECOND
"""Failed logins count from the first one for this long; then counting begins anew."""

_IPV6_NETWORK_BITS = 64


@dataclass(frozen=True, slots=True)
class Guesses:
    """Logins begun under one key since ``since`` that did not succeed, or not yet.

    Never counted past the first refused one, so that being refused costs no writing and does not prolong the wait.
    """

    since: int
    count: int


NO_GUESSES = Guesses(since=0, count=0)


@dataclass(frozen=True, slots=True)
class Limit:
    """How many failed logins there may be under one key in a window."""

    key: str
    maximum: int


def email_key(email: str) -> str:
    """The key under which guesses at one address are counted: hashed, because people mistype passwords into it."""
    return hashlib.sha256(f"email\0{email}".encode()).hexdigest()


def address_key(address: str) -> str:
    """The key under which guesses from one place are counted: an IPv6 host has a whole /64 to choose addresses from."""
    try:
        parsed = ip_address(address)
    except ValueError:
        network = address
    else:
        bits = _IPV6_NETWORK_BITS if isinstance(parsed, IPv6Address) else parsed.max_prefixlen
        network = str(ip_network((parsed, bits), strict=False))
    return hashlib.sha256(f"address\0{network}".encode()).hexdigest()


def begin_guess(guesses: Mapping[str, Guesses], limits: Sequence[Limit], now: int) -> dict[str, Guesses]:
    """The counts after one more login has begun under all of ``limits``; a refused one counts under what refuses it.

    Counted before the password is checked, so that a thousand guesses at once are not all checked.
    """
    counted = {limit.key: _one_more(guesses.get(limit.key, NO_GUESSES), limit.maximum, now) for limit in limits}
    refusing = {limit.key: counted[limit.key] for limit in limits if counted[limit.key].count > limit.maximum}
    return refusing or counted


def wait_of(counted: Mapping[str, Guesses], limits: Sequence[Limit], now: int) -> int:
    """Seconds until a login may begin under all of ``limits``; 0 where it may now. ``counted`` is `begin_guess`'s."""
    waits = [
        counted[limit.key].since + GUESSING_WINDOW - now
        for limit in limits
        if limit.key in counted and counted[limit.key].count > limit.maximum
    ]
    return -(-max(waits, default=0) // MICROSECONDS_PER_SECOND)


def take_back(guesses: Guesses, maximum: int) -> Guesses:
    """The count after a login under the key has turned out to be no guess."""
    return replace(guesses, count=max(min(guesses.count, maximum) - 1, 0))


def _one_more(guesses: Guesses, maximum: int, now: int) -> Guesses:
    if now - guesses.since >= GUESSING_WINDOW:
        return Guesses(since=now, count=1)
    return replace(guesses, count=min(guesses.count, maximum) + 1)


# --- signing keys ------------------------------------------------------------------------------------------------

RETIRING_MARGIN = 60 * MICROSECONDS_PER_SECOND
"""How much longer than its last token a key stays published, for clocks that differ."""


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A key pair; the private one in PEM. It signs from ``signs_from`` until a later one does."""

    kid: str
    private_key: str
    created_at: int
    signs_from: int
    retires_at: int | None


def signing_key(keys: Iterable[SigningKey], now: int) -> SigningKey:
    """The key that signs now."""
    ready = [key for key in keys if key.signs_from <= now]
    if not ready:
        raise InvariantBroken("there is no signing key: the first start of auth makes one")
    return max(ready, key=lambda key: (key.signs_from, key.kid))


def published(keys: Iterable[SigningKey], now: int) -> list[str]:
    """The ids of the keys that may have signed a token that is still valid, or will sign one."""
    return [key.kid for key in keys if key.retires_at is None or key.retires_at > now]


def retirement(successor_signs_from: int, access_token_seconds: int) -> int:
    """When a key whose successor is known has no valid tokens any more."""
    return successor_signs_from + access_token_seconds * MICROSECONDS_PER_SECOND + RETIRING_MARGIN
