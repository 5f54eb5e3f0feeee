"""Background work of payment: finishing what a process that died, or gave up waiting, has left PENDING."""

import asyncio

import structlog

from ewallet.payment.service import PaymentService
from ewallet.plumbing.telemetry import PAYMENTS_RECOVERED

log = structlog.get_logger()

PAUSE_SECONDS = 1.0
"""With the lease this bounds how long a payment of a dead process stays PENDING: some six seconds."""

AT_ONCE = 64
"""As many as share a few batches; the rest come in the next round, which follows at once."""


class Recovery:
    """Carries on from T2 with payments whose lease has run out."""

    def __init__(self, service: PaymentService) -> None:
        self._service = service

    async def run_once(self) -> int:
        """Take over some payments and finish them; returns how many were finished."""
        claimed = await self._service.claim_overdue(AT_ONCE)
        outcomes = await asyncio.gather(*(self._service.finish(payment) for payment in claimed), return_exceptions=True)
        finished = 0
        for payment, outcome in zip(claimed, outcomes, strict=True):
            if isinstance(outcome, BaseException):
                log.warning("payment.not_recovered", payment=payment.id, error=repr(outcome))
            else:
                finished += 1
                PAYMENTS_RECOVERED.labels(outcome.status.value).inc()
                log.info("payment.recovered", payment=payment.id, status=outcome.status.value)
        return finished
