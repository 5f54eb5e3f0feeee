"""Of several processes one compares, when it is time; what was broken off is tried again."""

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from ewallet.kernel.errors import OutcomeUnknown
from ewallet.payment.reconcile import Reconciliation
from ewallet.payment.worker import Reconciling
from ewallet.plumbing.reconciling import Case
from ewallet.plumbing.telemetry import DISAGREEMENTS_LEFT
from tests.support.migrated import migrate
from tests.support.payment import NOW
from tests.support.plumbing import ManualClock, opened

EVERY_SECONDS = 600
LEFT = Case("pay_1", "FAILED, but the wallet has posted it", 100, "USD", "nothing", settled=False)
SETTLED = Case("pay_2", "SUCCESS, but the wallet had lost it", 200, "USD", "posted again", settled=True)


class Comparison(Reconciliation):
    """Stands where the comparison stands: has its findings ready, and counts how often it was asked for them."""

    def __init__(self, *findings: list[Case] | Exception) -> None:
        self.findings = list(findings)

    async def run(self) -> list[Case]:
        finding = self.findings.pop(0)
        if isinstance(finding, Exception):
            raise finding
        return finding


class Processes:
    """Two processes on one database."""

    def __init__(self, url: str, stack: ExitStack) -> None:
        self.clock = ManualClock(NOW)
        self.comparison = Comparison()
        self.one, self.other = (
            Reconciling(
                stack.enter_context(opened(url)),
                self.comparison,
                owner=owner,
                clock=self.clock,
                every_seconds=EVERY_SECONDS,
            )
            for owner in ("one", "other")
        )


@pytest.fixture
def processes(database_url: str) -> Iterator[Processes]:
    migrate("payment", database_url)
    with ExitStack() as stack:
        yield Processes(database_url, stack)


async def test_one_of_two_processes_compares_when_it_is_time(processes: Processes) -> None:
    processes.comparison.findings = [[LEFT, SETTLED], []]

    assert await processes.one.run_once() == 0, "recovery has its own to do first"
    processes.clock.pass_seconds(60)
    assert await processes.one.run_once() == 2
    assert DISAGREEMENTS_LEFT._value.get() == 1
    assert await processes.one.run_once() == await processes.other.run_once() == 0
    processes.clock.pass_seconds(EVERY_SECONDS + 1)
    assert await processes.other.run_once() == 0
    assert processes.comparison.findings == [], "the other process has compared"
    assert await processes.one.run_once() == 0
    assert DISAGREEMENTS_LEFT._value.get() == 0


async def test_a_comparison_that_was_broken_off_is_tried_again_at_once(processes: Processes) -> None:
    processes.comparison.findings = [OutcomeUnknown("the wallet is away"), [SETTLED]]
    processes.clock.pass_seconds(60)

    with pytest.raises(OutcomeUnknown):
        await processes.one.run_once()

    assert await processes.one.run_once() == 1
