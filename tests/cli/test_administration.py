"""Administrators and keys from the command line, beside a running platform."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from tests.cli.conftest import Ended, Run
from tests.support.platform import People, Platform, platform

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


@pytest.fixture
def run_there(run: Run, running: Platform) -> Run:
    """Give a function that runs a command with the settings of the running platform."""
    theirs = {
        name.removeprefix("EWALLET_"): value
        for name, value in running.environment.items()
        if name.startswith("EWALLET_")
    }

    def run_command(*arguments: str, standard_input: str = "", **settings: str) -> Ended:
        return run(*arguments, standard_input=standard_input, **(theirs | settings))

    return run_command


def test_an_administrator_made_at_the_command_line_may_log_in(run_there: Run, people: People) -> None:
    made = run_there("create-admin", "Second@Example.com", standard_input=f"{PASSWORD}\n")

    assert made.status == 0, made.err
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
    run_there: Run, email: str, password: str, complaint: str
) -> None:
    ended = run_there("create-admin", email, standard_input=f"{password}\n")

    assert ended.status == 1
    assert complaint in ended.err
    assert len(ended.err.splitlines()) == 1


def test_an_administrator_can_be_made_before_the_first_start(run: Run) -> None:
    made = run("create-admin", BCRYPT_COST="4", ADMIN_EMAIL="first@example.com", ADMIN_PASSWORD=PASSWORD)

    assert made.status == 0, made.err
    assert "first@example.com" in made.out
    assert PASSWORD not in made.out + made.err


def test_without_an_address_it_is_asked_for(run: Run) -> None:
    ended = run("create-admin")

    assert ended.status == 1
    assert "EWALLET_ADMIN_EMAIL" in ended.err


def test_a_rotated_key_is_published_at_once_and_old_tokens_stay_valid(run_there: Run, people: People) -> None:
    customer = people.customer()
    before = _key_ids(people)

    rotated = run_there("rotate-key")

    assert rotated.status == 0, rotated.err
    assert len(_key_ids(people) - before) == 1
    assert before < _key_ids(people)
    assert customer.get("/auth/me").status_code == 200


def _key_ids(people: People) -> set[str]:
    keys = people.http.get(f"{people.address}/.well-known/jwks.json").json()["keys"]
    return {key["kid"] for key in keys}


@pytest.mark.parametrize("administrator", ["admin@example.com", ""])
def test_the_demo_finds_somebody_who_may_credit_a_wallet(run_there: Run, administrator: str) -> None:
    settings = {} if administrator else {"ADMIN_EMAIL": "", "ADMIN_PASSWORD": ""}

    shown = run_there("demo", **settings)

    assert shown.status == 0, shown.err
    assert (f"administrator {administrator}" if administrator else "service client cli_") in shown.out
    for words in ("12.50 USD", "0.25 USD", "12.25 USD", "67.50 USD", "/problems/insufficient-funds", "payment.failed"):
        assert words in shown.out


def test_a_demo_with_another_platforms_administrator_shows_the_problem(run_there: Run) -> None:
    ended = run_there("demo", ADMIN_EMAIL="stranger@example.com")

    assert ended.status == 1
    assert "/problems/invalid-credentials" in ended.err


def test_a_demo_far_from_the_data_says_what_it_needs(run_there: Run, tmp_path: Path) -> None:
    ended = run_there("demo", DATA=str(tmp_path / "elsewhere"), ADMIN_EMAIL="", ADMIN_PASSWORD="")

    assert ended.status == 1
    assert "EWALLET_DATA" in ended.err
