"""Worlds for the chaos tests of one file: its process that forks, and its people, are made once."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos.world import Worlds, worlds


@pytest.fixture(scope="module")
def chaos(scratch: Path) -> Iterator[Worlds]:
    """Give the maker of worlds."""
    with tempfile.TemporaryDirectory(dir=scratch) as name, worlds(Path(name)) as made:
        yield made
