"""The library that stands between a process and its disk, compiled once for a run."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from tests.power.recorder import Disk, build


@pytest.fixture(scope="session")
def disk_library(scratch: Path) -> Path:
    """Give the compiled library."""
    return build(scratch)


@pytest.fixture(scope="module")
def disk(disk_library: Path, scratch: Path) -> Iterator[Disk]:
    """Give an empty disk for a file's tests."""
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        yield Disk(disk_library, Path(folder))


@pytest.fixture(scope="module")
def http() -> Iterator[httpx2.Client]:
    """Give a client that keeps its connections."""
    with httpx2.Client(timeout=30, trust_env=False) as client:
        yield client
