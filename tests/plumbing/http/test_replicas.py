"""Of several processes of a service those are asked that answer; one that does not is tried again now and then."""

import pytest

from ewallet.kernel.errors import Overloaded
from ewallet.plumbing.http import replicas
from ewallet.plumbing.http.replicas import FAILURES_IN_A_ROW, REST_SECONDS, Replicas


class Clock:
    """A monotonic clock that the test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(replicas, "time", clock)
    return clock


def taken(two: Replicas, times: int) -> list[str]:
    return [two.take().url for _ in range(times)]


def test_they_take_turns() -> None:
    assert taken(Replicas(["a", "b", "c"]), 5) == ["a", "b", "c", "a", "b"]


def test_one_that_is_away_is_left_alone_until_one_request_has_tried_it(clock: Clock) -> None:
    two = Replicas(["a", "b"])
    away = two.take()
    away.is_away()

    assert taken(two, 3) == ["b", "b", "b"]
    clock.now += REST_SECONDS
    assert taken(two, 4) == ["a", "b", "b", "b"]
    away.answered()
    assert taken(two, 2) == ["a", "b"]


@pytest.mark.usefixtures("clock")
def test_one_that_fails_again_and_again_is_left_alone_and_one_that_failed_once_is_not() -> None:
    two = Replicas(["a", "b"])
    failing = two.take()
    for _ in range(FAILURES_IN_A_ROW - 1):
        failing.failed()
    assert sorted(taken(two, 2)) == ["a", "b"]

    failing.failed()

    assert taken(two, 2) == ["b", "b"]


@pytest.mark.usefixtures("clock")
def test_failures_between_which_it_answers_are_nothing() -> None:
    alone = Replicas(["a"])
    for _ in range(3 * FAILURES_IN_A_ROW):
        alone.take().failed()
        alone.take().answered()

    assert alone.take().url == "a"


@pytest.mark.usefixtures("clock")
def test_where_all_are_away_nobody_waits_for_a_connection() -> None:
    two = Replicas(["a", "b"])
    two.take().is_away()
    two.take().is_away()

    with pytest.raises(Overloaded, match="a, b"):
        two.take()
