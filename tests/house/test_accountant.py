"""The accountant of the chaos tests works everything out by itself: shared code would share its mistakes."""

import ast

import pytest

from tests.house.tree import text_files

ACCOUNTANT = ("tests/chaos/accountant.py", "tests/chaos/orders.py", "tests/chaos/wire.py")
ALLOWED = {"tests.chaos.orders", "tests.chaos.wire"}
FORBIDDEN = ("ewallet", "tests", "sqlite3", "sqlalchemy", "pymysql")


def imported_modules(source: str) -> set[str]:
    modules = set()
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names=names):
                modules |= {name.name for name in names}
            case ast.ImportFrom(module=str(module)):
                modules.add(module)
    return modules


@pytest.mark.parametrize("path", ACCOUNTANT)
def test_the_accountant_shares_no_code_and_no_database_with_the_product(path: str) -> None:
    shared = {name for name in imported_modules(text_files()[path]) if name.partition(".")[0] in FORBIDDEN}

    assert shared <= ALLOWED
