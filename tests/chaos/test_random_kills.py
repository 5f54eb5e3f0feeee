"""Kills at random moments under load; the seed of a failure is printed, and `make chaos SEED=…` starts with it."""

import os
import secrets

import pytest

from tests.chaos.storm import storm
from tests.chaos.world import Worlds
from tests.support.platform import Way

KILLS: dict[Way, int] = {"together": 28, "apart": 12}
SEED = int(os.environ.get("SEED", secrets.randbits(32)))


@pytest.mark.parametrize("way", KILLS)
async def test_after_kills_under_load_nothing_is_lost_doubled_or_stuck(way: Way, chaos: Worlds) -> None:
    """Kills count only when requests were in flight."""
    tally = await storm(chaos, way, kills=KILLS[way], seed=SEED)

    assert not tally.wrong, f"SEED={SEED}: {tally.wrong}"
