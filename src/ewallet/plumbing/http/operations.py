"""Pages for the operators of a process: whether it lives, whether it can work, its metrics."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Literal, TypeAlias

import msgspec
import structlog
from litestar import MediaType, Request, Response, get
from litestar.handlers import HTTPRouteHandler
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from ewallet.kernel.errors import Reason, Refusal, Refused
from ewallet.plumbing.database import StorageUnavailable
from ewallet.plumbing.http.addresses import address_of, is_ours
from ewallet.plumbing.http.contract import public

log = structlog.get_logger()

READY_SECONDS = 2
"""A process whose database takes longer than this should get no requests for now."""

Check: TypeAlias = Callable[[], Awaitable[None]]
"""Returns when the process can work, raises when it cannot."""

State: TypeAlias = Literal["ready", "unavailable", "storage-unavailable", "stopping"]
"""With ``storage-unavailable`` whatever is stored can still be looked at; with ``stopping`` it soon cannot, here."""

STOPPING_SCOPE_KEY = "ewallet.stopping"
"""In the scope of each request to a server that is about to stop."""


class Live(msgspec.Struct, frozen=True):
    """The process answers."""

    status: Literal["live"] = "live"


class Ready(msgspec.Struct, frozen=True):
    """Whether the process can work."""

    status: State


def operations(check: Check) -> Sequence[HTTPRouteHandler]:
    """``/health/live``, ``/health/ready`` and ``/metrics`` of a service; the gateway shows clients its own."""

    @get("/health/live", sync_to_thread=False, include_in_schema=False, **public())
    def health_live() -> Live:
        return Live()

    @get("/health/ready", include_in_schema=False, **public())
    async def health_ready(request: Request[Any, Any, Any]) -> Response[Ready]:
        state: State = "stopping" if is_stopping(request) else await state_of(check)
        return Response(Ready(state), status_code=status_of_state(state))

    @get("/metrics", media_type=MediaType.TEXT, sync_to_thread=False, include_in_schema=False, **public())
    def metrics(request: Request[Any, Any, Any]) -> Response[bytes]:
        return metrics_page(request)

    return [health_live, health_ready, metrics]


def is_stopping(request: Request[Any, Any, Any]) -> bool:
    """Whether whoever sends requests here should send them elsewhere from now on."""
    return STOPPING_SCOPE_KEY in request.scope


async def state_of(check: Check) -> State:
    """The outcome of a check, within :data:`READY_SECONDS`."""
    try:
        async with asyncio.timeout(READY_SECONDS):
            await check()
    except Exception as error:  # noqa: BLE001  # whatever is wrong, the answer is that the process is not ready
        log.warning("health.not_ready", error=f"{type(error).__name__}: {error}")
        return "storage-unavailable" if isinstance(error, StorageUnavailable) else "unavailable"
    return "ready"


def status_of_state(state: State) -> int:
    """The HTTP status that makes a load balancer do the right thing."""
    return 200 if state == "ready" else 503


def metrics_page(request: Request[Any, Any, Any]) -> Response[bytes]:
    """Everything that this process counts, in Prometheus' text format.

    What the books hold is nobody else's business: whoever asks from a public address finds nothing (Refused).
    """
    if not is_ours(address_of(request.scope, request.app.state.trusted_proxies)):
        raise Refused(Refusal(Reason.NOT_FOUND, "There is nothing at this address."))
    return Response(generate_latest(), media_type=_METRICS_TYPE)


_METRICS_TYPE = CONTENT_TYPE_LATEST.partition("; charset")[0]  # Litestar adds it to every text
