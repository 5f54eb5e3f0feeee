"""Auth as a client sees it over HTTP, line by line of the contract."""

import base64
from typing import Any

import httpx2
import pytest

from ewallet.auth.messages import ClientCredentials
from ewallet.kernel.caller import Role
from ewallet.kernel.errors import unwrap
from tests.support.auth import ADMIN, HERE, PASSWORD, Auth, basic, bearer, running

ADA = {"email": "ada@example.com", "password": PASSWORD, "fullName": "Ada Byron"}
FORM = {"grant_type": "client_credentials"}


def slug(answer: httpx2.Response) -> tuple[int, str]:
    problem = answer.json()
    assert answer.headers["content-type"] == "application/problem+json"
    assert problem["status"] == answer.status_code
    assert problem["requestId"] == answer.headers["x-request-id"]
    return answer.status_code, problem["type"].removeprefix("/problems/")


def pointers(answer: httpx2.Response) -> list[str]:
    assert slug(answer) == (422, "validation-error")
    return [error["pointer"] for error in answer.json()["errors"]]


async def admin_headers(auth: Auth) -> dict[str, str]:
    unwrap(await auth.service.ensure_admin("root@example.com", PASSWORD))
    return bearer(unwrap(await auth.login("root@example.com")).access_token)


async def service_client(auth: Auth) -> ClientCredentials:
    return unwrap(await auth.service.create_client(ADMIN, "shop"))


async def test_a_person_registers_logs_in_and_is_known(sqlite_url: str) -> None:
    async with running(sqlite_url) as auth:
        registered = await auth.http.post("/auth/register", json=ADA | {"role": "MERCHANT", "currency": "EUR"})
        login = await auth.http.post("/auth/login", json={"email": "ADA@example.com", "password": PASSWORD})
        me = await auth.http.get("/auth/me", headers=bearer(login.json()["accessToken"]))

        assert registered.status_code == 201
        user = registered.json()
        assert user == {
            "userId": user["userId"],
            "email": "ada@example.com",
            "fullName": "Ada Byron",
            "role": "MERCHANT",
            "createdAt": user["createdAt"],
        }
        assert user["userId"].startswith("usr_")
        assert user["createdAt"].endswith("Z")
        assert (login.status_code, set(login.json())) == (
            200,
            {"accessToken", "tokenType", "expiresIn", "refreshToken"},
        )
        assert (login.json()["tokenType"], login.json()["expiresIn"]) == ("Bearer", 600)
        assert (me.status_code, me.json()) == (200, user)


@pytest.mark.parametrize(
    ("change", "pointer"),
    [
        *(({"email": email}, "/email") for email in ("ada", "", 7, None, "a" * 251 + "@b.c")),
        *(({"password": password}, "/password") for password in ("eleven char", "passwordpassword", "x" * 201, 12)),
        *(({"fullName": name}, "/fullName") for name in ("", "  ", "a\u0000b", "x" * 201)),
        *(({"role": role}, "/role") for role in ("ADMIN", "SERVICE", "customer", None)),
        *(({"currency": currency}, "/currency") for currency in ("XTS", "usd", "EURO", None)),
        ({"userId": "usr_mine"}, "/userId"),
    ],
)
async def test_a_wrong_field_is_named_and_nobody_is_registered(
    sqlite_url: str, change: dict[str, Any], pointer: str
) -> None:
    async with running(sqlite_url) as auth:
        assert pointers(await auth.http.post("/auth/register", json=ADA | change)) == [pointer]
        assert auth.wallets.opened == []
        assert (await auth.http.post("/auth/register", json=ADA)).status_code == 201


async def test_an_address_can_be_registered_once(sqlite_url: str) -> None:
    async with running(sqlite_url) as auth:
        await auth.http.post("/auth/register", json=ADA)

        again = await auth.http.post("/auth/register", json=ADA | {"email": "Ada@EXAMPLE.com"})
        assert slug(again) == (409, "email-taken")


async def test_wrong_credentials_are_answered_in_one_way(sqlite_url: str) -> None:
    async with running(sqlite_url) as auth:
        await auth.http.post("/auth/register", json=ADA)
        wrong = [
            await auth.http.post("/auth/login", json={"email": email, "password": password})
            for email, password in ((ADA["email"], "wrong"), ("bob@example.com", PASSWORD), ("no address", "x"))
        ]

        assert [slug(answer) for answer in wrong] == [(401, "invalid-credentials")] * 3
        assert {answer.headers["www-authenticate"] for answer in wrong} == {"Bearer"}
        assert len({answer.json()["detail"] for answer in wrong}) == 1


async def test_too_many_wrong_logins_are_told_how_long_to_wait(sqlite_url: str) -> None:
    async with running(sqlite_url, login_failures=1) as auth:
        answers = [
            await auth.http.post("/auth/login", json={"email": ADA["email"], "password": "wrong"}) for _ in range(2)
        ]

        assert slug(answers[-1]) == (429, "too-many-requests")
        assert answers[-1].headers["retry-after"] == "900"


async def test_a_session_is_continued_and_ended_by_its_refresh_token(sqlite_url: str) -> None:
    async with running(sqlite_url) as auth:
        first = (await auth.logged_in()).refresh_token
        refreshed = await auth.http.post("/auth/refresh", json={"refreshToken": first})
        body = {"refreshToken": refreshed.json()["refreshToken"]}

        assert (refreshed.status_code, refreshed.json()["tokenType"]) == (200, "Bearer")
        for _ in range(2):
            ended = await auth.http.post("/auth/logout", json=body)
            assert (ended.status_code, ended.content) == (204, b"")
        assert slug(await auth.http.post("/auth/refresh", json=body)) == (401, "invalid-token")


async def test_a_service_client_is_made_by_an_administrator_and_gets_tokens(sqlite_url: str) -> None:
    async with running(sqlite_url) as auth:
        made = await auth.http.post("/auth/clients", json={"name": "shop"}, headers=await admin_headers(auth))
        client = made.json()
        answer = await auth.http.post(
            "/auth/token", data=FORM, headers=basic(client["clientId"], client["clientSecret"])
        )
        token = answer.json()

        assert (made.status_code, set(client)) == (201, {"clientId", "clientSecret"})
        assert (answer.status_code, set(token)) == (200, {"access_token", "token_type", "expires_in"})
        assert (token["token_type"], token["expires_in"]) == ("Bearer", 600)
        verified = await auth.http.get("/auth/verify", headers=bearer(token["access_token"]))
        assert verified.headers["x-auth-subject"] == client["clientId"]
        assert verified.headers["x-auth-role"] == "SERVICE"
        assert slug(await auth.http.get("/auth/me", headers=bearer(token["access_token"]))) == (403, "forbidden")


@pytest.mark.parametrize("role", ["CUSTOMER", "SERVICE", None])
async def test_nobody_but_an_administrator_lets_clients_in_or_reads_the_audit(
    sqlite_url: str, role: str | None
) -> None:
    async with running(sqlite_url) as auth:
        client = await service_client(auth)
        tokens = {
            "CUSTOMER": (await auth.logged_in()).access_token,
            "SERVICE": unwrap(
                await auth.service.service_token(HERE, client.client_id, client.client_secret)
            ).access_token,
        }
        headers = bearer(tokens[role]) if role else {}
        expected = (403, "forbidden") if role else (401, "invalid-token")

        assert slug(await auth.http.post("/auth/clients", json={"name": "x"}, headers=headers)) == expected
        assert slug(await auth.http.get("/auth/audit", headers=headers)) == expected


@pytest.mark.parametrize(
    "authorization",
    [
        None,
        "Basic",
        "Basic !",
        "Basic " + base64.b64encode(b"no colon").decode(),
        "Basic " + base64.b64encode("ключ:ключ".encode()).decode(),
        "Basic " + base64.b64encode(b"cli_unknown:secret").decode(),
        "Bearer token",
    ],
)
async def test_a_client_without_right_credentials_gets_no_token(sqlite_url: str, authorization: str | None) -> None:
    async with running(sqlite_url) as auth:
        headers = {"Authorization": authorization} if authorization else {}

        answer = await auth.http.post("/auth/token", data=FORM, headers=headers)
        assert slug(answer) == (401, "invalid-credentials")
        assert "www-authenticate" in answer.headers


@pytest.mark.parametrize(
    "form",
    [
        {"grant_type": "password"},
        {"grant": "client_credentials"},
        {"grant_type": "client_credentials", "client_id": "cli_1"},
        {"grant_type": ["client_credentials", "client_credentials"]},
    ],
)
async def test_another_grant_or_field_is_a_validation_error(sqlite_url: str, form: dict[str, Any]) -> None:
    async with running(sqlite_url) as auth:
        client = await service_client(auth)
        headers = basic(client.client_id, client.client_secret)

        answer = await auth.http.post("/auth/token", data=form, headers=headers)
        assert slug(answer) == (422, "validation-error")


async def test_a_token_is_validated_for_anyone(sqlite_url: str) -> None:
    async with running(sqlite_url) as auth:
        user = await auth.person()
        token = unwrap(await auth.login(user.email)).access_token
        valid = await auth.http.post("/auth/validate", json={"token": token})
        invalid = await auth.http.post("/auth/validate", json={"token": token + "x"})

        assert valid.json() == {
            "active": True,
            "subject": user.user_id,
            "role": "CUSTOMER",
            "expiresAt": valid.json()["expiresAt"],
        }
        assert (invalid.status_code, invalid.json()) == (200, {"active": False})


async def test_a_proxy_learns_whom_a_token_stands_for(sqlite_url: str) -> None:
    async with running(sqlite_url) as auth:
        user = await auth.person(role="MERCHANT")
        token = unwrap(await auth.login(user.email)).access_token
        spoofed = {"X-Auth-Subject": "usr_somebody", "X-Auth-Role": "ADMIN"}
        verified = await auth.http.get("/auth/verify", headers=bearer(token) | spoofed)

        assert (verified.status_code, verified.content) == (204, b"")
        assert (verified.headers["x-auth-subject"], verified.headers["x-auth-role"]) == (user.user_id, "MERCHANT")
        refused = await auth.http.get("/auth/verify", headers=spoofed)
        assert slug(refused) == (401, "invalid-token")
        assert "x-auth-subject" not in refused.headers


async def test_the_public_keys_are_there_for_everybody_and_nothing_else_of_them(sqlite_url: str) -> None:
    async with running(sqlite_url) as auth:
        await auth.service.rotate_key(ADMIN)
        answer = await auth.http.get("/.well-known/jwks.json")

        assert answer.status_code == 200
        assert len(answer.json()["keys"]) == 2
        for key in answer.json()["keys"]:
            assert set(key) == {"kid", "kty", "crv", "x", "y", "alg", "use"}
            assert (key["kty"], key["crv"], key["alg"], key["use"]) == ("EC", "P-256", "ES256", "sig")


async def test_the_audit_is_read_by_subject_and_by_request(sqlite_url: str) -> None:
    async with running(sqlite_url) as auth:
        headers = await admin_headers(auth)
        registered = await auth.http.post("/auth/register", json=ADA, headers={"X-Request-Id": "the-registration"})
        user_id = registered.json()["userId"]

        for query in ({"subject": user_id}, {"requestId": "the-registration"}):
            found = (await auth.http.get("/auth/audit", params=query, headers=headers)).json()
            assert found["nextCursor"] is None
            (record,) = found["items"]
            assert (record["actor"], record["action"], record["result"]) == (user_id, "user.registered", "ok")
            assert (record["subject"], record["requestId"]) == (user_id, "the-registration")
            assert set(record) == {
                *("sequence", "at", "actor", "action", "subject", "requestId", "result", "detail", "hash")
            }


@pytest.mark.parametrize("query", ["limit=0", "limit=101", "cursor=x", "subject=", "subject=é", "what=1"])
async def test_a_wrong_query_of_the_audit_is_a_validation_error(sqlite_url: str, query: str) -> None:
    async with running(sqlite_url) as auth:
        answer = await auth.http.get(f"/auth/audit?{query}", headers=await admin_headers(auth))

        assert slug(answer) == (422, "validation-error")


async def test_the_document_says_that_verification_answers_in_headers(sqlite_url: str) -> None:
    async with running(sqlite_url) as auth:
        document = (await auth.http.get("/openapi/openapi.json")).json()

        answer = document["paths"]["/auth/verify"]["get"]["responses"]["204"]
        assert "content" not in answer
        assert set(answer["headers"]) == {"X-Auth-Subject", "X-Auth-Role"}


async def test_an_administrator_is_a_user_as_well(sqlite_url: str) -> None:
    async with running(sqlite_url) as auth:
        me = await auth.http.get("/auth/me", headers=await admin_headers(auth))

        assert (me.status_code, me.json()["role"]) == (200, Role.ADMIN)
