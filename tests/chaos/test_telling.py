"""People are told of everything once, and merchants' servers in order, whatever is killed on the way."""

import os
import secrets
from pathlib import Path

from tests.chaos.telling import tell

SEED = int(os.environ.get("SEED", secrets.randbits(32)))
EVENTS, KILLS = 600, 6


async def test_while_processes_are_killed_every_event_is_told_once_and_in_order(
    mariadb_url: str, tmp_path: Path
) -> None:
    tally = await tell(mariadb_url, tmp_path, events=EVENTS, kills=KILLS, seed=SEED)

    assert tally.figures.clean, f"SEED={SEED}: {tally.figures} {tally.wrong[:20]}"
    assert tally.figures.faults > 0
