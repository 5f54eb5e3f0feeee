"""Background work of payment: finishing what a process that died, or gave up waiting, has left PENDING.

The end of a hold that nobody has captured or voided is among it: its expiry was begun with the hold and falls due then.
"""

import asyncio

import structlog

from ewallet.payment.saga import Saga
from ewallet.plumbing.telemetry import PAYMENTS_RECOVERED, RECOVERY_FAILURES

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
        outcomes = await asyncio.gather(*(self._saga.finish(intent) for intent in claimed), return_exceptions=True)
        finished = 0
        for intent, outcome in zip(claimed, outcomes, strict=True):
            if isinstance(outcome, BaseException):
                self._count_failure(intent.own.id, repr(outcome))
            else:
                finished += 1
                self._told.pop(intent.own.id, None)
                PAYMENTS_RECOVERED.labels(outcome.own.status.value).inc()
                log.info("payment.recovered", payment=outcome.own.id, status=outcome.own.status.value)
        return finished

    def _count_failure(self, intent_id: str, error: str) -> None:
        """It comes again every few seconds for as long as it fails: one line for each error is enough."""
        RECOVERY_FAILURES.inc()
        if self._told.get(intent_id) == error:
            return
        if len(self._told) >= TOLD_AT_MOST:
            self._told.clear()
        self._told[intent_id] = error
        log.warning("payment.not_recovered", payment=intent_id, error=error)
