"""Payment over HTTP."""

from collections.abc import Iterable
from typing import Annotated, Any

from litestar import Request, Response, get, post
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath, JSONBody, QueryParameter

from ewallet.kernel.caller import Caller, Role
from ewallet.kernel.clock import parse_rfc3339
from ewallet.kernel.errors import InvariantBroken, Reason, Refusal, Refused, invalid, unwrap
from ewallet.payment.domain.payments import PaymentStatus
from ewallet.payment.messages import (
    MAXIMUM_BULK_BYTES,
    BulkItem,
    BulkMode,
    BulkOutcome,
    CapturePayment,
    InitiatePayment,
    PayInBulk,
    Payment,
    PaymentHistory,
    PaymentList,
    Quote,
    QuotePayment,
    Refund,
    RefundList,
    RefundPayment,
    VoidPayment,
)
from ewallet.payment.service import Answered, PaymentService
from ewallet.plumbing.http.answers import JsonAnswer
from ewallet.plumbing.http.contract import (
    DEFAULT_LIMIT,
    EVERYONE,
    REPLAYED_HEADER,
    Cursor,
    Limit,
    caller_of,
    idempotency_key,
    moving_money,
    protected,
    request_id_of,
)
from ewallet.plumbing.http.problems import logged_refusal_of, problem, problem_response
from ewallet.plumbing.http.trails import AuditRequest, AuditTrail
from ewallet.wallet.messages import CreditBooked, CreditOutcome, CreditRefused

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

PAYEES = frozenset({Role.MERCHANT, Role.ADMIN})
"""Who may capture, void and refund: the payment's merchant, or an administrator."""

PAYERS_IN_BULK = frozenset({Role.CUSTOMER, Role.ADMIN, Role.SERVICE})
"""Customers, who pay, and staff, who credit: as in calls of their own."""

BULK_PROBLEMS = (Reason.IDEMPOTENCY_KEY_REUSED, Reason.REQUEST_IN_PROGRESS, Reason.AMOUNT_TOO_SMALL)
"""Of a call that is all or nothing; those of one payment are in its place of the answer."""

EVERY_OPERATION = (Reason.REQUEST_IN_PROGRESS, Reason.INVALID_STATE, Reason.ABANDONED)
MOVING_MONEY = (*EVERY_OPERATION, Reason.INSUFFICIENT_FUNDS, Reason.WALLET_FROZEN, Reason.WALLET_CLOSED)


def routes(service: PaymentService) -> list[HTTPRouteHandler]:
    """Every endpoint of payment."""

    @post(
        "/payment/initiate",
        **moving_money(
            {Role.CUSTOMER},
            Reason.INSUFFICIENT_FUNDS,
            Reason.WALLET_FROZEN,
            Reason.WALLET_CLOSED,
            Reason.REQUEST_IN_PROGRESS,
            Reason.CURRENCY_MISMATCH,
            Reason.UNKNOWN_MERCHANT,
            Reason.AMOUNT_TOO_SMALL,
            Reason.LIMIT_EXCEEDED,
            Reason.ABANDONED,
        ),
    )
    async def initiate_payment(
        request: Request[Any, Any, Any],
        data: JSONBody[InitiatePayment],
    ) -> Response[Payment]:
        """Pay a merchant from the caller's own wallet, or have the money held; the answer says how it ended.

        A refused payment is kept: its problem has `transactionId` and `failureReason`.
        """
        return _answer(request, unwrap(await service.initiate(caller_of(request), data, idempotency_key(request))))

    @post("/payment/bulk", status_code=200, **protected(PAYERS_IN_BULK, *BULK_PROBLEMS, body_bytes=MAXIMUM_BULK_BYTES))
    async def pay_in_bulk(request: Request[Any, Any, Any], data: JSONBody[PayInBulk]) -> Response[BulkOutcome]:
        """Up to a thousand payments from the caller's own wallet in one call, or credits by staff, each for itself.

        Each has an idempotency key of its own, and is what `POST /payment/initiate`, or `POST /wallet/credit`, with
        that key would be: whatever was not answered, or refused for now (`503`, `504`), is asked for again by the same
        call, or alone, and is done once. The header `Idempotency-Key` means nothing here.

        Payments with `mode` `all-or-nothing` are carried out together or not at all: where one is refused, the others
        are, with `bulk-refused`. Keys that were used before, even one, refuse the call, but for the same call again.
        """
        outcomes = await _each_in_bulk(service, caller_of(request), data)
        return JsonAnswer(BulkOutcome(items=[_bulk_item(request, *each) for each in outcomes]), headers={})

    @post("/payment/quote", status_code=200, **protected({Role.CUSTOMER}))
    async def quote_payment(request: Request[Any, Any, Any], data: JSONBody[QuotePayment]) -> Quote:
        """What a payment would cost, and whether it would succeed right now. Nothing is written and nothing is held."""
        return unwrap(await service.quote(caller_of(request), data))

    @post(
        "/payment/{transaction_id:str}/capture",
        status_code=200,
        **moving_money(PAYEES, *MOVING_MONEY, Reason.AMOUNT_TOO_SMALL),
    )
    async def capture_payment(
        request: Request[Any, Any, Any],
        transaction_id: FromPath[str],
        data: JSONBody[CapturePayment] = CapturePayment(),  # noqa: B008  # immutable: a body without anything in it
    ) -> Response[Payment]:
        """Take the money that is held for a payment. Of less than all of it the rest is released."""
        key = idempotency_key(request)
        return _answer(request, unwrap(await service.capture(caller_of(request), transaction_id, data, key)))

    @post("/payment/{transaction_id:str}/void", status_code=200, **moving_money(PAYEES, *EVERY_OPERATION))
    async def void_payment(
        request: Request[Any, Any, Any],
        transaction_id: FromPath[str],
        data: JSONBody[VoidPayment] = VoidPayment(),  # noqa: B008  # as above
    ) -> Response[Payment]:
        """Release the money that is held for a payment."""
        key = idempotency_key(request)
        return _answer(request, unwrap(await service.void(caller_of(request), transaction_id, data, key)))

    @post("/payment/{transaction_id:str}/refund", **moving_money(PAYEES, *MOVING_MONEY))
    async def refund_payment(
        request: Request[Any, Any, Any],
        transaction_id: FromPath[str],
        data: JSONBody[RefundPayment] = RefundPayment(),  # noqa: B008  # as above
    ) -> Response[Refund]:
        """Give a payment back to its customer, whole or in parts, out of the merchant's wallet. The fee is kept."""
        key = idempotency_key(request)
        return _answer(request, unwrap(await service.refund(caller_of(request), transaction_id, data, key)))

    @get("/payment/{transaction_id:str}/refunds", **protected(EVERYONE))
    async def list_refunds(
        request: Request[Any, Any, Any],
        transaction_id: FromPath[str],
        limit: Limit = DEFAULT_LIMIT,
        cursor: Cursor = None,
    ) -> RefundList:
        """The refunds of a payment, newest first."""
        return unwrap(await service.refunds(caller_of(request), transaction_id, limit=limit, cursor=cursor))

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

    return [
        initiate_payment,
        pay_in_bulk,
        quote_payment,
        capture_payment,
        void_payment,
        refund_payment,
        list_refunds,
        list_payments,
        list_payment_audit,
        get_payment,
        get_payment_history,
    ]


def _answer(request: Request[Any, Any, Any], answered: Answered) -> Response[Any]:
    """What is stored for a request, rendered: the thing itself, or the problem."""
    headers = {REPLAYED_HEADER: "true"} if answered.replayed else {}
    if isinstance(answered.answer, Refusal):
        return problem_response(request, answered.answer, headers)
    return JsonAnswer(answered.answer, headers=headers)


InBulk = Answered | Refusal | CreditOutcome | Exception
"""What became of one of many."""


async def _each_in_bulk(service: PaymentService, caller: Caller, data: PayInBulk) -> Iterable[tuple[str, InBulk]]:
    """The key and the outcome of each. Refused with ``forbidden``: the caller may do either, but not this one."""
    match data:
        case PayInBulk(payments=list(payments)) if caller.role is Role.CUSTOMER:
            keys = [each.idempotency_key for each in payments]
            if data.mode is BulkMode.ALL_OR_NOTHING:
                return zip(keys, unwrap(await service.initiate_all(caller, payments)), strict=True)
            return zip(keys, await service.initiate_each(caller, payments), strict=True)
        case PayInBulk(credits=list(credits)) if caller.is_staff:
            keys = [each.idempotency_key or each.reference for each in credits]
            return zip(keys, await service.credit_each(caller, credits), strict=True)
    raise Refused(Refusal(Reason.FORBIDDEN, f"The role {caller.role} may not do this: customers pay, staff credits."))


def _bulk_item(request: Request[Any, Any, Any], key: str, outcome: InBulk) -> BulkItem:
    """One place in the answer to many payments or credits."""
    replayed = isinstance(outcome, Answered | CreditBooked | CreditRefused) and outcome.replayed
    match outcome:
        case Answered(answer=Payment() as payment):
            return BulkItem(idempotency_key=key, status=201, replayed=replayed, payment=payment)
        case CreditBooked(answer=credit):
            return BulkItem(idempotency_key=key, status=201, replayed=replayed, credit=credit)
        case Answered(answer=Refusal() as refusal) | CreditRefused(answer=refusal) | (Refusal() as refusal):
            pass
        case Exception():
            refusal = logged_refusal_of(outcome)
        case _:
            raise InvariantBroken(f"a payment was answered with {outcome.answer}")
    document = problem(refusal, instance=request.url.path, request_id=request_id_of(request))
    return BulkItem(idempotency_key=key, status=refusal.status, replayed=replayed, problem=document)


def _moment(parameter: str, text: str | None) -> int | None:
    """A query parameter's time in microseconds since the epoch. Refused with ``validation-error``."""
    if text is None:
        return None
    moment = parse_rfc3339(text)
    if moment is None:
        raise Refused(invalid(parameter, "This is not an RFC 3339 time with an offset, as 2026-11-22T08:15:30Z."))
    return moment
