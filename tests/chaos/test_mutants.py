"""Every check of the accountant finds the mistake that it is there for; in `make chaos` the product stands the same."""

import pytest

from tests.chaos.accountant import CHECKS, Incomplete
from tests.chaos.hunts import HUNTS, Hunt, hunt
from tests.chaos.mutants import MUTANTS
from tests.chaos.world import Worlds

UNREADABLE = "a_list_breaks_off"
MORE_THAN_A_PAGE = 101


@pytest.mark.parametrize("wanted", HUNTS, ids=lambda wanted: wanted.mutant)
async def test_a_mutant_is_found_by_its_check(wanted: Hunt, chaos: Worlds) -> None:
    report = await hunt(chaos, wanted)

    assert wanted.found_by.__name__ in report.findings, report


async def test_books_that_cannot_be_read_to_the_end_are_not_judged(chaos: Worlds) -> None:
    async with chaos.world("together", mutant=UNREADABLE) as world:
        for _ in range(MORE_THAN_A_PAGE):
            await world.clients.carry_out(world.pay(world.cast.customers[0], world.cast.merchants[0], 1_00))

        with pytest.raises(Incomplete):
            await world.audited(within_seconds=0)


def test_every_check_has_a_mutant_and_every_mutant_a_check() -> None:
    assert {wanted.found_by for wanted in HUNTS} == set(CHECKS)
    assert {wanted.mutant for wanted in HUNTS} | {UNREADABLE} == set(MUTANTS)
