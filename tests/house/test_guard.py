"""What guards the speed of a payment stops what is slower, and is not misled by one bad moment."""

import json
import sys
from collections.abc import Iterator

import pytest

from bench import guard

RECORDED: float = json.loads(guard.RECORDED.read_text())["share of the limit"]
WELL, SLOW = RECORDED * guard.ALLOWED + 0.01, RECORDED * guard.ALLOWED - 0.01


@pytest.mark.parametrize("shares", [[WELL], [SLOW, WELL], [SLOW, SLOW, WELL]])
def test_a_disturbed_measurement_is_repeated(monkeypatch: pytest.MonkeyPatch, shares: list[float]) -> None:
    left = measuring(monkeypatch, shares)

    guard.main()

    assert not list(left)


def test_a_payment_that_is_slower_each_time_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    measuring(monkeypatch, [SLOW] * guard.ATTEMPTS)

    with pytest.raises(SystemExit, match="slower"):
        guard.main()


def measuring(monkeypatch: pytest.MonkeyPatch, shares: list[float]) -> Iterator[float]:
    left = iter(shares)
    monkeypatch.setattr(guard, "measured_share", lambda: next(left))
    monkeypatch.setattr(sys, "argv", ["guard"])
    return left
