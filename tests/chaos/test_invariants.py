"""Invariants that peers publish for platforms that stay alive, held while ours is being killed."""

import os
import secrets

import pytest

from tests.chaos.invariants import INVARIANTS, Invariant, Scale, hold
from tests.chaos.world import Worlds

SEED = int(os.environ.get("SEED", secrets.randbits(32)))


@pytest.mark.parametrize("invariant", INVARIANTS, ids=lambda invariant: invariant.__name__)
async def test_while_the_platform_is_being_killed(invariant: Invariant, chaos: Worlds) -> None:
    print(f"SEED={SEED}")  # noqa: T201  # pytest shows it when the test fails
    tally = await hold(chaos, invariant, Scale.small(), seed=SEED)

    assert not tally.wrong, "\n\n".join(tally.wrong)
    assert tally.figures.faults > 0, "it was over before the first kill"
