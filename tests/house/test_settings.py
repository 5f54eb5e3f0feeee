"""Every setting is in the README, with the default that the code has."""

import re

import pytest

from ewallet.cli.reference import settings_table
from ewallet.plumbing.settings import DocumentedSetting, documented_settings
from tests.house.tree import text_files


def variables_in(text: str) -> set[str]:
    return set(re.findall(r"\bEWALLET_[A-Z_]*[A-Z]\b", text))


def test_the_readme_holds_the_table_that_the_code_gives() -> None:
    assert settings_table(documented_settings()) in text_files()["README.md"], "paste `make settings-table`"


def test_every_variable_that_the_code_names_is_in_the_readme() -> None:
    sources = [text for path, text in text_files().items() if path.startswith("src/")]
    unexplained = set().union(*map(variables_in, sources)) - variables_in(text_files()["README.md"])

    assert not unexplained, f"the README does not explain {sorted(unexplained)}"


@pytest.mark.parametrize(
    "variable",
    [
        "EWALLET_DATA",
        "EWALLET_PORT",
        "EWALLET_ADMIN_EMAIL",
        "EWALLET_ADMIN_PASSWORD",
        "EWALLET_BCRYPT_COST",
        "EWALLET_RATE_PER_USER",
        "EWALLET_RATE_PER_ADDRESS",
        "EWALLET_AUTH_DATABASE_URL",
        "EWALLET_WALLET_DATABASE_URL",
        "EWALLET_PAYMENT_DATABASE_URL",
        "EWALLET_NOTIFICATION_DATABASE_URL",
    ],
)
def test_a_name_that_operators_rely_on_stays(variable: str) -> None:
    assert variable in {setting.variable for setting in documented_settings()}


def test_the_table_shows_variable_default_and_meaning() -> None:
    table = settings_table([DocumentedSetting("EWALLET_PORT", "8080", "port"), DocumentedSetting("EWALLET_X", "", "x")])

    assert table.splitlines()[2:] == ["| `EWALLET_PORT` | `8080` | port |", "| `EWALLET_X` |  | x |"]
