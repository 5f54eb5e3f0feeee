"""The command line with other pragmas of SQLite than the product's. Only the tests start this.

The first argument says which, ``synchronous=FULL>synchronous=OFF`` for one; the rest is the command.
"""

import sqlite3
import sys
from functools import partial
from sqlite3 import dbapi2
from typing import Any

from ewallet.cli import main

CHANGED = dict(change.split(">") for change in sys.argv.pop(1).split(","))


class Changed(sqlite3.Connection):
    """A connection on which the product's own choices are replaced."""

    def execute(self, statement: str, *parameters: Any) -> sqlite3.Cursor:
        pragma = statement.removeprefix("PRAGMA ")
        return super().execute(statement.replace(pragma, CHANGED.get(pragma, pragma)), *parameters)


dbapi2.connect = partial(dbapi2.connect, factory=Changed)  # type: ignore[assignment]  # overloaded, and called by name
main()
