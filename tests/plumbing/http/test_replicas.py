"""Of several processes of a service those are asked that answer; one that does not is looked after until it does."""

import asyncio
from collections.abc import AsyncIterator, Callable

import httpx2
import pytest

from ewallet.kernel.errors import Overloaded
from ewallet.plumbing.http import replicas
from ewallet.plumbing.http.replicas import FAILURES_IN_A_ROW, Replica, Replicas

LEAVING = {"Connection": "close"}

Make = Callable[..., Replicas]


class Network:
    """Who answers, by host, and who has been looked at."""

    def __init__(self) -> None:
        self.there: set[str] = set()
        self.leaving: set[str] = set()
        self.looked_at = asyncio.Semaphore(0)

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        self.looked_at.release()
        if request.url.host not in self.there:
            raise httpx2.ConnectError("nobody")
        # It says what it says, but it is there.
        return httpx2.Response(503, headers=LEAVING if request.url.host in self.leaving else {})


@pytest.fixture
def network() -> Network:
    return Network()


@pytest.fixture
async def make(network: Network, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Make]:
    """Give a function that makes replicas; they are looked after without pauses."""
    monkeypatch.setattr(replicas, "REST_SECONDS", 0)
    made = []
    async with httpx2.AsyncClient(transport=httpx2.MockTransport(network)) as client:

        def make(*hosts: str) -> Replicas:
            made.append(Replicas([f"http://{host}" for host in hosts], client))
            return made[-1]

        yield make
        for each in made:
            each.close()


def taken(replicas: Replicas, times: int) -> list[str]:
    return [replicas.take().url.removeprefix("http://") for _ in range(times)]


async def back(replica: Replica) -> None:
    while not replica.is_well:  # noqa: ASYNC110  # the product tells nobody; the caller limits the time
        await asyncio.sleep(0)


async def test_they_take_turns(make: Make) -> None:
    assert taken(make("a", "b", "c"), 5) == ["a", "b", "c", "a", "b"]


async def test_one_that_is_away_is_left_alone_until_it_answers_and_no_request_has_to_find_out(
    make: Make, network: Network
) -> None:
    two = make("a", "b")
    away = two.take()
    away.went_away()

    assert taken(two, 3) == ["b", "b", "b"]
    for _ in range(3):
        await asyncio.wait_for(network.looked_at.acquire(), 5)
    assert taken(two, 2) == ["b", "b"]
    network.there.add("a")
    await asyncio.wait_for(back(away), 5)
    assert sorted(taken(two, 2)) == ["a", "b"]


async def test_one_that_fails_again_and_again_is_left_alone_and_one_that_failed_once_is_not(make: Make) -> None:
    two = make("a", "b")
    failing = two.take()
    for _ in range(FAILURES_IN_A_ROW - 1):
        failing.failed()
    assert sorted(taken(two, 2)) == ["a", "b"]

    failing.failed()

    assert taken(two, 2) == ["b", "b"]


async def test_failures_between_which_it_answers_are_nothing(make: Make) -> None:
    alone = make("a")
    for _ in range(3 * FAILURES_IN_A_ROW):
        alone.take().failed()
        alone.take().answered(httpx2.Response(200))

    assert taken(alone, 1) == ["a"]


async def test_where_all_are_away_nobody_waits_for_a_connection(make: Make) -> None:
    two = make("a", "b")
    two.take().went_away()
    two.take().went_away()

    with pytest.raises(Overloaded, match="http://a, http://b"):
        two.take()


async def test_one_that_is_about_to_stop_is_asked_only_where_there_is_no_other(make: Make, network: Network) -> None:
    """A connection that it has not accepted yet when it stops is lost, and with it a request."""
    network.there.add("a")
    network.leaving.add("a")
    two, alone = make("a", "b"), make("a")
    for each in (two, alone):
        each.take().answered(httpx2.Response(200, headers=LEAVING))

    assert taken(two, 3) == ["b", "b", "b"]
    assert taken(alone, 2) == ["a", "a"]
    [only] = alone
    network.leaving.clear()
    await asyncio.wait_for(back(only), 5)
