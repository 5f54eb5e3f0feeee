"""A part of what happens to SQLite in the other files of this folder, on MariaDB; `make chaos` does all of it there."""

import os
import random
import secrets
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos.enumerated import OPERATIONS, faults, let_all_happen
from tests.chaos.hunts import HUNTS, Hunt, hunt
from tests.chaos.invariants import Scale, hold, transfers_keep_the_total_in_every_read
from tests.chaos.storm import storm
from tests.chaos.world import Worlds, worlds
from tests.servers.mariadb import MariaDB
from tests.support.platform import Way

SEED = int(os.environ.get("SEED", secrets.randbits(32)))
KILLS = 5
FAULTS = 12
"""Of thirty times as many, chosen by the seed."""


@pytest.fixture(scope="module")
def chaos(scratch: Path, mariadb: MariaDB) -> Iterator[Worlds]:
    """Give the maker of worlds."""
    with tempfile.TemporaryDirectory(dir=scratch) as name, worlds(Path(name), mariadb) as made:
        yield made


async def test_whatever_happens_at_a_point_of_an_operation_the_end_is_right(chaos: Worlds) -> None:
    every = [fault for operation in OPERATIONS for fault in faults(operation, "together") if fault.then is None]
    wanted = random.Random(SEED).sample(every, FAULTS)

    tally = await let_all_happen(chaos, "together", wanted)

    assert not tally.wrong, "\n\n".join([f"SEED={SEED}", *tally.wrong])
    assert tally.figures.faults == len(wanted)


@pytest.mark.parametrize("way", ["together", "doubled"])
async def test_after_kills_under_load_nothing_is_lost_doubled_or_stuck(way: Way, chaos: Worlds) -> None:
    """With two processes of each service all of them write at the same time, and each takes over from the other."""
    tally = await storm(chaos, way, kills=KILLS, seed=SEED)

    assert not tally.wrong, f"SEED={SEED}: {tally.wrong}"


async def test_while_the_platform_is_killed_transfers_keep_the_total_in_every_read(chaos: Worlds) -> None:
    tally = await hold(chaos, transfers_keep_the_total_in_every_read, Scale.small(), seed=SEED)

    assert not tally.wrong, "\n\n".join(tally.wrong)


@pytest.mark.parametrize("wanted", HUNTS[::12], ids=lambda wanted: wanted.mutant)
async def test_a_mutant_is_found_by_its_check(wanted: Hunt, chaos: Worlds) -> None:
    report = await hunt(chaos, wanted)

    assert wanted.found_by.__name__ in report.findings, report
