"""Where the platform computes, when all of it is one process."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Backend
from tests.support.platform import platform

EVERYWHERE = os.sched_getaffinity(0)


@pytest.mark.parametrize(("setting", "cores"), [("true", 1), ("false", len(EVERYWHERE))])
def test_up_keeps_to_one_core_unless_told_otherwise_and_hashes_passwords_on_all(
    fresh_databases: Callable[[Backend], dict[str, str]], tmp_path: Path, setting: str, cores: int
) -> None:
    with platform("together", fresh_databases("sqlite"), tmp_path, EWALLET_ONE_CORE=setting) as running:
        running.start()
        (process,) = running.processes.values()
        threads = [int(thread.name) for thread in Path(f"/proc/{process.id}/task").iterdir()]

        assert len(os.sched_getaffinity(process.id)) == cores
        assert EVERYWHERE in [os.sched_getaffinity(thread) for thread in threads]  # the administrator has a password
        running.stop()
