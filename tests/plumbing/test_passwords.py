"""What bcrypt alone would get wrong, and the bound on how many may wait for it."""

import asyncio
from collections.abc import Iterator

import bcrypt
import pytest

from ewallet.kernel.errors import Overloaded
from ewallet.plumbing import passwords
from ewallet.plumbing.passwords import PasswordHasher

COST = 4


@pytest.fixture
def hasher() -> Iterator[PasswordHasher]:
    hasher = PasswordHasher(COST)
    yield hasher
    hasher.close()


async def test_a_password_matches_its_own_hash_alone(hasher: PasswordHasher) -> None:
    hashed = await hasher.hash("four words that rhyme")

    assert len(hashed) == 60
    assert await hasher.matches("four words that rhyme", hashed)
    assert not await hasher.matches("four words that rhymes", hashed)
    assert await hasher.hash("four words that rhyme") != hashed


@pytest.mark.parametrize(("one", "other"), [("x" * 72 + "a", "x" * 72 + "b"), ("abc\0def", "abc\0xyz")])
async def test_every_character_counts(hasher: PasswordHasher, one: str, other: str) -> None:
    """Bcrypt alone reads 72 bytes, and in some versions stops at a NUL."""
    assert not await hasher.matches(other, await hasher.hash(one))


async def test_a_password_is_the_same_however_a_keyboard_composes_it(hasher: PasswordHasher) -> None:
    assert await hasher.matches("rene\u0301 was here", await hasher.hash("ren\u00e9 was here"))


async def test_nobody_costs_as_much_as_somebody(hasher: PasswordHasher, monkeypatch: pytest.MonkeyPatch) -> None:
    """Equal work, not equal time: a test that measures time fails on a busy machine."""
    checked: list[bytes] = []
    checkpw = bcrypt.checkpw

    def recorded(given: bytes, hashed: bytes) -> bool:
        checked.append(hashed)
        return checkpw(given, hashed)

    monkeypatch.setattr(bcrypt, "checkpw", recorded)

    assert not await hasher.matches("four words that rhyme", None)
    await hasher.matches("four words that rhyme", await hasher.hash("another"))
    nobody, somebody = checked
    assert nobody[:7] == somebody[:7] == b"$2b$04$"
    assert len(nobody) == len(somebody)


async def test_who_comes_when_the_queue_is_full_is_told_at_once(
    hasher: PasswordHasher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hasher, "_maximum_pending", 1)
    with hasher.place(), pytest.raises(Overloaded), hasher.place():
        pass
    with hasher.place():
        assert await asyncio.wait_for(hasher.hash("four words that rhyme"), 10)


def test_a_dear_hash_makes_a_short_queue() -> None:
    cheap, dear = PasswordHasher(4), PasswordHasher(16)

    assert cheap._maximum_pending == passwords.THREADS * 8_000
    assert dear._maximum_pending == passwords.THREADS
    cheap.close()
    dear.close()


async def test_a_hash_of_another_cost_is_outdated(hasher: PasswordHasher) -> None:
    hashed = await hasher.hash("four words that rhyme")
    dearer = PasswordHasher(COST + 1)

    assert not hasher.is_outdated(hashed)
    assert dearer.is_outdated(hashed)
    dearer.close()
