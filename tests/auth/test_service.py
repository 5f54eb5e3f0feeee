"""The use cases of auth, on real databases of both kinds; where two processes could race, two services do."""

import asyncio
from collections import Counter
from collections.abc import Callable

import jwt
import pytest
from sqlalchemy import Connection, Table, func, select, update

from ewallet.auth import store
from ewallet.auth.domain import Visitor
from ewallet.auth.messages import ServiceToken, Tokens, UserView
from ewallet.kernel.caller import Caller, Role
from ewallet.kernel.errors import OutcomeUnknown, Reason, Refusal, unwrap
from ewallet.plumbing.database import Database
from ewallet.plumbing.settings import MINIMUM_SIGNING_DELAY_SECONDS
from ewallet.plumbing.tokens import KEYS_REFRESH_SECONDS
from tests.support.auth import ADMIN, HERE, PASSWORD, Auth, Wallets, registration, running
from tests.support.verifying import faults_in

WRONG = "not the password"


def reason(answer: object) -> Reason:
    assert isinstance(answer, Refusal), answer
    return answer.reason


async def actions(auth: Auth, *, subject: str | None = None) -> list[tuple[str, str, str]]:
    """Actor, action and result of the audit's records, oldest first; the chain they are in must hold."""
    page = await auth.service.audit_trail(ADMIN, subject=subject, request_id=None, limit=100, cursor=None)
    assert faults_in(auth.service) == []
    return [(item.actor, item.action, item.result) for item in reversed(page.items)]


async def rows(auth: Auth, table: Table) -> int:
    return await auth.database.reading(lambda tx: tx.execute(select(func.count()).select_from(table)).scalar_one())


# --- registration ------------------------------------------------------------------------------------------------


async def test_a_registered_person_has_a_wallet_and_can_log_in(database_url: str) -> None:
    async with running(database_url) as auth:
        user = unwrap(await auth.service.register(HERE, registration(email="Ada@Example.com", currency="JPY")))
        tokens = unwrap(await auth.login("ADA@example.com"))

        assert [(order.owner, order.role, order.currency) for order in auth.wallets.opened] == [
            (user.user_id, Role.CUSTOMER, "JPY")
        ]
        principal = await auth.verifier.verify(tokens.access_token)
        assert principal is not None
        assert (principal.subject, principal.role) == (user.user_id, Role.CUSTOMER)
        assert await auth.service.me(Caller(user.user_id, Role.CUSTOMER, "req")) == user
        assert await actions(auth) == [
            (user.user_id, "user.registered", "ok"),
            (user.user_id, "login.succeeded", "ok"),
        ]


async def test_one_address_belongs_to_one_person_though_many_ask_at_once(database_url: str) -> None:
    async with running(database_url) as one, running(database_url) as other:
        asked = [
            auth.service.register(HERE, registration(email=email))
            for auth in (one, other)
            for email in ("ada@example.com", "ADA@example.com") * 10
        ]
        answers = await asyncio.gather(*asked)

        assert sum(isinstance(answer, UserView) for answer in answers) == 1
        assert {answer.reason for answer in answers if isinstance(answer, Refusal)} == {Reason.EMAIL_TAKEN}
        assert len(await actions(one)) == 1
        assert len(one.wallets.opened + other.wallets.opened) == 1


async def test_many_people_register_at_once(database_url: str) -> None:
    async with running(database_url) as auth:
        people = await asyncio.gather(*(auth.person() for _ in range(100)))

        assert len({person.user_id for person in people}) == 100
        assert {order.owner for order in auth.wallets.opened} == {person.user_id for person in people}


async def test_a_registration_that_stopped_before_its_wallet_is_finished_later(database_url: str) -> None:
    """The process died, or the wallet service did not answer: nobody may stay without a wallet."""
    async with running(database_url, wallets=Wallets(out_of_order=True)) as broken:
        with pytest.raises(OutcomeUnknown):
            await broken.person(email="ada@example.com")
        assert isinstance(await broken.login("ada@example.com"), Tokens)

    async with running(database_url) as repaired:
        assert await repaired.service.finish_registrations() == 0, "it may still be under way"
        repaired.clock.pass_seconds(6)
        assert await repaired.service.finish_registrations() == 1
        assert await repaired.service.finish_registrations() == 0
        assert len(repaired.wallets.opened) == 1


async def test_a_wallet_that_cannot_be_opened_yet_keeps_nobody_else_waiting(database_url: str) -> None:
    async with running(database_url, wallets=Wallets(out_of_order=True)) as auth:
        for email in ("ada@example.com", "bob@example.com"):
            with pytest.raises(OutcomeUnknown):
                await auth.person(email=email)
        auth.clock.pass_seconds(6)
        ada = unwrap(await auth.login("ada@example.com"))
        stuck = jwt.decode(ada.access_token, options={"verify_signature": False})["sub"]
        auth.wallets.out_of_order, auth.wallets.stuck = False, stuck

        with pytest.raises(OutcomeUnknown):
            await auth.service.finish_registrations()
        assert len(auth.wallets.opened) == 1
        auth.wallets.stuck = ""
        assert await auth.service.finish_registrations() == 1


# --- passwords and limits ----------------------------------------------------------------------------------------


async def test_an_unknown_address_and_a_wrong_password_are_answered_alike(database_url: str) -> None:
    async with running(database_url) as auth:
        user = await auth.person(email="ada@example.com")

        assert await auth.login("ada@example.com", WRONG) == await auth.login("nobody@example.com", WRONG)
        assert (await actions(auth))[1:] == [("anonymous", "login.failed", "invalid-credentials")] * 2
        assert (await actions(auth, subject=user.user_id))[1:] == [("anonymous", "login.failed", "invalid-credentials")]


async def test_guesses_at_one_account_end_at_the_limit_over_all_processes(database_url: str) -> None:
    """Sixty guesses at the same moment, half of them in another process: no more than the limit are looked at."""
    async with (
        running(database_url, login_failures=5) as one,
        running(database_url, login_failures=5, clock=one.clock) as other,
    ):
        user = await one.person(email="ada@example.com")
        answers = await asyncio.gather(
            *(auth.login("ada@example.com", WRONG) for auth in (one, other) for _ in range(30))
        )

        refused = [answer for answer in answers if reason(answer) is Reason.TOO_MANY_REQUESTS]
        assert len(refused) == 55
        assert all(isinstance(answer, Refusal) and answer.retry_after_seconds == 900 for answer in refused)
        assert reason(await other.login("ada@example.com")) is Reason.TOO_MANY_REQUESTS, "the right one must wait too"
        records = (await actions(one))[1:]
        assert Counter(records) == {
            ("anonymous", "login.failed", "invalid-credentials"): 5,
            ("anonymous", "login.failed", "too-many-requests"): 1,
        }

        one.clock.pass_seconds(900)
        assert unwrap(await one.login("ada@example.com")).token_type == "Bearer"
        assert len(await actions(one, subject=user.user_id)) == 7


async def test_guesses_at_an_account_that_does_not_exist_end_at_the_limit_too(database_url: str) -> None:
    async with running(database_url, login_failures=2) as auth:
        answers = [reason(await auth.login("nobody@example.com", WRONG)) for _ in range(3)]

        assert answers == [Reason.INVALID_CREDENTIALS, Reason.INVALID_CREDENTIALS, Reason.TOO_MANY_REQUESTS]


async def test_guesses_from_one_place_end_at_the_limit_and_disturb_no_other_place(database_url: str) -> None:
    async with running(database_url, login_failures_per_address=3) as auth:
        user = await auth.person()
        for number in range(3):
            await auth.login(f"nobody-{number}@example.com", WRONG)

        assert reason(await auth.login(user.email)) is Reason.TOO_MANY_REQUESTS
        elsewhere = Visitor(address="198.51.100.7", request_id="req_elsewhere")
        assert isinstance(await auth.login(user.email, visitor=elsewhere), Tokens)


async def test_a_flood_of_refused_guesses_keeps_nobody_else_from_logging_in(database_url: str) -> None:
    """A refused one takes no place in the queue for passwords, of which there are as many as one person can fill."""
    async with running(database_url, login_failures=1) as auth:
        user = await auth.person()
        for _ in range(2):
            await auth.login("victim@example.com", WRONG)
        auth.service._passwords._maximum_pending = 1

        *flood, other = await asyncio.gather(
            *(auth.login("victim@example.com", WRONG) for _ in range(50)), auth.login(user.email)
        )
        assert {reason(answer) for answer in flood} == {Reason.TOO_MANY_REQUESTS}
        assert isinstance(other, Tokens)


async def test_the_right_password_forgives_the_wrong_ones(database_url: str) -> None:
    async with running(database_url, login_failures=3) as auth:
        user = await auth.person()
        for _ in range(3):
            await auth.login(user.email, WRONG)
            await auth.login(user.email, WRONG)
            assert isinstance(await auth.login(user.email), Tokens)


async def test_many_right_logins_at_once_are_no_attack(database_url: str) -> None:
    async with running(database_url, login_failures=3, login_failures_per_address=40) as auth:
        user = await auth.person()
        people = [await auth.person() for _ in range(10)]
        logins = [auth.login(person.email) for person in [user] * 60 + people * 4]

        assert all(isinstance(answer, Tokens) for answer in await asyncio.gather(*logins))


async def test_a_password_hashed_at_another_cost_is_hashed_anew_when_it_is_shown(database_url: str) -> None:
    async with running(database_url) as cheap:
        user = await cheap.person()
    async with running(database_url, bcrypt_cost=5) as dear:
        assert isinstance(await dear.login(user.email), Tokens)
        stored = await dear.database.reading(lambda tx: store.users_by_id(tx, [user.user_id]))
        assert stored[user.user_id].password_hash.startswith("$2b$05$")
        assert isinstance(await dear.login(user.email), Tokens)


# --- sessions ----------------------------------------------------------------------------------------------------


async def test_a_session_goes_on_with_each_new_refresh_token(database_url: str) -> None:
    async with running(database_url) as auth:
        tokens = await auth.logged_in()
        seen = {tokens.refresh_token}
        for _ in range(3):
            auth.clock.pass_seconds(3600)
            tokens = unwrap(await auth.service.refresh(HERE, tokens.refresh_token))
            seen.add(tokens.refresh_token)

        assert len(seen) == 4
        assert tokens.expires_in == 600


async def test_a_refresh_repeated_at_once_gives_the_same_session_and_logs_nobody_out(database_url: str) -> None:
    """Two windows of one browser, two processes, or an answer that was lost: all get the same next token."""
    async with running(database_url) as one, running(database_url, clock=one.clock) as other:
        first = await one.logged_in()
        answers = await asyncio.gather(
            *(auth.service.refresh(HERE, first.refresh_token) for auth in (one, other) for _ in range(10))
        )
        following = {unwrap(answer).refresh_token for answer in answers}

        assert len(following) == 1
        one.clock.pass_seconds(3600)
        assert isinstance(await other.service.refresh(HERE, following.pop()), Tokens)


async def test_a_stolen_refresh_token_ends_the_session_for_thief_and_owner(database_url: str) -> None:
    async with running(database_url) as auth:
        user = await auth.person()
        stolen = unwrap(await auth.login(user.email)).refresh_token
        unharmed = unwrap(await auth.login(user.email)).refresh_token
        newest = unwrap(await auth.service.refresh(HERE, stolen)).refresh_token
        auth.clock.pass_seconds(11)

        assert reason(await auth.service.refresh(HERE, stolen)) is Reason.INVALID_TOKEN
        assert reason(await auth.service.refresh(HERE, newest)) is Reason.INVALID_TOKEN
        assert isinstance(await auth.service.refresh(HERE, unharmed), Tokens), "another session of the same person"
        assert (await actions(auth))[3:] == [("anonymous", "session.reused", "invalid-token")]


async def test_thief_and_owner_who_come_at_the_same_moment_share_one_session_that_then_ends(database_url: str) -> None:
    """The grace gives both the same successor, so whoever uses it second is found out."""
    async with running(database_url) as auth:
        stolen = (await auth.logged_in()).refresh_token
        for_owner = unwrap(await auth.service.refresh(HERE, stolen)).refresh_token
        for_thief = unwrap(await auth.service.refresh(HERE, stolen)).refresh_token
        auth.clock.pass_seconds(600)
        assert isinstance(await auth.service.refresh(HERE, for_owner), Tokens)
        auth.clock.pass_seconds(600)

        assert reason(await auth.service.refresh(HERE, for_thief)) is Reason.INVALID_TOKEN


async def test_a_session_without_use_runs_out(database_url: str) -> None:
    async with running(database_url, refresh_token_seconds=100) as auth:
        tokens = await auth.logged_in()
        auth.clock.pass_seconds(99)
        tokens = unwrap(await auth.service.refresh(HERE, tokens.refresh_token))
        auth.clock.pass_seconds(99)
        tokens = unwrap(await auth.service.refresh(HERE, tokens.refresh_token))
        auth.clock.pass_seconds(100)

        assert reason(await auth.service.refresh(HERE, tokens.refresh_token)) is Reason.INVALID_TOKEN


async def test_logout_ends_the_session_by_any_of_its_tokens_and_says_nothing_about_others(database_url: str) -> None:
    async with running(database_url) as auth:
        first = (await auth.logged_in()).refresh_token
        second = unwrap(await auth.service.refresh(HERE, first)).refresh_token

        for token in (first, second, "unknown"):
            await auth.service.logout(HERE, token)

        assert reason(await auth.service.refresh(HERE, second)) is Reason.INVALID_TOKEN
        assert [action for _, action, _ in await actions(auth)][2:] == ["session.ended"]


async def test_neither_passwords_nor_tokens_are_found_in_the_database(sqlite_url: str) -> None:
    """A copy of the database must let nobody in; of the audit, nobody may learn an address that failed."""
    async with running(sqlite_url) as auth:
        tokens = await auth.logged_in()
        tokens = unwrap(await auth.service.refresh(HERE, tokens.refresh_token))
        await auth.login("mistyped@example.com", WRONG)
        client = unwrap(await auth.service.create_client(ADMIN, "shop"))

        def contents(tx: Connection) -> str:
            return str([tx.execute(select(table)).all() for table in store.metadata.sorted_tables])

        everything = await auth.database.reading(contents)
        assert client.client_id in everything
        for secret in (PASSWORD, WRONG, "mistyped", tokens.refresh_token, tokens.access_token, client.client_secret):
            assert secret not in everything


# --- signing keys ------------------------------------------------------------------------------------------------


def kid_of(tokens: Tokens) -> str:
    kid: str = jwt.get_unverified_header(tokens.access_token)["kid"]
    return kid


async def test_processes_that_start_at_once_make_one_key(database_url: str) -> None:
    async with running(database_url) as one, running(database_url) as other:
        await asyncio.gather(*(auth.service.make_first_key() for auth in (one, other) for _ in range(5)))

        assert list(await one.service.public_keys()) == list(await other.service.public_keys())
        assert len(await one.service.public_keys()) == 1


async def test_a_new_key_is_published_at_once_signs_a_little_later_and_old_tokens_stay_valid(database_url: str) -> None:
    async with running(database_url) as auth:
        user = await auth.person()
        before = unwrap(await auth.login(user.email))
        new = await auth.service.rotate_key(ADMIN)

        assert [key.kid for key in (await auth.service.key_set()).keys] == [kid_of(before), new]
        assert kid_of(unwrap(await auth.login(user.email))) == kid_of(before)
        auth.clock.pass_seconds(10)
        after = unwrap(await auth.login(user.email))
        assert kid_of(after) == new
        for tokens in (before, after):
            assert (await auth.service.validate(tokens.access_token)).active
        assert (await actions(auth, subject=new)) == [(ADMIN.subject, "key.rotated", "ok")]


async def test_a_new_key_waits_as_long_as_proxies_need_to_be_told(database_url: str) -> None:
    async with running(database_url, signing_delay_seconds=300) as auth:
        user = await auth.person()
        new = await auth.service.rotate_key(ADMIN)

        auth.clock.pass_seconds(299)
        assert kid_of(unwrap(await auth.login(user.email))) != new
        auth.clock.pass_seconds(1)
        assert kid_of(unwrap(await auth.login(user.email))) == new


async def test_an_old_key_is_withdrawn_and_forgotten_when_its_last_token_has_expired(database_url: str) -> None:
    async with running(database_url) as auth:
        old = next(iter(await auth.service.public_keys()))
        new = await auth.service.rotate_key(ADMIN)
        auth.clock.pass_seconds(10 + 600)
        assert list(await auth.service.public_keys()) == [old, new]
        auth.clock.pass_seconds(60)

        assert list(await auth.service.public_keys()) == [new]
        auth.clock.pass_seconds(1)
        assert await auth.service.forget_expired() == 1
        stored = await auth.database.reading(store.all_signing_keys)
        assert [key.kid for key in stored] == [new]


async def test_rotating_twice_in_a_row_leaves_no_token_without_its_key(database_url: str) -> None:
    async with running(database_url) as auth:
        user = await auth.person()
        for _ in range(3):
            await auth.service.rotate_key(ADMIN)
            tokens = unwrap(await auth.login(user.email))
            auth.clock.pass_seconds(5)
            assert kid_of(tokens) in await auth.service.public_keys()


def test_a_new_key_waits_longer_than_anybody_takes_to_learn_of_it() -> None:
    assert MINIMUM_SIGNING_DELAY_SECONDS > KEYS_REFRESH_SECONDS


# --- service clients and administrators --------------------------------------------------------------------------


async def test_a_service_client_gets_a_token_for_its_secret_alone(database_url: str) -> None:
    async with running(database_url) as auth:
        client = unwrap(await auth.service.create_client(ADMIN, "shop"))

        token = unwrap(await auth.service.service_token(HERE, client.client_id, client.client_secret))
        status = await auth.service.validate(token.access_token)
        assert (status.subject, status.role) == (client.client_id, Role.SERVICE)
        for client_id, secret in ((client.client_id, "wrong"), ("cli_unknown", client.client_secret)):
            assert reason(await auth.service.service_token(HERE, client_id, secret)) is Reason.INVALID_CREDENTIALS
        assert await actions(auth) == [
            (ADMIN.subject, "client.created", "ok"),
            (client.client_id, "client.authenticated", "ok"),
            ("anonymous", "client.authenticated", "invalid-credentials"),
        ]


async def test_a_client_needs_a_name_that_a_person_can_read(sqlite_url: str) -> None:
    async with running(sqlite_url) as auth:
        assert reason(await auth.service.create_client(ADMIN, "\u202eshop")) is Reason.VALIDATION_ERROR


async def test_the_first_administrator_is_made_once_and_keeps_the_password(database_url: str) -> None:
    async with running(database_url) as one, running(database_url) as other:
        made = await asyncio.gather(
            *(auth.service.ensure_admin("root@example.com", PASSWORD) for auth in (one, other) for _ in range(2))
        )
        again = unwrap(await one.service.ensure_admin("ROOT@example.com", "another password"))

        assert len({unwrap(admin).user_id for admin in [*made, again]}) == 1
        tokens = unwrap(await other.login("root@example.com"))
        assert (await other.service.validate(tokens.access_token)).role is Role.ADMIN
        assert reason(await other.login("root@example.com", "another password")) is Reason.INVALID_CREDENTIALS
        assert one.wallets.opened == other.wallets.opened == [], "an administrator holds no money"
        assert (await actions(one))[0] == ("service:platform", "admin.created", "ok")


async def test_nobody_becomes_an_administrator_by_having_registered_the_address_first(sqlite_url: str) -> None:
    async with running(sqlite_url) as auth:
        await auth.person(email="root@example.com")

        assert reason(await auth.service.ensure_admin("root@example.com", PASSWORD)) is Reason.EMAIL_TAKEN
        assert reason(await auth.service.create_admin(ADMIN, email="root@example.com", password=PASSWORD)) is (
            Reason.EMAIL_TAKEN
        )


async def test_an_administrator_needs_a_good_password_too(sqlite_url: str) -> None:
    async with running(sqlite_url) as auth:
        refusal = await auth.service.ensure_admin("root@example.com", "administrator")

        assert isinstance(refusal, Refusal)
        assert [error.pointer for error in refusal.errors] == ["/password"]


# --- lost answers ------------------------------------------------------------------------------------------------


async def test_a_commit_whose_answer_was_lost_is_found_again_and_done_once(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection breaks at every COMMIT: nobody knows that it took effect, and the transaction is done again."""
    transact = Database.transact

    def redone(database: Database, work: Callable[[Connection], object]) -> object:
        transact(database, work)
        return transact(database, work)

    async with running(database_url) as auth:
        monkeypatch.setattr(Database, "transact", redone)
        user = await auth.person()
        tokens = unwrap(await auth.login(user.email))
        following = unwrap(await auth.service.refresh(HERE, tokens.refresh_token))
        kid = await auth.service.rotate_key(ADMIN)
        client = unwrap(await auth.service.create_client(ADMIN, "shop"))
        await auth.service.logout(HERE, following.refresh_token)

        assert await actions(auth) == [
            (user.user_id, "user.registered", "ok"),
            (user.user_id, "login.succeeded", "ok"),
            (ADMIN.subject, "key.rotated", "ok"),
            (ADMIN.subject, "client.created", "ok"),
            (user.user_id, "session.ended", "ok"),
        ]
        assert kid in await auth.service.public_keys()
        assert await rows(auth, store.signing_keys) == 2
        assert isinstance(await auth.service.service_token(HERE, client.client_id, client.client_secret), ServiceToken)


# --- tokens, audit, forgetting -----------------------------------------------------------------------------------


async def test_an_access_token_says_no_more_than_the_contract(sqlite_url: str) -> None:
    async with running(sqlite_url) as auth:
        tokens = await auth.logged_in()
        claims = jwt.decode(tokens.access_token, options={"verify_signature": False})
        header = jwt.get_unverified_header(tokens.access_token)

        assert set(claims) == {"iss", "sub", "aud", "exp", "iat", "jti", "role"}
        assert claims["exp"] - claims["iat"] == tokens.expires_in == 600
        assert isinstance(claims["aud"], str)
        assert (header["alg"], header["typ"]) == ("ES256", "at+jwt")


async def test_a_token_is_not_active_when_it_is_expired_forged_or_of_another_kind(sqlite_url: str) -> None:
    async with running(sqlite_url) as auth:
        tokens = await auth.logged_in()
        head, claims, signature = tokens.access_token.split(".")
        unsigned = jwt.encode({"sub": "usr_1", "role": "ADMIN"}, "", algorithm="none")

        for token in ("x", f"{head}.{claims}.", f"{head}.{claims[:-2]}.{signature}", unsigned, tokens.refresh_token):
            assert not (await auth.service.validate(token)).active
        auth.clock.pass_seconds(600)
        assert not (await auth.service.validate(tokens.access_token)).active


async def test_audit_pages_follow_each_other_newest_first(database_url: str) -> None:
    async with running(database_url) as auth:
        for number in range(5):
            unwrap(await auth.service.create_client(ADMIN, f"shop {number}"))
        names, cursor = [], None
        for _ in range(3):
            page = await auth.service.audit_trail(ADMIN, subject=None, request_id=None, limit=2, cursor=cursor)
            names += [item.detail["name"] for item in page.items]
            cursor = page.next_cursor

        assert names == [f"shop {number}" for number in (4, 3, 2, 1, 0)]
        assert cursor is None


async def test_a_changed_audit_record_is_found(sqlite_url: str) -> None:
    async with running(sqlite_url) as auth:
        await auth.person()

        def tamper() -> None:
            with auth.database._writer.begin() as connection:
                connection.exec_driver_sql("DROP TRIGGER auth_audit_no_update")
                connection.execute(update(store.audit.records).values(actor="usr_somebody_else"))

        await asyncio.to_thread(tamper)
        assert [fault for fault in faults_in(auth.service) if "audit record 1" in fault]


async def test_what_has_run_out_is_forgotten_and_nothing_else(database_url: str) -> None:
    async with running(database_url, refresh_token_seconds=100) as auth:
        old = await auth.logged_in()
        await auth.login("nobody@example.com", WRONG)
        auth.clock.pass_seconds(50)
        kept = await auth.logged_in()
        auth.clock.pass_seconds(51)
        assert await auth.service.forget_expired() > 0
        assert [await rows(auth, table) for table in (store.sessions, store.refresh_tokens)] == [1, 1]
        assert isinstance(await auth.service.refresh(HERE, kept.refresh_token), Tokens)
        assert reason(await auth.service.refresh(HERE, old.refresh_token)) is Reason.INVALID_TOKEN
        auth.clock.pass_seconds(900)

        await auth.service.forget_expired()
        assert await rows(auth, store.login_failures) == await auth.service.forget_expired() == 0
