"""Whatever happens at whatever point of an operation: a retry gets its answer, and all is right within ten seconds."""

import os
import random
import secrets
from typing import get_args

from ewallet.plumbing.failpoints import Point
from tests.chaos.arming import Action
from tests.chaos.enumerated import OPERATIONS, Fault, Operation, faults, let_all_happen
from tests.chaos.world import Worlds

IN_FULL = "initiate"
"""The others take the same ways, or a part of it; of those every day only what kills, and what nobody can know."""

OF_THE_OTHERS = 32
"""Of three times as many, chosen by the seed."""

SEED = int(os.environ.get("SEED", secrets.randbits(32)))

AT_DOORS = ("initiate", "credit")
"""Whose service calls another one: payment, and wallet."""


def of_every_day(operation: Operation) -> list[Fault]:
    """What happens in one process; of most operations a part, without the way of the events."""
    found = faults(operation, "together")
    if operation.name == IN_FULL:
        return found
    return [fault for fault in found if fault.arming.action in (Action.KILL, Action.LOST) and not _of_events(fault)]


def _of_events(fault: Fault) -> bool:
    return fault.service == "notification" or "relay" in fault.arming.point + fault.arming.since


def at_doors(operation: Operation) -> list[Fault]:
    """What can happen between processes only."""
    everywhere = faults(operation, "together")
    return [fault for fault in faults(operation, "apart") if fault not in everywhere]


def test_every_point_is_there_with_at_least_one_operation() -> None:
    """A new point without a case would be a promise that nobody keeps."""
    found = [fault for operation in OPERATIONS for fault in of_every_day(operation) + at_doors(operation)]
    armings = [arming for fault in found for arming in (fault.arming, fault.then) if arming]

    assert {arming.point for arming in armings} == set(get_args(Point))


async def test_whatever_happens_at_any_point_of_an_operation_the_end_is_right(chaos: Worlds) -> None:
    """`make chaos` lets everything happen to all operations, to separate processes too."""
    in_full, others = (
        [fault for each in OPERATIONS if (each.name == IN_FULL) is wanted for fault in of_every_day(each)]
        for wanted in (True, False)
    )
    wanted = in_full + random.Random(SEED).sample(others, OF_THE_OTHERS)

    tally = await let_all_happen(chaos, "together", wanted)

    assert not tally.wrong, "\n\n".join([f"SEED={SEED}", *tally.wrong])
    assert tally.figures.faults == len(wanted)


async def test_whatever_happens_between_two_processes_the_end_is_right(chaos: Worlds) -> None:
    wanted = [fault for operation in OPERATIONS if operation.name in AT_DOORS for fault in at_doors(operation)]

    tally = await let_all_happen(chaos, "apart", wanted)

    assert not tally.wrong, "\n\n".join(tally.wrong)
    assert tally.figures.faults == len(wanted)
