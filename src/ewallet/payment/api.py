"""Payment over HTTP."""

from typing import Annotated, Any

from litestar import Request, Response, get, post
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath, JSONBody, QueryParameter

from ewallet.kernel.caller import Role
from ewallet.kernel.clock import parse_rfc3339
from ewallet.kernel.errors import Reason, Refusal, Refused, invalid, unwrap
from ewallet.payment.domain import PaymentStatus
from ewallet.payment.messages import AuditTrail, InitiatePayment, Payment, PaymentHistory, PaymentList
from ewallet.payment.service import PaymentService
from ewallet.plumbing.http.answers import JsonAnswer
from ewallet.plumbing.http.contract import (
    DEFAULT_LIMIT,
    EVERYONE,
    REPLAYED_HEADER,
    Cursor,
    IdempotencyKeyHeader,
    Limit,
    caller_of,
    idempotency_key,
    protected,
)
from ewallet.plumbing.http.problems import problem_response

Status = Annotated[PaymentStatus | None, QueryParameter(description="only payments in this state")]
From = Annotated[
    str | None,
    QueryParameter(name="from", schema_extra={"format": "date-time"}, description="created at this time or later"),
]
To = Annotated[
    str | None,
    QueryParameter(name="to", schema_extra={"format": "date-time"}, description="created before this time"),
]
AuditSubject = Annotated[
    str | None, QueryParameter(pattern="^[!-~]{1,64}$", description="only records about this `transactionId`")
]
AuditRequest = Annotated[
    str | None, QueryParameter(name="requestId", pattern="^[!-~]{1,128}$", description="only records of this request")
]


def routes(service: PaymentService) -> list[HTTPRouteHandler]:
    """Every endpoint of payment."""

    @post(
        "/payment/initiate",
        **protected(
            {Role.CUSTOMER},
            Reason.IDEMPOTENCY_KEY_INVALID,
            Reason.INSUFFICIENT_FUNDS,
            Reason.WALLET_FROZEN,
            Reason.WALLET_CLOSED,
            Reason.REQUEST_IN_PROGRESS,
            Reason.CURRENCY_MISMATCH,
            Reason.UNKNOWN_MERCHANT,
            Reason.IDEMPOTENCY_KEY_REUSED,
            Reason.AMOUNT_TOO_SMALL,
        ),
    )
    async def initiate_payment(
        request: Request[Any, Any, Any],
        data: JSONBody[InitiatePayment],
        _key: IdempotencyKeyHeader = None,
    ) -> Response[Payment]:
        """Pay a merchant from the caller's own wallet; the answer says how it ended.

        A refused payment is kept: its problem has `transactionId` and `failureReason`.
        """
        answered = unwrap(await service.initiate(caller_of(request), data, idempotency_key(request)))
        headers = {REPLAYED_HEADER: "true"} if answered.replayed else {}
        if isinstance(answered.answer, Refusal):
            problem: Response[Any] = problem_response(request, answered.answer, headers)
            return problem
        return JsonAnswer(answered.answer, headers=headers)

    @get("/payment", **protected(EVERYONE))
    async def list_payments(
        request: Request[Any, Any, Any],
        *,
        status: Status = None,
        from_: From = None,
        to: To = None,
        limit: Limit = DEFAULT_LIMIT,
        cursor: Cursor = None,
    ) -> PaymentList:
        """The caller's payments, newest first; administrators and back ends see everybody's."""
        return await service.list_payments(
            caller_of(request),
            status=status,
            since=_moment("from", from_),
            until=_moment("to", to),
            limit=limit,
            cursor=cursor,
        )

    @get("/payment/audit", **protected({Role.ADMIN}))
    async def list_payment_audit(
        request: Request[Any, Any, Any],
        subject: AuditSubject = None,
        request_id: AuditRequest = None,
        limit: Limit = DEFAULT_LIMIT,
        cursor: Cursor = None,
    ) -> AuditTrail:
        """Audit records, newest first."""
        return await service.audit_trail(
            caller_of(request), subject=subject, request_id=request_id, limit=limit, cursor=cursor
        )

    @get("/payment/{transaction_id:str}", **protected(EVERYONE))
    async def get_payment(request: Request[Any, Any, Any], transaction_id: FromPath[str]) -> Payment:
        """One payment, for its two sides, administrators and back ends."""
        return unwrap(await service.find(caller_of(request), transaction_id))

    @get("/payment/{transaction_id:str}/history", **protected(EVERYONE))
    async def get_payment_history(request: Request[Any, Any, Any], transaction_id: FromPath[str]) -> PaymentHistory:
        """Every state that a payment went through, in order."""
        return unwrap(await service.history(caller_of(request), transaction_id))

    return [initiate_payment, list_payments, list_payment_audit, get_payment, get_payment_history]


def _moment(parameter: str, text: str | None) -> int | None:
    """A query parameter's time in microseconds since the epoch. Refused with ``validation-error``."""
    if text is None:
        return None
    moment = parse_rfc3339(text)
    if moment is None:
        raise Refused(invalid(parameter, "This is not an RFC 3339 time with an offset, as 2026-11-22T08:15:30Z."))
    return moment
