"""A wrong setting stops the start with a sentence that names it and never repeats a secret."""

from pathlib import Path

import pytest

from ewallet.plumbing.secrets import FILE_NAME, internal_secret
from ewallet.plumbing.settings import (
    MINIMUM_SECRET_LENGTH,
    SERVICES,
    Settings,
    SettingsError,
    documented_settings,
    load_settings,
)

SECRET = "s3cr3t-" * 10


def test_everything_has_a_default_that_works() -> None:
    settings = load_settings({})

    assert settings == Settings()
    assert (settings.port, settings.bcrypt_cost, settings.host) == (8080, 12, "127.0.0.1")


def test_the_names_that_issue_and_readme_promise_are_read() -> None:
    settings = load_settings(
        {
            "EWALLET_DATA": "/srv/ewallet",
            "EWALLET_PORT": "9000",
            "EWALLET_ADMIN_EMAIL": "admin@example.com",
            "EWALLET_ADMIN_PASSWORD": "correct horse battery",
            "EWALLET_BCRYPT_COST": "10",
            "EWALLET_RATE_PER_USER": "0",
            "EWALLET_RATE_PER_ADDRESS": "7",
            "EWALLET_WALLET_DATABASE_URL": "mysql://user:pass%40word@db.example.com:3306/ewallet",
            "SOMETHING_ELSE": "ignored",
        }
    )

    assert settings.database_url("auth") == "sqlite:////srv/ewallet/auth.sqlite3"
    assert settings.database_url("wallet") == "mysql://user:pass%40word@db.example.com:3306/ewallet"
    assert (settings.port, settings.rate_per_user, settings.rate_per_address) == (9000, 0, 7)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("EWALLET_PORT", "eighty"),
        ("EWALLET_PORT", "65536"),
        ("EWALLET_PORT", "-1"),
        ("EWALLET_PORT", "80.5"),
        ("EWALLET_PORT", ""),
        ("EWALLET_BCRYPT_COST", "3"),
        ("EWALLET_BCRYPT_COST", "17"),
        ("EWALLET_RATE_PER_USER", "-1"),
        ("EWALLET_FEE_BASIS_POINTS", "10001"),
        ("EWALLET_LOG_LEVEL", "loud"),
        ("EWALLET_ENVIRONMENT", "staging"),
        ("EWALLET_REQUEST_SECONDS", "0"),
    ],
)
def test_a_wrong_value_is_named_and_shown(name: str, value: str) -> None:
    with pytest.raises(SettingsError, match=name) as error:
        load_settings({name: value})

    assert repr(value) in str(error.value)


@pytest.mark.parametrize(
    "url",
    [
        "postgres://user:{}@host/db",
        "mysql://user:{}@host",
        "mysql://user:{}@host:port/db",
        "{}",
        "sqlite://",
        "sqlite:///:memory:",
    ],
)
def test_a_wrong_database_address_is_named_without_its_password(url: str) -> None:
    with pytest.raises(SettingsError, match="EWALLET_WALLET_DATABASE_URL") as error:
        load_settings({"EWALLET_WALLET_DATABASE_URL": url.format(SECRET)})

    assert SECRET not in str(error.value)


def test_a_short_secret_is_named_and_not_repeated() -> None:
    with pytest.raises(SettingsError, match="EWALLET_INTERNAL_SECRET") as error:
        load_settings({"EWALLET_INTERNAL_SECRET": "too-short-secret"})

    assert "too-short-secret" not in str(error.value)


@pytest.mark.parametrize("name", ["internal_secret", "admin_password", "wallet_database_url"])
def test_a_secret_of_the_wrong_type_in_the_file_is_not_repeated(tmp_path: Path, name: str) -> None:
    file = tmp_path / "settings.toml"
    file.write_text(f'{name} = ["{SECRET}"]')

    with pytest.raises(SettingsError, match=f"EWALLET_{name.upper()}") as error:
        load_settings({"EWALLET_CONFIG": str(file)})
    assert SECRET not in str(error.value)


def test_the_environment_wins_over_the_file_and_the_file_over_the_default(tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    file.write_text('port = 9000\nhost = "0.0.0.0"\n')

    settings = load_settings({"EWALLET_CONFIG": str(file), "EWALLET_PORT": "9001"})

    assert (settings.port, settings.host, settings.bcrypt_cost) == (9001, "0.0.0.0", 12)  # noqa: S104  # nothing listens


@pytest.mark.parametrize(
    ("text", "named"),
    [("prot = 9000", "prot"), ("port = ", "not valid TOML"), ('port = "x"', "EWALLET_PORT"), ("\xff", "EWALLET|TOML")],
)
def test_a_wrong_file_is_told_by_what_is_wrong_in_it(tmp_path: Path, text: str, named: str) -> None:
    file = tmp_path / "settings.toml"
    file.write_text(text, encoding="latin-1")

    with pytest.raises(SettingsError, match=named):
        load_settings({"EWALLET_CONFIG": str(file)})


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"EWALLET_CONFIG .*nothing-here"):
        load_settings({"EWALLET_CONFIG": str(tmp_path / "nothing-here")})


@pytest.mark.parametrize("name", ["EWALLET_ADMIN_EMAIL", "EWALLET_ADMIN_PASSWORD"])
def test_the_first_administrator_needs_both_parts(name: str) -> None:
    with pytest.raises(SettingsError, match=r"EWALLET_ADMIN_EMAIL and EWALLET_ADMIN_PASSWORD"):
        load_settings({name: "admin@example.com"})


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"EWALLET_INTERNAL_SECRET": ""}, "EWALLET_INTERNAL_SECRET"),
        ({"EWALLET_BCRYPT_COST": "9"}, "EWALLET_BCRYPT_COST"),
    ],
)
def test_production_does_not_start_with_what_is_only_good_enough_for_development(
    changes: dict[str, str], named: str
) -> None:
    production = {"EWALLET_ENVIRONMENT": "production", "EWALLET_INTERNAL_SECRET": SECRET}
    assert load_settings(production).environment == "production"

    with pytest.raises(SettingsError, match=named):
        load_settings(production | changes)


def test_a_service_alone_must_be_told_where_its_sisters_are() -> None:
    with pytest.raises(SettingsError, match="EWALLET_WALLET_URL"):
        Settings().service_urls("wallet")
    assert Settings(wallet_url="http://wallet:8080/").service_urls("wallet") == ["http://wallet:8080"]


def test_a_service_may_be_at_several_addresses() -> None:
    two = load_settings({"EWALLET_WALLET_URL": "http://a:1/, http://b:2"})

    assert two.service_urls("wallet") == ["http://a:1", "http://b:2"]
    with pytest.raises(SettingsError, match="EWALLET_WALLET_URL"):
        load_settings({"EWALLET_WALLET_URL": "http://a:1,b:2"})


def test_every_setting_is_documented_once() -> None:
    rows = documented_settings()

    assert all(row.variable.startswith("EWALLET_") and row.description for row in rows)
    assert len({row.variable for row in rows}) == len(rows) == len(Settings.__struct_fields__)
    assert {f"EWALLET_{service.upper()}_DATABASE_URL" for service in SERVICES} <= {row.variable for row in rows}


# --- the secret between services --------------------------------------------------------------------------------------


def test_a_secret_is_made_once_and_kept_for_our_eyes_only(tmp_path: Path) -> None:
    settings = Settings(data=str(tmp_path / "data"))

    first, second = internal_secret(settings), internal_secret(settings)

    assert first == second
    assert len(first) >= MINIMUM_SECRET_LENGTH
    assert (tmp_path / "data" / FILE_NAME).stat().st_mode & 0o777 == 0o600
    assert [file.name for file in (tmp_path / "data").iterdir()] == [FILE_NAME]


def test_two_installations_have_different_secrets(tmp_path: Path) -> None:
    assert internal_secret(Settings(data=str(tmp_path / "a"))) != internal_secret(Settings(data=str(tmp_path / "b")))


def test_a_configured_secret_writes_no_file(tmp_path: Path) -> None:
    assert internal_secret(Settings(data=str(tmp_path), internal_secret=SECRET)) == SECRET
    assert list(tmp_path.iterdir()) == []


def test_a_secret_that_was_cut_off_is_not_used(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).write_text("short")

    with pytest.raises(SettingsError, match="too short"):
        internal_secret(Settings(data=str(tmp_path)))
