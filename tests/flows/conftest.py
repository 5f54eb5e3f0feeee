"""A running platform for the journeys: every way of running on every database, started once for a file's tests."""

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx2
import pytest

from tests.conftest import SERVICES
from tests.servers.haproxy import behind_haproxy
from tests.servers.mariadb import MariaDB
from tests.support.platform import People, Platform, platform

WAYS = [
    ("together", "sqlite"),
    ("together", "mariadb"),
    ("apart", "mariadb"),
    ("haproxy", "sqlite"),
]
"""The last one: apart, and HAProxy in the gateway's place."""


@pytest.fixture(scope="module", params=WAYS, ids="-".join)
def running(request: pytest.FixtureRequest, scratch: Path) -> Iterator[Platform]:
    """Start a platform; at the end Ctrl-C must stop it cleanly."""
    way, backend = request.param
    with ExitStack() as cleanup:
        folder = Path(cleanup.enter_context(tempfile.TemporaryDirectory(dir=scratch)))
        if backend == "sqlite":
            databases = {service: f"sqlite:///{folder / service}.sqlite3" for service in SERVICES}
        else:
            server: MariaDB = request.getfixturevalue("mariadb")
            databases = {service: cleanup.enter_context(server.database()) for service in SERVICES}
        if way == "haproxy":
            apart = cleanup.enter_context(platform("apart", databases, folder, EWALLET_TRUSTED_PROXIES="127.0.0.1"))
            apart.start()
            with behind_haproxy(apart, folder) as made:
                yield made
        else:
            made = cleanup.enter_context(platform(way, databases, folder))
            made.start()
            yield made
        made.stop()


@pytest.fixture(scope="module")
def http() -> Iterator[httpx2.Client]:
    """Give a client that keeps its connections."""
    with httpx2.Client(timeout=30, trust_env=False) as client:
        yield client


@pytest.fixture
def people(running: Platform, http: httpx2.Client) -> People:
    """Give somebody who registers users of the running platform."""
    return People(running.address, http)
