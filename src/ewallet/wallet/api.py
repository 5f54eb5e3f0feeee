"""The wallet over HTTP."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Annotated, Any, TypeVar

import structlog
from litestar import Request, Response, delete, get, post, put
from litestar.handlers import HTTPRouteHandler
from litestar.params import JSONBody, PathParameter, QueryParameter

from ewallet.kernel.caller import Role
from ewallet.kernel.errors import Reason, Refusal, unwrap
from ewallet.plumbing.http.answers import JsonAnswer
from ewallet.plumbing.http.contract import (
    DEFAULT_LIMIT,
    EVERYONE,
    REPLAYED_HEADER,
    STAFF,
    Cursor,
    Limit,
    caller_of,
    idempotency_key,
    internal,
    moving_money,
    protected,
)
from ewallet.plumbing.http.problems import problem_response
from ewallet.plumbing.http.trails import AuditRequest, AuditTrail
from ewallet.plumbing.reconciling import Compared
from ewallet.wallet.client import (
    ABANDONS_PATH,
    CREDITS_PATH,
    EVENTS_PATH,
    FIND_PATH,
    GROUPS_PATH,
    LINKED_PATH,
    LIST_PATH,
    MAXIMUM_LINKED_BYTES,
    MOVEMENTS_PATH,
    OWNERS_PATH,
    TRIES_PATH,
    WALLETS_PATH,
    Credits,
    Groups,
)
from ewallet.wallet.domain.wallets import Change
from ewallet.wallet.messages import (
    ChangeStatus,
    Compare,
    CreditOrder,
    FindOrders,
    FindOwners,
    GroupOrder,
    GroupOutcome,
    GroupUnknown,
    LimitsView,
    ListOrders,
    MoneyMoved,
    MoveMoney,
    OpenBalance,
    OpenWallet,
    SetLimits,
    Statement,
    StoredOrder,
    StoredOrders,
    ValidateWallet,
    Validation,
    WalletOpened,
    WalletView,
)
from ewallet.wallet.service import Moved, WalletService

log = structlog.get_logger()

Order = TypeVar("Order", GroupOrder, CreditOrder)
Outcome = TypeVar("Outcome")

MOVEMENT_PROBLEMS = (
    Reason.INSUFFICIENT_FUNDS,
    Reason.WALLET_FROZEN,
    Reason.WALLET_CLOSED,
    Reason.INVALID_STATE,
    Reason.CURRENCY_MISMATCH,
)

CustomerId = Annotated[
    str, PathParameter(name="customerId", description="the `userId` of the customer or merchant whose wallet it is")
]
LimitedCurrency = Annotated[str, PathParameter(name="currency", description="the currency of one of its balances")]
CurrencyFilter = Annotated[str | None, QueryParameter(pattern="^[A-Z]{3}$", description="only this currency")]
From = Annotated[
    str | None,
    QueryParameter(name="from", schema_extra={"format": "date-time"}, description="booked at this time or later"),
]
To = Annotated[
    str | None,
    QueryParameter(name="to", schema_extra={"format": "date-time"}, description="booked before this time"),
]
AuditSubject = Annotated[
    str | None,
    QueryParameter(pattern="^[!-~]{1,64}$", description="only records about this `customerId` or `transactionId`"),
]


def routes(service: WalletService) -> list[HTTPRouteHandler]:
    """Every endpoint of the wallet."""

    @post("/wallet/credit", **moving_money(STAFF, *MOVEMENT_PROBLEMS))
    async def credit_wallet(request: Request[Any, Any, Any], data: JSONBody[MoveMoney]) -> Response[MoneyMoved]:
        """Book money that enters the platform. Repeating the `reference` answers the first answer again."""
        return _moved(request, await service.credit(caller_of(request), data, idempotency_key(request)))

    @post("/wallet/debit", **moving_money(STAFF, *MOVEMENT_PROBLEMS))
    async def debit_wallet(request: Request[Any, Any, Any], data: JSONBody[MoveMoney]) -> Response[MoneyMoved]:
        """Book money that leaves the platform. Repeating the `reference` answers the first answer again."""
        return _moved(request, await service.debit(caller_of(request), data, idempotency_key(request)))

    @post("/wallet/validate", status_code=200, **protected(EVERYONE))
    async def validate_wallet(request: Request[Any, Any, Any], data: JSONBody[ValidateWallet]) -> Validation:
        """Whether a wallet could pay an amount right now, with every reason why not."""
        return unwrap(await service.validate(caller_of(request), data))

    @get("/wallet/audit", **protected({Role.ADMIN}))
    async def list_wallet_audit(
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

    @get("/wallet/{customerId:str}", **protected(EVERYONE))
    async def get_wallet(request: Request[Any, Any, Any], customer_id: CustomerId) -> WalletView:
        """A wallet with its balances."""
        return unwrap(await service.wallet(caller_of(request), customer_id))

    @get("/wallet/{customerId:str}/entries", **protected(EVERYONE))
    async def list_wallet_entries(
        request: Request[Any, Any, Any],
        customer_id: CustomerId,
        *,
        currency: CurrencyFilter = None,
        from_: From = None,
        to: To = None,
        limit: Limit = DEFAULT_LIMIT,
        cursor: Cursor = None,
    ) -> Statement:
        """The statement, newest first: what was booked, and the balance after it. A hold is no entry until posted."""
        return unwrap(
            await service.statement(
                caller_of(request),
                customer_id,
                currency=currency,
                start=from_,
                end=to,
                limit=limit,
                cursor=cursor,
            )
        )

    @post(
        "/wallet/{customerId:str}/balances",
        status_code=200,
        **protected(EVERYONE, Reason.WALLET_CLOSED),
    )
    async def open_wallet_balance(
        request: Request[Any, Any, Any], customer_id: CustomerId, data: JSONBody[OpenBalance]
    ) -> WalletView:
        """Add a balance in another currency; harmless when repeated."""
        return unwrap(await service.open_balance(caller_of(request), customer_id, data.currency))

    @post("/wallet/{customerId:str}/freeze", status_code=200, **protected({Role.ADMIN}, Reason.WALLET_CLOSED))
    async def freeze_wallet(
        request: Request[Any, Any, Any], customer_id: CustomerId, data: JSONBody[ChangeStatus]
    ) -> WalletView:
        """Let no money move in or out; harmless when repeated."""
        return unwrap(await service.change_status(caller_of(request), customer_id, Change.FREEZE, data.reason))

    @post("/wallet/{customerId:str}/unfreeze", status_code=200, **protected({Role.ADMIN}, Reason.WALLET_CLOSED))
    async def unfreeze_wallet(
        request: Request[Any, Any, Any], customer_id: CustomerId, data: JSONBody[ChangeStatus]
    ) -> WalletView:
        """Let money move again; harmless when repeated."""
        return unwrap(await service.change_status(caller_of(request), customer_id, Change.UNFREEZE, data.reason))

    @post("/wallet/{customerId:str}/close", status_code=200, **protected({Role.ADMIN}, Reason.INVALID_STATE))
    async def close_wallet(
        request: Request[Any, Any, Any], customer_id: CustomerId, data: JSONBody[ChangeStatus]
    ) -> WalletView:
        """Close an empty wallet for ever; harmless when repeated."""
        return unwrap(await service.change_status(caller_of(request), customer_id, Change.CLOSE, data.reason))

    @get("/wallet/{customerId:str}/limits", **protected(EVERYONE))
    async def get_wallet_limits(request: Request[Any, Any, Any], customer_id: CustomerId) -> LimitsView:
        """What the owner may spend in one payment, a day and a month, and what is left of it."""
        return unwrap(await service.limits(caller_of(request), customer_id))

    @put("/wallet/{customerId:str}/limits/{currency:str}", **protected({Role.ADMIN}, Reason.CURRENCY_MISMATCH))
    async def set_wallet_limits(
        request: Request[Any, Any, Any], customer_id: CustomerId, currency: LimitedCurrency, data: JSONBody[SetLimits]
    ) -> LimitsView:
        """Give one balance limits of its own, in place of the platform's."""
        return unwrap(await service.change_limits(caller_of(request), customer_id, currency, data))

    @delete(
        "/wallet/{customerId:str}/limits/{currency:str}",
        status_code=200,
        **protected({Role.ADMIN}, Reason.CURRENCY_MISMATCH),
    )
    async def reset_wallet_limits(
        request: Request[Any, Any, Any], customer_id: CustomerId, currency: LimitedCurrency
    ) -> LimitsView:
        """Let the platform's limits hold again for one balance; harmless when repeated."""
        return unwrap(await service.change_limits(caller_of(request), customer_id, currency, None))

    @post(GROUPS_PATH, status_code=200, **internal())
    async def post_groups(data: JSONBody[list[GroupOrder]]) -> Groups:
        """Orders of other services, each applied or refused by itself; outcomes in the same order."""
        return await _outcomes(service.post_group, data)

    @post(LINKED_PATH, status_code=200, **internal(body_bytes=MAXIMUM_LINKED_BYTES))
    async def post_linked_groups(data: JSONBody[list[GroupOrder]]) -> list[GroupOutcome]:
        """Orders of another service that are applied all or none; outcomes in the same order."""
        return list(await service.post_linked(data))

    @post(TRIES_PATH, status_code=200, **internal())
    async def try_groups(data: JSONBody[list[GroupOrder]]) -> Groups:
        """What each of these orders would be answered right now; nothing is written."""
        return await _outcomes(service.try_group, data)

    @post(ABANDONS_PATH, status_code=200, **internal())
    async def abandon_groups(data: JSONBody[list[GroupOrder]]) -> Groups:
        """Orders that their sender gives up, each unless it has an outcome already."""
        return await _outcomes(service.abandon_group, data)

    @post(CREDITS_PATH, status_code=200, **internal())
    async def book_credits(data: JSONBody[list[CreditOrder]]) -> Credits:
        """Credits that another service passes on, each booked or refused by itself; outcomes in the same order."""
        return await _outcomes(service.book_credit, data)

    @post(FIND_PATH, status_code=200, **internal())
    async def find_groups(data: JSONBody[FindOrders]) -> list[StoredOrder]:
        """What is stored under some ids; those that are unknown are left out."""
        return list(await service.find_orders(data.ids))

    @post(LIST_PATH, status_code=200, **internal())
    async def list_groups(data: JSONBody[ListOrders]) -> StoredOrders:
        """Orders of other services with their outcomes, in the sequence in which they were decided."""
        return await service.orders_after(data.after)

    @post(WALLETS_PATH, status_code=200, **internal())
    async def open_wallet(data: JSONBody[OpenWallet]) -> WalletOpened:
        """A wallet for a user who has just registered."""
        await service.open_wallet(data)
        return WalletOpened(owner=data.owner)

    @post(OWNERS_PATH, status_code=200, **internal())
    async def find_missing_wallets(data: JSONBody[FindOwners]) -> list[str]:
        """Which of some users have no wallet."""
        return list(await service.without_wallet(data.owners))

    @post(MOVEMENTS_PATH, status_code=200, **internal())
    async def repeat_movements(data: JSONBody[Compare]) -> Compared:
        """Book again direct credits and debits that notification was told of and the wallet has lost."""
        return await service.repeat_movements(data.after)

    @post(EVENTS_PATH, status_code=200, **internal())
    async def repeat_events(data: JSONBody[Compare]) -> Compared:
        """Tell notification again what it should know and does not."""
        return await service.repeat_events(data.after)

    return [
        credit_wallet,
        debit_wallet,
        validate_wallet,
        list_wallet_audit,
        get_wallet,
        list_wallet_entries,
        open_wallet_balance,
        freeze_wallet,
        unfreeze_wallet,
        close_wallet,
        get_wallet_limits,
        set_wallet_limits,
        reset_wallet_limits,
        post_groups,
        post_linked_groups,
        try_groups,
        abandon_groups,
        book_credits,
        find_groups,
        list_groups,
        open_wallet,
        find_missing_wallets,
        repeat_movements,
        repeat_events,
    ]


async def _outcomes(
    use_case: Callable[[Order], Awaitable[Outcome]], orders: Sequence[Order]
) -> list[Outcome | GroupUnknown]:
    return await asyncio.gather(*(_outcome(use_case, order) for order in orders))


async def _outcome(use_case: Callable[[Order], Awaitable[Outcome]], order: Order) -> Outcome | GroupUnknown:
    """One order's outcome; whatever goes wrong with it must not take its neighbours along."""
    try:
        return await use_case(order)
    except Exception as error:  # the sender hears of it and repeats the order
        log.exception("wallet.order_failed", order=order.id)
        return GroupUnknown(id=order.id, error=type(error).__name__)


def _moved(request: Request[Any, Any, Any], moved: Moved) -> Response[MoneyMoved]:
    headers = {REPLAYED_HEADER: "true"} if moved.replayed else {}
    if isinstance(moved.answer, Refusal):
        problem: Response[Any] = problem_response(request, moved.answer, headers)
        return problem
    return JsonAnswer(moved.answer, headers=headers)
