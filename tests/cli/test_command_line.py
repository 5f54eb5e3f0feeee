"""The command line as a person meets it: what it prints, and how it ends."""

from pathlib import Path

import pytest

from ewallet import __version__
from ewallet.plumbing.settings import documented_settings
from tests.cli.conftest import Run
from tests.support.platform import clean_environment
from tests.support.platform import run_command as start_command


def test_the_version_is_the_packages(run: Run) -> None:
    assert run("--version").out == f"ewallet {__version__}\n"


def test_help_names_every_command(run: Run) -> None:
    shown = run("--help").out

    for command in (
        "up",
        "serve",
        "migrate",
        "verify",
        "backup",
        "restore",
        "demo",
        "create-admin",
        "rotate-key",
        "settings",
    ):
        assert f" {command} " in shown


def test_settings_lists_every_variable_with_its_default(run: Run) -> None:
    shown = run("settings").out

    for setting in documented_settings():
        assert f"`{setting.variable}`" in shown
        assert setting.default in shown


@pytest.mark.parametrize("command", [["up"], ["serve", "wallet"], ["migrate"], ["verify"], ["demo"]], ids=" ".join)
def test_a_wrong_setting_stops_every_command_with_a_sentence_that_names_it(run: Run, command: list[str]) -> None:
    ended = run(*command, PORT="eighty")

    assert ended.status == 2
    assert "EWALLET_PORT" in ended.err
    assert len(ended.err.splitlines()) == 1


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("TRUSTED_PROXIES", "everybody"),
        ("TRUSTED_PROXIES", "10.1.2.3/16"),
        ("PUBLIC_URL", "pay.example.com"),
        ("WALLET_URL", "ftp://x"),
    ],
)
def test_an_address_that_is_none_is_a_wrong_setting(run: Run, name: str, value: str) -> None:
    ended = run("migrate", **{name: value})

    assert ended.status == 2
    assert f"EWALLET_{name}" in ended.err


@pytest.mark.parametrize(
    "url", ["mysql://user:password@host:port/database", "mysql://", "sqlite:///", "sqlite:///:memory:"]
)
def test_a_database_url_that_leads_nowhere_is_a_wrong_setting(run: Run, url: str) -> None:
    ended = run("migrate", WALLET_DATABASE_URL=url)

    assert ended.status == 2
    assert "EWALLET_WALLET_DATABASE_URL" in ended.err


def test_a_secret_is_never_repeated_in_a_complaint(run: Run) -> None:
    ended = run("up", ADMIN_EMAIL="admin@example.com", ADMIN_PASSWORD="kept-quiet", PORT="-1")

    assert "kept-quiet" not in ended.out + ended.err


def test_migrate_says_what_it_did(run: Run) -> None:
    first, second = run("migrate"), run("migrate")

    assert first.out.count("brought up to date") == 4
    assert second.out.count("was up to date") == 4
    assert "wallet.sqlite3" in first.out


def test_migrate_takes_one_service(run: Run) -> None:
    assert run("migrate", "wallet").out.split()[0] == "wallet"


def test_an_unknown_service_is_refused(run: Run) -> None:
    assert run("serve", "casino").status == 2


def test_a_host_that_is_not_ours_is_a_sentence(tmp_path: Path) -> None:
    # 192.0.2.1 is for documentation, nobody's (RFC 5737). A process of its own: `up` sets up this process's logs.
    environment = clean_environment(EWALLET_HOST="192.0.2.1", EWALLET_DATA=str(tmp_path))

    ended = start_command("up", environment=environment)

    assert ended.returncode == 1
    assert "EWALLET_HOST" in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("name", "value"), [("ADMIN_PASSWORD", "short"), ("ADMIN_EMAIL", "nobody"), ("FEES", "USD=2%")]
)
def test_a_setting_that_only_a_service_can_judge_stops_the_start_with_a_sentence(
    tmp_path: Path, name: str, value: str
) -> None:
    settings = {
        "DATA": str(tmp_path),
        "PORT": "0",
        "ADMIN_EMAIL": "a@example.com",
        "ADMIN_PASSWORD": "orchard-lantern-42",
    }
    environment = clean_environment(**{f"EWALLET_{key}": given for key, given in (settings | {name: value}).items()})

    ended = start_command("up", environment=environment)

    assert ended.returncode == 2
    assert f"EWALLET_{name}" in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


def test_a_demo_without_a_platform_says_how_to_start_one(run: Run) -> None:
    ended = run("demo", "--url", "http://127.0.0.1:9")  # the discard port, where nobody listens

    assert ended.status == 1
    assert "make run" in ended.err
    assert "http://127.0.0.1:9" in ended.err
