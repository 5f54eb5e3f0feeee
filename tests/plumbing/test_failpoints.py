"""A failpoint is nothing until a test arms it, and then it is whatever the test wants."""

import pytest
from sqlalchemy import Column, Connection, MetaData, insert, select
from sqlalchemy.exc import OperationalError

from ewallet.plumbing import failpoints
from ewallet.plumbing.failpoints import Point
from ewallet.plumbing.schema import INTEGER, table
from tests.support.plumbing import make_tables, opened

metadata = MetaData()
numbers = table("numbers", metadata, Column("number", INTEGER, primary_key=True, autoincrement=False))


class OnceAt:
    """A handler that fails at a point, the first time that it is reached, as a driver would that is interrupted."""

    def __init__(self, point: Point) -> None:
        self.point = point
        self.armed = True
        self.seen: list[tuple[Point, str]] = []

    def __call__(self, point: Point, which: str) -> None:
        self.seen.append((point, which))
        if self.armed and point == self.point:
            self.armed = False
            raise OperationalError("COMMIT", (), Exception(2013), connection_invalidated=True)


@pytest.fixture(autouse=True)
def disarmed_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failpoints, "_handler", None)


def test_a_point_that_nobody_armed_does_nothing() -> None:
    failpoints.reached("commit.before", "wallet")


def test_a_handler_is_told_the_point_and_which_one_of_several() -> None:
    handler = OnceAt("relay.deliver.before")
    failpoints.arm(handler)

    failpoints.reached("commit.before", "wallet")

    assert handler.seen == [("commit.before", "wallet")]


@pytest.mark.parametrize(("point", "committed"), [("commit.before", False), ("commit.after", True)])
def test_an_error_at_a_commit_comes_before_or_after_it_took_effect(
    point: Point, *, committed: bool, database_url: str
) -> None:
    """The second round of the same transaction tells which: only behind the COMMIT it finds its own row."""
    make_tables(database_url, metadata)
    found: list[int | None] = []

    def add_one(tx: Connection) -> None:
        found.append(tx.scalar(select(numbers.c.number)))
        if found[-1] is None:
            tx.execute(insert(numbers).values(number=1))

    with opened(database_url) as database:
        failpoints.arm(OnceAt(point))
        database.transact(add_one)

    assert found == [None, 1 if committed else None]
