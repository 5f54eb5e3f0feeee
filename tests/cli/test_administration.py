"""Administrators and keys from the command line, beside a running platform."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from tests.support.platform import People, Platform, clean_environment, platform, run_command

PASSWORD = "orchard-lantern-42"


@pytest.fixture(scope="module")
def running(scratch: Path) -> Iterator[Platform]:
    """Start a platform for this file."""
    with tempfile.TemporaryDirectory(dir=scratch) as folder, platform("together", {}, Path(folder)) as made:
        made.start()
        yield made
        made.stop()


@pytest.fixture
def people(running: Platform) -> Iterator[People]:
    """Give somebody who registers users of the running platform."""
    with httpx2.Client(timeout=30, trust_env=False) as http:
        yield People(running.address, http)


def create_admin(running: Platform, *email: str, password: str = PASSWORD) -> tuple[int, str]:
    ended = run_command("create-admin", *email, environment=running.environment, standard_input=f"{password}\n")
    return ended.returncode, ended.stdout + ended.stderr


def test_an_administrator_made_at_the_command_line_may_log_in(running: Platform, people: People) -> None:
    status, said = create_admin(running, "Second@Example.com")

    assert status == 0, said
    admin = people.log_in("", "second@example.com", PASSWORD)
    assert admin.answer("GET", "/auth/me")["role"] == "ADMIN"
    records = admin.answer("GET", "/auth/audit")["items"]
    assert ("service:command-line", "admin.created") in {(record["actor"], record["action"]) for record in records}


@pytest.mark.parametrize(
    ("email", "password", "complaint"),
    [
        ("third@example.com", "short", "12 characters"),
        ("nobody", PASSWORD, "e-mail"),
        ("admin@example.com", PASSWORD, ""),
    ],
)
def test_an_administrator_who_cannot_be_is_refused_in_a_sentence(
    running: Platform, email: str, password: str, complaint: str
) -> None:
    status, said = create_admin(running, email, password=password)

    assert status == 1
    assert complaint in said
    assert "Traceback" not in said


def test_an_administrator_can_be_made_before_the_first_start(tmp_path: Path) -> None:
    environment = clean_environment(
        EWALLET_DATA=str(tmp_path),
        EWALLET_BCRYPT_COST="4",
        EWALLET_ADMIN_EMAIL="first@example.com",
        EWALLET_ADMIN_PASSWORD=PASSWORD,
    )

    made = run_command("create-admin", environment=environment)

    assert made.returncode == 0, made.stderr
    assert "first@example.com" in made.stdout
    assert PASSWORD not in made.stdout + made.stderr


def test_without_an_address_it_is_asked_for(tmp_path: Path) -> None:
    ended = run_command("create-admin", environment=clean_environment(EWALLET_DATA=str(tmp_path)))

    assert ended.returncode == 1
    assert "EWALLET_ADMIN_EMAIL" in ended.stderr


def test_a_rotated_key_is_published_at_once_and_old_tokens_stay_valid(running: Platform, people: People) -> None:
    customer = people.customer()
    before = _key_ids(people)

    rotated = running.run("rotate-key")

    assert rotated.returncode == 0, rotated.stderr
    assert len(_key_ids(people) - before) == 1
    assert before < _key_ids(people)
    assert customer.get("/auth/me").status_code == 200


def _key_ids(people: People) -> set[str]:
    keys = people.http.get(f"{people.address}/.well-known/jwks.json").json()["keys"]
    return {key["kid"] for key in keys}
