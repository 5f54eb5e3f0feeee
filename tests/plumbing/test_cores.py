"""Threads that share the interpreter's lock share a core, and leave it to who cannot."""

import asyncio
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest

from ewallet.plumbing.cores import EVERYWHERE, Look, OneCore, look, roam, roomiest
from ewallet.plumbing.passwords import PasswordHasher

FIRST, *_, LAST = *sorted(EVERYWHERE), max(EVERYWHERE)
"""Two cores, where there are two."""


@pytest.fixture
def thread_goes_back() -> Iterator[None]:
    """Leave the test's thread where it was."""
    yield
    roam()


def draw(*lots: int) -> Callable[[int], int]:
    remaining = iter(lots)
    return lambda below: min(next(remaining), below - 1)


def seen(*looks: Mapping[int, float], ours: float = 0.0) -> Callable[[], Look]:
    """What the cores have computed at one moment after the other, a second apart; the last in it is ``ours``."""
    moments = iter([Look(float(at), busy, ours * at) for at, busy in enumerate(looks)])
    return lambda: next(moments)


IDLE = dict.fromkeys(EVERYWHERE, 0.0)


def mask() -> set[int]:
    return set(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("used", "current", "chosen"),
    [
        ({0: 0.0, 1: 0.0}, 1, 1),
        ({0: 0.9, 1: 0.1}, 1, 1),
        ({0: 0.9, 1: 0.1}, 0, 1),
        ({0: 0.9, 1: 0.8}, 0, 0),
        ({0: 0.9, 1: 0.6, 2: 0.3}, 0, 2),
    ],
)
def test_a_move_must_be_worth_it(used: dict[int, float], current: int, chosen: int) -> None:
    assert roomiest(used, current) == chosen


@pytest.mark.usefixtures("thread_goes_back")
async def test_threads_move_together_to_where_others_do_less() -> None:
    core = OneCore(random_below=draw(0, 1), look=seen(IDLE, {**IDLE, FIRST: 0.9}))
    with ThreadPoolExecutor(1) as threads:
        started_before = threads.submit(mask).result()
        await core.run_once()

        assert (started_before, mask(), threads.submit(mask).result()) == ({FIRST}, {LAST}, {LAST})


@pytest.mark.usefixtures("thread_goes_back")
async def test_our_own_work_drives_nobody_away() -> None:
    core = OneCore(random_below=draw(0, 1), look=seen(IDLE, {**IDLE, FIRST: 0.9}, ours=0.9))
    await core.run_once()

    assert mask() == {FIRST}


@pytest.mark.usefixtures("thread_goes_back")
async def test_who_draws_the_lot_to_stay_stays_until_the_next_look() -> None:
    """Two processes on one core that both left it would meet again on the next."""
    core = OneCore(random_below=draw(0, 0, 1), look=seen(IDLE, {**IDLE, FIRST: 0.9}, {**IDLE, FIRST: 1.8}))
    await core.run_once()
    assert mask() == {FIRST}

    await core.run_once()
    assert mask() == {LAST}


@pytest.mark.usefixtures("thread_goes_back")
def test_a_look_counts_what_was_computed() -> None:
    before = look()
    while look().ours - before.ours < 0.1:
        sum(range(1000))
    now = look()

    assert sum(now.busy.values()) - sum(before.busy.values()) > 0.05
    assert set(now.busy) == EVERYWHERE


@pytest.mark.usefixtures("thread_goes_back")
def test_passwords_are_hashed_on_every_core() -> None:
    """Bcrypt takes a fifth of a second, and needs the interpreter's lock for none of it."""
    OneCore(random_below=draw(0))
    with closing(PasswordHasher(4)) as hasher:
        assert asyncio.run(hasher._run(mask)) == EVERYWHERE


@pytest.mark.usefixtures("thread_goes_back")
async def test_where_binding_is_forbidden_nothing_is_bound_and_nothing_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(_thread: int, _cores: set[int]) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "sched_setaffinity", forbidden)
    core = OneCore(random_below=draw(0, 1), look=seen(IDLE, {**IDLE, FIRST: 0.9}))
    roam()
    await core.run_once()

    assert mask() == EVERYWHERE
