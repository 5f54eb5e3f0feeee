"""Background work of payment: finishing what a process that died, or gave up waiting, has left PENDING; comparing.

The end of a hold that nobody has captured or voided is among it: its expiry was begun with the hold and falls due then.
"""

import asyncio
from collections.abc import Sequence

import structlog

from ewallet.kernel.clock import MICROSECONDS_PER_SECOND, Clock
from ewallet.payment import store
from ewallet.payment.domain.operations import Intent
from ewallet.payment.reconcile import Reconciliation
from ewallet.payment.saga import Bulk, Saga
from ewallet.plumbing.database import Database
from ewallet.plumbing.telemetry import (
    DISAGREEMENTS,
    DISAGREEMENTS_LEFT,
    PAYMENTS_RECOVERED,
    RECOVERY_FAILURES,
)

log = structlog.get_logger()

PAUSE_SECONDS = 1.0
"""With the lease this bounds how long a payment of a dead process stays PENDING: some six seconds."""

AT_ONCE = 64
"""As many as share a few batches; the rest come in the next round, which follows at once."""


TOLD_AT_MOST = 1_000
"""Failing intents that are remembered; beyond it all are forgotten, and those that still fail are told of again."""


class Recovery:
    """Carries on from T2 with payments and operations whose lease has run out."""

    def __init__(self, saga: Saga) -> None:
        self._saga = saga
        self._told: dict[str, str] = {}

    async def run_once(self) -> int:
        """Take over some intents and finish them; returns how many were finished."""
        claimed = await self._saga.claim_overdue(AT_ONCE)
        outcomes = await asyncio.gather(*map(self._finish, claimed), return_exceptions=True)
        finished = 0
        for each, outcome in zip(claimed, outcomes, strict=True):
            first_id = _intents(each)[0].own.id
            if isinstance(outcome, BaseException):
                self._count_failure(first_id, repr(outcome))
                continue
            finished += len(outcome)
            self._told.pop(first_id, None)
            for intent in outcome:
                PAYMENTS_RECOVERED.labels(intent.own.status.value).inc()
                log.info("payment.recovered", payment=intent.own.id, status=intent.own.status.value)
        return finished

    async def _finish(self, claimed: Intent | Bulk) -> Sequence[Intent]:
        if isinstance(claimed, Intent):
            return [await self._saga.finish(claimed)]
        return _intents(await self._saga.finish_all(claimed))

    def _count_failure(self, intent_id: str, error: str) -> None:
        """It comes again every few seconds for as long as it fails: one line for each error is enough."""
        RECOVERY_FAILURES.inc()
        if self._told.get(intent_id) == error:
            return
        if len(self._told) >= TOLD_AT_MOST:
            self._told.clear()
        self._told[intent_id] = error
        log.warning("payment.not_recovered", payment=intent_id, error=error)


def _intents(claimed: Intent | Bulk) -> Sequence[Intent]:
    return [claimed] if isinstance(claimed, Intent) else [Intent(payment) for payment in claimed.payments]


RECONCILIATION_LEASE = "reconciliation"
"""Whoever has it compares; it lasts until it is time for the next comparison."""

RECONCILIATION_PAUSE_SECONDS = 60.0
"""How late a comparison may be, and how soon one is tried again that was broken off. The first one waits as long, too:
after a start recovery has its own to do."""


class Reconciling:
    """Compares payments, postings and events now and then, in one process of all."""

    def __init__(
        self, database: Database, reconciliation: Reconciliation, *, owner: str, clock: Clock, every_seconds: int
    ) -> None:
        self._database = database
        self._reconciliation = reconciliation
        self._owner = owner
        self._clock = clock
        self._every_seconds = every_seconds
        self.pause_seconds = min(RECONCILIATION_PAUSE_SECONDS, every_seconds)
        self._not_before = clock() + int(self.pause_seconds * MICROSECONDS_PER_SECOND)

    async def run_once(self) -> int:
        """Compare everything, if it is time; returns how many disagreements there were. Each is in the log."""
        now = self._clock()
        if now < self._not_before:
            return 0
        if not await self._claim(now):
            DISAGREEMENTS_LEFT.set(0)  # whoever compares instead shows what is left
            return 0
        cases = await self._reconciliation.run()
        left = sum(not case.settled for case in cases)
        DISAGREEMENTS.labels("no").inc(left)
        DISAGREEMENTS.labels("yes").inc(len(cases) - left)
        DISAGREEMENTS_LEFT.set(left)
        # Not before it has ended: a comparison that was broken off is tried again.
        self._not_before = now + self._every_seconds * MICROSECONDS_PER_SECOND
        log.info("payment.compared", disagreements=len(cases), left=left)
        return len(cases)

    async def _claim(self, now: int) -> bool:
        return await self._database.writing(
            lambda tx: store.leases.claim(tx, RECONCILIATION_LEASE, self._owner, now=now, seconds=self._every_seconds)
        )
