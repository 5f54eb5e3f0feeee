"""Of several claimants one holds a lease, until it runs out."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count

import pytest
from sqlalchemy import MetaData

from ewallet.plumbing.database import Database
from ewallet.plumbing.leases import Leases
from tests.support.plumbing import make_tables, opened

metadata = MetaData()
leases = Leases(metadata, "test")

SECOND = 1_000_000
NOW = 1_790_000_000 * SECOND


@pytest.fixture
def url(database_url: str) -> str:
    make_tables(database_url, metadata)
    with opened(database_url) as database:
        database.transact(lambda tx: leases.introduce(tx, "work"))
    return database_url


@pytest.fixture
def database(url: str) -> Iterator[Database]:
    with opened(url) as database:
        yield database


def claim(database: Database, owner: str, *, now: int = NOW) -> bool:
    return database.transact(lambda tx: leases.claim(tx, "work", owner, now=now, seconds=10))


def test_a_free_lease_goes_to_the_first_and_not_to_the_second(database: Database) -> None:
    assert claim(database, "first")
    assert not claim(database, "second")


def test_its_holder_prolongs_it(database: Database) -> None:
    assert claim(database, "first")
    assert claim(database, "first", now=NOW + 9 * SECOND)

    assert not claim(database, "second", now=NOW + 11 * SECOND)


def test_a_claim_repeated_with_the_same_values_still_holds(database: Database) -> None:
    """A redone transaction changes nothing in the row and must not take that for a refusal."""
    assert claim(database, "first")
    assert claim(database, "first")


def test_it_goes_to_another_when_its_time_is_over_and_not_before(database: Database) -> None:
    assert claim(database, "first")

    assert not claim(database, "second", now=NOW + 10 * SECOND)
    assert claim(database, "second", now=NOW + 10 * SECOND + 1)
    assert not claim(database, "first", now=NOW + 10 * SECOND + 1)


def test_a_lease_that_was_never_introduced_is_nobodys(database: Database) -> None:
    assert not database.transact(lambda tx: leases.claim(tx, "other", "first", now=NOW, seconds=10))


def test_two_processes_that_claim_at_once_find_one_winner_each_time(url: str) -> None:
    with opened(url) as one, opened(url) as other, ThreadPoolExecutor(2) as threads:
        times = (NOW + turn * 11 * SECOND for turn in count())
        for now in (next(times) for _ in range(50)):
            claims = [
                threads.submit(claim, database, owner, now=now) for database, owner in ((one, "one"), (other, "other"))
            ]
            assert sorted(done.result() for done in claims) == [False, True]
