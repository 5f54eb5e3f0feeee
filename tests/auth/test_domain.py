"""The rules of auth, one by one, without a database or a clock."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ewallet.auth import domain
from ewallet.auth.domain import (
    GUESSING_WINDOW,
    NO_GUESSES,
    REFRESH_GRACE,
    Continued,
    Guesses,
    Limit,
    Reused,
    Session,
    SessionBook,
    SigningKey,
    token_hash,
)
from ewallet.kernel.errors import InvariantBroken, Reason

EMAIL = "ada.byron@example.com"
NOW = 1_790_000_000_000_000
SECOND = 1_000_000

# --- people ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "email",
    [
        "a@b.c",
        "ada@localhost",
        "ada+shop@mail.example.com",
        "o'brien@example.ie",
        "李@例え.テスト",
        f"{'a' * 242}@example.com",
    ],
)
def test_an_ordinary_address_is_accepted(email: str) -> None:
    assert domain.email_fault(domain.normalised_email(email)) is None


@pytest.mark.parametrize(
    "email",
    [
        *("", "ada", "@example.com", "ada@", "ada@example", "ada@@example.com", "ada@b@example.com"),
        *("ada byron@example.com", "ada@exa mple.com", "ada@example.com\n", "ada@.com", "ada@example..com", ".a@b.c"),
        *('"ada"@example.com', "<ada@example.com>", "ada@example.com,bob@example.com", "ada@[192.0.2.1]"),
        *("ada\0@example.com", "ada\u200b@example.com", "ada\u202e@example.com", f"{'a' * 250}@example.com"),
    ],
)
def test_what_is_no_address_is_refused(email: str) -> None:
    assert domain.email_fault(domain.normalised_email(email)) is not None


def test_addresses_that_look_the_same_are_the_same() -> None:
    composed, decomposed = "RENÉ@Example.COM", "rene\u0301@example.com"

    assert domain.normalised_email(composed) == domain.normalised_email(decomposed) == "rené@example.com"


@given(st.emails())
def test_normalising_twice_changes_nothing(email: str) -> None:
    once = domain.normalised_email(email)

    assert domain.normalised_email(once) == once


@pytest.mark.parametrize(
    "name", ["Ada", "李小龍", "Zoë O'Neill-Smith Jr.", "\U0001f469\u200d\U0001f680 Moon Shop", "क्\u200dष", "x" * 200]
)
def test_names_of_the_whole_world_are_accepted(name: str) -> None:
    assert domain.name_fault(name) is None


@pytest.mark.parametrize("name", ["", "  \u00a0", "Ada\nByron", "Ada\0", "Ada\u2028B", "adA\u202eB", "x" * 201])
def test_a_name_that_is_empty_endless_or_not_what_it_looks_like_is_refused(name: str) -> None:
    assert domain.name_fault(name) is not None


def test_everything_wrong_with_a_registration_is_said_at_once() -> None:
    refusal = domain.check_person(email="ada", full_name=" ", password="short", currency="XTS")

    assert refusal is not None
    assert refusal.reason is Reason.VALIDATION_ERROR
    assert [error.pointer for error in refusal.errors] == ["/email", "/password", "/fullName", "/currency"]


# --- passwords ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "password",
    [
        *(
            "correct horse battery",
            "correct horse battery staple",
            "tqXw3.lkP0aZ",
            "lowercaseonlyandlong",
            "839201748392",
        ),
        *(
            "пароль из слов",
            "🦊🐙🦉🐝🐢🦀🐍🦔🐌🦎🐞🦋",
            "x" * 3 + "yz" * 90,
            "admin of the tiny zoo",
            "password of my dreams",
        ),
    ],
)
def test_length_is_all_that_a_password_needs(password: str) -> None:
    assert domain.password_fault(password, EMAIL) is None


@pytest.mark.parametrize(
    "password",
    [
        *("passwordpassword", "Password1234", "P@ssw0rd2024!", "!!!welcome!!!", "iloveyousomuch", "1q2w3e4r5t6y"),
        *(
            "123456789012",
            "098765432109",
            "abcdefghijkl",
            "qwertyuiopas",
            "qwerty123456",
            "abc123def456",
            "abcdef123456!!",
        ),
        *("aaaaaaaaaaaa", "abababababab", "12ab12ab12ab", "administrator1", "Administrator"),
        *("ada.byron1815", "ADA.BYRON@EXAMPLE.COM", "...ada.byron..."),
    ],
)
def test_what_everybody_would_try_first_is_refused(password: str) -> None:
    fault = domain.password_fault(password, EMAIL)

    assert fault is not None
    assert "guessed" in fault


@pytest.mark.parametrize(("length", "fine"), [(11, False), (12, True), (200, True), (201, False)])
def test_a_password_has_12_to_200_characters(length: int, *, fine: bool) -> None:
    password = ("qzkwv jxbp" * 21)[:length]

    assert (domain.password_fault(password, EMAIL) is None) == fine


@given(st.text(min_size=12, max_size=200))
def test_the_rule_for_passwords_has_an_answer_for_any_text(password: str) -> None:
    assert domain.password_fault(password, EMAIL) in (
        None,
        domain.password_fault("passwordpassword", EMAIL),
    )


# --- sessions ----------------------------------------------------------------------------------------------------

SESSION = Session(id="ses_1", user_id="usr_1", seed="seed", expires_at=NOW + 1000 * SECOND, ended_at=None)
FIRST = "first token"
SECOND_TOKEN = domain.successor(FIRST, SESSION.seed)
THIRD_TOKEN = domain.successor(SECOND_TOKEN, SESSION.seed)


def book(spent_at: dict[str, int | None], *, session: Session = SESSION) -> SessionBook:
    """A session whose tokens were spent at these times."""
    hashed = {token_hash(token): at for token, at in spent_at.items()}
    return SessionBook(session_of=dict.fromkeys(hashed, session.id), sessions={session.id: session}, spent_at=hashed)


def test_a_fresh_token_is_spent_and_gives_its_successor() -> None:
    sessions = book({FIRST: None})

    assert sessions.use(FIRST, NOW) == Continued(SESSION, SECOND_TOKEN)
    assert sessions.spent == [token_hash(FIRST)]
    assert sessions.fresh == [(token_hash(SECOND_TOKEN), SESSION.id)]


def test_the_same_token_twice_in_one_batch_gives_the_same_successor() -> None:
    sessions = book({FIRST: None})

    assert sessions.use(FIRST, NOW) == sessions.use(FIRST, NOW)
    assert len(sessions.fresh) == 1


def test_a_spent_token_within_the_grace_gives_its_successor_again() -> None:
    """The answer was lost, as far as anybody can tell."""
    sessions = book({FIRST: NOW, SECOND_TOKEN: None})

    assert sessions.use(FIRST, NOW + REFRESH_GRACE) == Continued(SESSION, SECOND_TOKEN)
    assert not any((sessions.spent, sessions.fresh))


def test_a_spent_token_whose_successor_was_used_ends_the_session_even_within_the_grace() -> None:
    """The answer was not lost: somebody else holds a copy of the token."""
    sessions = book({FIRST: NOW, SECOND_TOKEN: NOW + 1, THIRD_TOKEN: None})

    assert sessions.use(FIRST, NOW + 2) == Reused(SESSION)
    assert sessions.use(THIRD_TOKEN, NOW + 2) is None


def test_a_spent_token_after_the_grace_ends_the_session_for_its_newest_token_too() -> None:
    sessions = book({FIRST: NOW, SECOND_TOKEN: None})

    assert sessions.use(FIRST, NOW + REFRESH_GRACE + 1) == Reused(SESSION)
    assert sessions.use(SECOND_TOKEN, NOW + REFRESH_GRACE + 1) is None
    assert sessions.use(FIRST, NOW + REFRESH_GRACE + 1) is None
    assert sessions.ended == [SESSION.id]


@pytest.mark.parametrize(
    "session",
    [
        Session("ses_1", "usr_1", "seed", expires_at=NOW, ended_at=None),
        Session("ses_1", "usr_1", "seed", expires_at=NOW + 1, ended_at=NOW - 1),
    ],
    ids=["expired", "ended"],
)
def test_a_session_that_is_over_stays_over(session: Session) -> None:
    sessions = book({FIRST: None}, session=session)

    assert sessions.use(FIRST, NOW) is None
    assert sessions.spent == []


def test_an_unknown_token_has_no_session() -> None:
    assert book({FIRST: None}).use("another", NOW) is None


def test_a_successor_needs_both_the_token_and_the_seed() -> None:
    assert len({domain.successor(token, seed) for token in ("a", "b") for seed in ("c", "d")}) == 4


# --- limits on guessing ------------------------------------------------------------------------------------------

ONE_ACCOUNT = Limit("account", 3)
ONE_PLACE = Limit("place", 5)


def test_as_many_logins_may_begin_as_the_limit_says_until_the_window_is_over() -> None:
    guesses: dict[str, Guesses] = {}
    waits = []
    for second in range(5):
        now = NOW + second * SECOND
        counted = domain.begin_guess(guesses, [ONE_ACCOUNT], now)
        waits.append(domain.wait_of(counted, [ONE_ACCOUNT], now))
        guesses |= counted

    assert waits == [0, 0, 0, 15 * 60 - 3, 15 * 60 - 4]
    later = NOW + GUESSING_WINDOW
    assert domain.wait_of(domain.begin_guess(guesses, [ONE_ACCOUNT], later), [ONE_ACCOUNT], later) == 0


def test_a_refused_login_counts_only_under_what_refuses_it() -> None:
    """Otherwise one blocked network could lock every account, and one locked account a whole network."""
    guesses = {"account": Guesses(NOW, 3), "place": Guesses(NOW, 1)}

    assert domain.begin_guess(guesses, [ONE_ACCOUNT, ONE_PLACE], NOW) == {"account": Guesses(NOW, 4)}


def test_being_refused_again_changes_nothing() -> None:
    guesses = {"account": Guesses(NOW, 4)}

    assert domain.begin_guess(guesses, [ONE_ACCOUNT], NOW + SECOND) == guesses


def test_a_right_password_takes_its_guess_back() -> None:
    assert domain.take_back(Guesses(NOW, 2), 5) == Guesses(NOW, 1)
    assert domain.take_back(Guesses(NOW, 6), 5) == Guesses(NOW, 4)
    assert domain.take_back(NO_GUESSES, 5) == NO_GUESSES


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 1200)), max_size=60))
def test_no_window_ever_admits_more_than_the_limit(attempts: list[tuple[str, int]]) -> None:
    guesses: dict[str, Guesses] = {}
    admitted: Counter[tuple[str, int]] = Counter()
    for key, second in sorted(attempts, key=lambda attempt: attempt[1]):
        limit, now = Limit(key, 3), NOW + second * SECOND
        counted = domain.begin_guess(guesses, [limit], now)
        guesses |= counted
        if not domain.wait_of(counted, [limit], now):
            admitted[key, guesses[key].since] += 1

    assert all(count <= 3 for count in admitted.values())


def test_neighbours_in_one_ipv6_network_count_as_one_place() -> None:
    same = {domain.address_key(address) for address in ("2001:db8::1", "2001:db8::2", "2001:db8:0:0:ffff::")}
    other = {domain.address_key(address) for address in ("2001:db8:0:1::1", "192.0.2.1", "192.0.2.2", "")}

    assert len(same) == 1
    assert len(same | other) == 5


# --- signing keys ------------------------------------------------------------------------------------------------


def key(kid: str, *, signs_from: int, retires_at: int | None = None) -> SigningKey:
    return SigningKey(kid, "PEM", created_at=NOW, signs_from=signs_from, retires_at=retires_at)


def test_a_new_key_signs_from_its_time_on_and_is_published_before() -> None:
    old, new = key("old", signs_from=NOW, retires_at=NOW + 100), key("new", signs_from=NOW + 10)

    assert domain.signing_key([old, new], NOW + 9).kid == "old"
    assert domain.signing_key([old, new], NOW + 10).kid == "new"
    assert domain.published([old, new], NOW) == ["old", "new"]


def test_an_old_key_is_published_until_its_last_token_has_expired() -> None:
    signs_from = NOW + 10 * SECOND
    retires_at = domain.retirement(signs_from, 600)

    assert retires_at > signs_from + 600 * SECOND
    assert domain.published([key("old", signs_from=NOW, retires_at=retires_at)], retires_at - 1) == ["old"]
    assert domain.published([key("old", signs_from=NOW, retires_at=retires_at)], retires_at) == []


def test_signing_without_a_key_is_a_bug() -> None:
    with pytest.raises(InvariantBroken):
        domain.signing_key([], NOW)
