"""Whatever happens at whatever point of an operation: a retry gets its answer, and all is right within ten seconds."""

from typing import get_args

import pytest

from ewallet.plumbing.failpoints import Point
from tests.chaos.enumerated import OPERATIONS, Fault, Operation, faults, let_all_happen
from tests.chaos.world import Worlds


def at_doors(operation: Operation) -> list[Fault]:
    """What can happen between processes only; `make chaos` lets everything happen there."""
    everywhere = faults(operation, "together")
    return [fault for fault in faults(operation, "apart") if fault not in everywhere]


def test_every_point_is_there_with_at_least_one_operation() -> None:
    """A new point without a case would be a promise that nobody keeps."""
    found = [fault for operation in OPERATIONS for fault in faults(operation, "apart")]
    armings = [arming for fault in found for arming in (fault.arming, fault.then) if arming]

    assert {arming.point for arming in armings} == set(get_args(Point))


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.name)
async def test_whatever_happens_at_any_point_of_an_operation_the_end_is_right(
    operation: Operation, chaos: Worlds
) -> None:
    tally = await let_all_happen(chaos, "together", faults(operation, "together"))

    assert not tally.wrong, "\n\n".join(tally.wrong)


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.name)
async def test_whatever_happens_between_two_processes_the_end_is_right(operation: Operation, chaos: Worlds) -> None:
    tally = await let_all_happen(chaos, "apart", at_doors(operation))

    assert not tally.wrong, "\n\n".join(tally.wrong)
