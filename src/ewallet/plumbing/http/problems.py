"""Refusals as ``application/problem+json`` (RFC 9457). Every error answer of the platform is rendered here."""

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, NamedTuple

import msgspec
import structlog
from litestar import Request, Response
from litestar.exceptions import HTTPException, ValidationException
from litestar.openapi.datastructures import ResponseSpec

from ewallet.kernel.errors import (
    FieldError,
    OutcomeUnknown,
    Overloaded,
    Reason,
    Refusal,
    Refused,
    invalid,
    kind_of,
    status_of,
)
from ewallet.plumbing.database import STORAGE_RETRY_AFTER_SECONDS, DatabaseUnavailable, StorageUnavailable

log = structlog.get_logger()

MEDIA_TYPE = "application/problem+json"
REQUEST_ID_SCOPE_KEY = "ewallet.request_id"
REFUSED_SCOPE_KEY = "ewallet.refused"
"""Where the slug of the problem that answers a request is left for its log line and the metrics."""

RETRY_AFTER_SECONDS = 1
"""What a client should wait when nothing better is known."""

TITLES: Mapping[Reason, str] = {
    Reason.MALFORMED_REQUEST: "The request cannot be read",
    Reason.IDEMPOTENCY_KEY_INVALID: "The idempotency key is not valid",
    Reason.INVALID_TOKEN: "The token is missing or not valid",
    Reason.INVALID_CREDENTIALS: "The credentials are not valid",
    Reason.INSUFFICIENT_FUNDS: "The available balance is too small",
    Reason.FORBIDDEN: "This role may not do this",
    Reason.NOT_FOUND: "There is no such thing",
    Reason.METHOD_NOT_ALLOWED: "The method is not allowed here",
    Reason.NOT_ACCEPTABLE: "No acceptable representation",
    Reason.CONTENT_TOO_LARGE: "The body is too large",
    Reason.URI_TOO_LONG: "The address is too long",
    Reason.UNSUPPORTED_MEDIA_TYPE: "The body's media type is not supported",
    Reason.HEADER_TOO_LARGE: "The headers are too large",
    Reason.WALLET_FROZEN: "The wallet is frozen",
    Reason.WALLET_CLOSED: "The wallet is closed",
    Reason.REQUEST_IN_PROGRESS: "The same request is still running",
    Reason.INVALID_STATE: "The present state forbids this",
    Reason.EMAIL_TAKEN: "The e-mail address is taken",
    Reason.ABANDONED: "The attempt was given up",
    Reason.VALIDATION_ERROR: "The request is not valid",
    Reason.CURRENCY_MISMATCH: "The wallet has no balance in this currency",
    Reason.UNKNOWN_MERCHANT: "There is no such merchant",
    Reason.IDEMPOTENCY_KEY_REUSED: "The key belongs to another request",
    Reason.AMOUNT_TOO_SMALL: "The amount is too small",
    Reason.LIMIT_EXCEEDED: "The amount is over a limit",
    Reason.BULK_REFUSED: "Another one of the same call was refused",
    Reason.TOO_MANY_REQUESTS: "Too many requests",
    Reason.INTERNAL_ERROR: "Internal error",
    Reason.SERVICE_UNAVAILABLE: "The service is not available",
    Reason.STORAGE_UNAVAILABLE: "Nothing can be stored at the moment",
    Reason.TIMEOUT: "The answer took too long",
}


class Explanation(NamedTuple):
    """What a problem means and what to do about it, for the person who looks it up."""

    meaning: str
    advice: str


EXPLANATIONS: Mapping[Reason, Explanation] = {
    Reason.MALFORMED_REQUEST: Explanation(
        "The request could not be read at all: the body is not JSON, a key is in it twice, it is missing or did not "
        "arrive in time, or a header is broken.",
        "Read the detail, correct the request and send it again. Nothing was done.",
    ),
    Reason.IDEMPOTENCY_KEY_INVALID: Explanation(
        "The Idempotency-Key header is not one value of 1 to 255 visible ASCII characters.",
        "Send one key, for example a UUID, with or without double quotes. Nothing was done.",
    ),
    Reason.INVALID_TOKEN: Explanation(
        "The request needs an access token, and it has none, or one that is expired, damaged or not ours. Or it shows "
        "a refresh token that is spent, or whose session is over.",
        "Log in, or use the refresh token, and send the new one as Authorization: Bearer and the access token.",
    ),
    Reason.INVALID_CREDENTIALS: Explanation(
        "The e-mail address and the password, the refresh token, or the client's id and secret do not belong together. "
        "Which part is wrong is not told.",
        "Check the credentials. After too many failures you must wait some minutes.",
    ),
    Reason.INSUFFICIENT_FUNDS: Explanation(
        "The wallet has less money available than this needs. Money that is held for other payments is not available.",
        "Put money into the wallet, then try again as a new payment with a new idempotency key.",
    ),
    Reason.FORBIDDEN: Explanation(
        "The token is valid, but its role may not do this at all: customers pay, merchants receive, administrators "
        "look after the platform.",
        "Use an account with the right role. The API's description names it for every call.",
    ),
    Reason.NOT_FOUND: Explanation(
        "There is nothing at this address, or it belongs to somebody else: the two look alike on purpose.",
        "Check the address and the identifier, and that the token is that of the owner.",
    ),
    Reason.METHOD_NOT_ALLOWED: Explanation(
        "The address exists, but does not take this method.",
        "Use one of the methods in the Allow header of the answer.",
    ),
    Reason.NOT_ACCEPTABLE: Explanation(
        "The Accept header does not allow the media type in which this call answers.",
        "Accept application/json and application/problem+json, or leave the header out.",
    ),
    Reason.CONTENT_TOO_LARGE: Explanation(
        "The body is over 64 KiB, which no call needs but the one in bulk, which takes 1 MiB.",
        "Send less. Nothing was done.",
    ),
    Reason.URI_TOO_LONG: Explanation(
        "The address with its query is over 8 KiB.",
        "Send less in the query.",
    ),
    Reason.UNSUPPORTED_MEDIA_TYPE: Explanation(
        "The body was not sent as the media type that this call reads.",
        "Send JSON with Content-Type: application/json. Only the call for a service token takes a form.",
    ),
    Reason.HEADER_TOO_LARGE: Explanation(
        "The headers together are over 16 KiB.",
        "Send fewer or shorter headers; often it is a pile of cookies, which this API does not use.",
    ),
    Reason.WALLET_FROZEN: Explanation(
        "The wallet is frozen: no money enters or leaves it until an administrator unfreezes it.",
        "Ask support why. Repeating the request does not help while the wallet is frozen.",
    ),
    Reason.WALLET_CLOSED: Explanation(
        "The wallet is closed for good.",
        "Nothing can be paid from it or to it; use another wallet.",
    ),
    Reason.REQUEST_IN_PROGRESS: Explanation(
        "A request with the same idempotency key is still running.",
        "Wait as long as Retry-After says, then send the same request with the same key: it gets the first answer.",
    ),
    Reason.INVALID_STATE: Explanation(
        "What you asked for is possible, but not in the state in which the thing is now.",
        "Read its state again; the detail says what stands in the way.",
    ),
    Reason.EMAIL_TAKEN: Explanation(
        "There is an account with this e-mail address already.",
        "Log in with it, or register with another address.",
    ),
    Reason.ABANDONED: Explanation(
        "The platform tried for a while, could not carry this out, and has given it up for good. No money was moved.",
        "Try again as a new request with a new idempotency key.",
    ),
    Reason.VALIDATION_ERROR: Explanation(
        "The request is well formed, but a field or parameter has a value that is not allowed, is missing, or is not "
        "known here.",
        "The list errors names each field and what is wrong with it. Nothing was done.",
    ),
    Reason.CURRENCY_MISMATCH: Explanation(
        "The wallet has no balance in this currency, and money is never converted.",
        "Pay in a currency that both sides hold, or open a balance in it first.",
    ),
    Reason.UNKNOWN_MERCHANT: Explanation(
        "No merchant has this id. Paying a customer, or oneself, is refused in the same way.",
        "Check the merchantId. A new attempt is a new payment with a new idempotency key.",
    ),
    Reason.IDEMPOTENCY_KEY_REUSED: Explanation(
        "The key, or the reference that acts as one, was used before, for another request.",
        "Use a new key for a new request; use the old key only to repeat exactly the same one.",
    ),
    Reason.AMOUNT_TOO_SMALL: Explanation(
        "The fee would take the whole amount, and nothing would reach the merchant.",
        "Pay a larger amount. Nothing was done.",
    ),
    Reason.LIMIT_EXCEEDED: Explanation(
        "A wallet may spend so much in one payment, in a day and in a calendar month, both of UTC; this would be more. "
        "The member limit says which limit it is (perPayment, perDay, perMonth), allowed and left what it allows and "
        "what is left of it, in minor units.",
        "Pay less, or wait for the next day or month; an administrator can change the limits. A new attempt is a new "
        "payment with a new idempotency key.",
    ),
    Reason.BULK_REFUSED: Explanation(
        "The call was all or nothing, and another payment in it was refused. So was this one; nothing was moved.",
        "Look at the item of the call that has another problem. A new attempt is a new call with new idempotency keys.",
    ),
    Reason.TOO_MANY_REQUESTS: Explanation(
        "You, or your network address, sent more requests than the limit allows.",
        "Wait as long as Retry-After says, then go on more slowly. This request was not carried out.",
    ),
    Reason.INTERNAL_ERROR: Explanation(
        "Something is broken on our side. It has been logged under the request's id.",
        "Tell support the requestId. A payment can be repeated safely with the same idempotency key.",
    ),
    Reason.SERVICE_UNAVAILABLE: Explanation(
        "A part of the platform is overloaded, is being restarted, or cannot be reached.",
        "Wait as long as Retry-After says, then repeat the request, with the same idempotency key if it had one.",
    ),
    Reason.STORAGE_UNAVAILABLE: Explanation(
        "The platform's disk or database takes nothing new just now: it is full, read-only or broken. What is stored "
        "can still be looked at.",
        "Wait as long as Retry-After says, then repeat the request, with the same idempotency key if it had one: it is "
        "carried out once at most.",
    ),
    Reason.TIMEOUT: Explanation(
        "No answer came in time, so the outcome is not known: the request may or may not have been carried out.",
        "Repeat the request with the same idempotency key: it is carried out once at most, and you learn the outcome.",
    ),
}
"""A test holds this complete."""

# Litestar's own errors, by status, as reasons of ours.
_REASON_BY_STATUS = {
    400: Reason.MALFORMED_REQUEST,
    401: Reason.INVALID_TOKEN,
    403: Reason.FORBIDDEN,
    404: Reason.NOT_FOUND,
    405: Reason.METHOD_NOT_ALLOWED,
    406: Reason.NOT_ACCEPTABLE,
    413: Reason.CONTENT_TOO_LARGE,
    415: Reason.UNSUPPORTED_MEDIA_TYPE,
    422: Reason.VALIDATION_ERROR,
    429: Reason.TOO_MANY_REQUESTS,
    503: Reason.SERVICE_UNAVAILABLE,
}


class ProblemError(msgspec.Struct, frozen=True):
    """One thing wrong with a request: a JSON pointer into the body, or a parameter's name, and what is wrong."""

    pointer: str
    detail: str


class Problem(msgspec.Struct, frozen=True, rename="camel"):
    """The members that every problem has; some have more (RFC 9457, section 3.2)."""

    type: str
    title: str
    status: int
    detail: str
    instance: str
    request_id: str
    errors: list[ProblemError] | msgspec.UnsetType = msgspec.UNSET


def problem(refusal: Refusal, *, instance: str, request_id: str) -> dict[str, Any]:
    """The problem document of a refusal."""
    document: dict[str, Any] = {
        "type": f"/problems/{refusal.reason.value}",
        "title": TITLES[refusal.reason],
        "status": refusal.status,
        "detail": refusal.detail,
        "instance": instance,
        "requestId": request_id,
    }
    if refusal.errors:
        document["errors"] = [{"pointer": error.pointer, "detail": error.detail} for error in refusal.errors]
    return {**document, **refusal.members}


def problem_headers(refusal: Refusal) -> dict[str, str]:
    """The headers that belong to a refusal."""
    headers = {}
    if refusal.status == HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = "Bearer"
    if refusal.retry_after_seconds is not None:
        headers["Retry-After"] = str(refusal.retry_after_seconds)
    return headers


def problem_response(
    request: Request[Any, Any, Any], refusal: Refusal, extra_headers: Mapping[str, str] | None = None
) -> Response[dict[str, Any]]:
    """The answer to a request that is refused."""
    request.scope[REFUSED_SCOPE_KEY] = refusal.reason.value  # type: ignore[literal-required]  # our own key in the ASGI scope
    document = problem(refusal, instance=request.url.path, request_id=request.scope[REQUEST_ID_SCOPE_KEY])  # type: ignore[literal-required]  # our own key in the ASGI scope
    return Response(
        document,
        status_code=refusal.status,
        media_type=MEDIA_TYPE,
        headers={**problem_headers(refusal), **(extra_headers or {})},
    )


def refusal_of(error: Exception) -> Refusal:
    """What an exception means to the client; an unexpected one is an internal error without detail."""
    match error:
        case Refused():
            return error.refusal
        case ValidationException():
            return _invalid_parameters(error)
        case HTTPException() if error.status_code in _REASON_BY_STATUS:
            return Refusal(_REASON_BY_STATUS[error.status_code], _detail(error))
        case StorageUnavailable():
            return Refusal(
                Reason.STORAGE_UNAVAILABLE,
                "Nothing can be stored at the moment. Repeat the request later, with the same key if it has one.",
                retry_after_seconds=STORAGE_RETRY_AFTER_SECONDS,
            )
        case Overloaded() | DatabaseUnavailable():
            return Refusal(
                Reason.SERVICE_UNAVAILABLE,
                "The service cannot take this on right now. Repeat the request, with the same key if it has one.",
                retry_after_seconds=RETRY_AFTER_SECONDS,
            )
        case OutcomeUnknown():
            return Refusal(
                Reason.TIMEOUT,
                "The outcome is not known yet. Repeat the request with the same key to learn it.",
                retry_after_seconds=RETRY_AFTER_SECONDS,
            )
        case _:
            return Refusal(Reason.INTERNAL_ERROR, "Something is broken on our side. Quote the request id.")


def logged_refusal_of(error: Exception) -> Refusal:
    """:func:`refusal_of`; a bug is put into the log."""
    refusal = refusal_of(error)
    if refusal.reason is Reason.INTERNAL_ERROR:
        log.error("request.failed", exc_info=error)
    return refusal


def render_error(request: Request[Any, Any, Any], error: Exception) -> Response[dict[str, Any]]:
    """Litestar's exception handler for everything."""
    refusal = logged_refusal_of(error)
    # Litestar spells the header so.
    allow = error.headers.get("allow") if isinstance(error, HTTPException) and error.headers else None
    return problem_response(request, refusal, {"Allow": allow} if allow else None)


def documented_problems(reasons: Sequence[Reason]) -> dict[int, ResponseSpec]:
    """The OpenAPI responses of an endpoint that can answer these reasons."""
    by_status: dict[int, list[str]] = {}
    for reason in reasons:
        by_status.setdefault(status_of(kind_of(reason)), []).append(reason.value)
    return {
        status: ResponseSpec(Problem, description=" · ".join(slugs), media_type=MEDIA_TYPE, generate_examples=False)
        for status, slugs in sorted(by_status.items())
    }


def _detail(error: HTTPException) -> str:
    match error.status_code:
        case 404:
            return "There is nothing at this address."
        case 405:
            return "This address does not take this method; see the Allow header."
        case _:
            return error.detail


def _invalid_parameters(error: ValidationException) -> Refusal:
    """Litestar's list of what is wrong with query, path and header parameters, or the missing body."""
    extra = error.extra if isinstance(error.extra, list) else []
    errors = tuple(FieldError(str(item.get("key", "")), str(item.get("message", ""))) for item in extra)
    if any(field.pointer == "data" for field in errors):
        return Refusal(Reason.MALFORMED_REQUEST, "The body is missing: a JSON object is needed.")
    if not errors:
        return invalid("", error.detail)
    return Refusal(Reason.VALIDATION_ERROR, f"{errors[0].pointer}: {errors[0].detail}", errors=errors)
