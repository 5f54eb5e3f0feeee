"""The command line with fewer syncs of SQLite, or none: what the power cuts must find. Only the tests start this.

The first argument is SQLite's word for how many (NORMAL, OFF), the rest is the command.
"""

import sqlite3
import sys
from functools import partial
from sqlite3 import dbapi2
from typing import Any

from ewallet.cli import main

LEVEL = sys.argv.pop(1)


class LessSynced(sqlite3.Connection):
    """A connection on which the product's own choice is replaced."""

    def execute(self, statement: str, *parameters: Any) -> sqlite3.Cursor:
        return super().execute(statement.replace("synchronous=FULL", f"synchronous={LEVEL}"), *parameters)


dbapi2.connect = partial(dbapi2.connect, factory=LessSynced)  # type: ignore[assignment]  # overloaded, and called by name
main()
