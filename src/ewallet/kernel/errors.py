"""Why a request is refused: the whole tree on one page.

    Refusal(reason, detail)   a returned value: a verdict of the rules, or a request that cannot be understood
    ├─ Refused                carries a Refusal through code that cannot return one (parsing, guards, HTTP doors)
    InvariantBroken           a bug: something that the rules make impossible has been seen
    OutcomeUnknown            machinery: the other side may or may not have done it; ask again with the same id
    Overloaded                machinery: refused before any work was begun; nothing has happened

A ``Reason`` is stable and is the slug of its page under ``/problems/``. Kind derives from reason and HTTP status from
kind, each in one exhaustive match. Only a *verdict* may be stored under an id and answered again.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, StrEnum, auto
from typing import Any, TypeVar, assert_never


class Reason(StrEnum):
    """The problem slugs of the contract, in its order."""

    MALFORMED_REQUEST = "malformed-request"
    IDEMPOTENCY_KEY_INVALID = "idempotency-key-invalid"
    INVALID_TOKEN = "invalid-token"  # noqa: S105  # the name of a problem
    INVALID_CREDENTIALS = "invalid-credentials"
    INSUFFICIENT_FUNDS = "insufficient-funds"
    FORBIDDEN = "forbidden"
    NOT_FOUND = "not-found"
    METHOD_NOT_ALLOWED = "method-not-allowed"
    NOT_ACCEPTABLE = "not-acceptable"
    CONTENT_TOO_LARGE = "content-too-large"
    URI_TOO_LONG = "uri-too-long"
    UNSUPPORTED_MEDIA_TYPE = "unsupported-media-type"
    HEADER_TOO_LARGE = "header-too-large"
    WALLET_FROZEN = "wallet-frozen"
    WALLET_CLOSED = "wallet-closed"
    REQUEST_IN_PROGRESS = "request-in-progress"
    INVALID_STATE = "invalid-state"
    EMAIL_TAKEN = "email-taken"
    ABANDONED = "abandoned"
    VALIDATION_ERROR = "validation-error"
    CURRENCY_MISMATCH = "currency-mismatch"
    UNKNOWN_MERCHANT = "unknown-merchant"
    IDEMPOTENCY_KEY_REUSED = "idempotency-key-reused"
    AMOUNT_TOO_SMALL = "amount-too-small"
    LIMIT_EXCEEDED = "limit-exceeded"
    BULK_REFUSED = "bulk-refused"
    TOO_MANY_REQUESTS = "too-many-requests"
    INTERNAL_ERROR = "internal-error"
    SERVICE_UNAVAILABLE = "service-unavailable"
    STORAGE_UNAVAILABLE = "storage-unavailable"
    TIMEOUT = "timeout"

    @property
    def code(self) -> str:
        """The upper-case spelling that a payment's ``failureReason`` and a validation's ``reasons`` use."""
        return self.name


class Kind(Enum):
    """What sort of answer a reason is; HTTP's status codes name them well."""

    BAD_REQUEST = auto()
    UNAUTHENTICATED = auto()
    PAYMENT_REQUIRED = auto()
    FORBIDDEN = auto()
    NOT_FOUND = auto()
    METHOD_NOT_ALLOWED = auto()
    NOT_ACCEPTABLE = auto()
    CONFLICT = auto()
    CONTENT_TOO_LARGE = auto()
    URI_TOO_LONG = auto()
    UNSUPPORTED_MEDIA_TYPE = auto()
    UNPROCESSABLE = auto()
    TOO_MANY = auto()
    HEADER_TOO_LARGE = auto()
    BUG = auto()
    UNAVAILABLE = auto()
    TIMEOUT = auto()


def kind_of(reason: Reason) -> Kind:
    """The kind of a reason."""
    match reason:
        case Reason.MALFORMED_REQUEST | Reason.IDEMPOTENCY_KEY_INVALID:
            return Kind.BAD_REQUEST
        case Reason.INVALID_TOKEN | Reason.INVALID_CREDENTIALS:
            return Kind.UNAUTHENTICATED
        case Reason.INSUFFICIENT_FUNDS:
            return Kind.PAYMENT_REQUIRED
        case Reason.FORBIDDEN:
            return Kind.FORBIDDEN
        case Reason.NOT_FOUND:
            return Kind.NOT_FOUND
        case Reason.METHOD_NOT_ALLOWED:
            return Kind.METHOD_NOT_ALLOWED
        case Reason.NOT_ACCEPTABLE:
            return Kind.NOT_ACCEPTABLE
        case Reason.CONTENT_TOO_LARGE:
            return Kind.CONTENT_TOO_LARGE
        case Reason.URI_TOO_LONG:
            return Kind.URI_TOO_LONG
        case Reason.UNSUPPORTED_MEDIA_TYPE:
            return Kind.UNSUPPORTED_MEDIA_TYPE
        case Reason.HEADER_TOO_LARGE:
            return Kind.HEADER_TOO_LARGE
        case (
            Reason.WALLET_FROZEN
            | Reason.WALLET_CLOSED
            | Reason.REQUEST_IN_PROGRESS
            | Reason.INVALID_STATE
            | Reason.EMAIL_TAKEN
            | Reason.ABANDONED
        ):
            return Kind.CONFLICT
        case (
            Reason.VALIDATION_ERROR
            | Reason.CURRENCY_MISMATCH
            | Reason.UNKNOWN_MERCHANT
            | Reason.IDEMPOTENCY_KEY_REUSED
            | Reason.AMOUNT_TOO_SMALL
            | Reason.LIMIT_EXCEEDED
            | Reason.BULK_REFUSED
        ):
            return Kind.UNPROCESSABLE
        case Reason.TOO_MANY_REQUESTS:
            return Kind.TOO_MANY
        case Reason.INTERNAL_ERROR:
            return Kind.BUG
        case Reason.SERVICE_UNAVAILABLE | Reason.STORAGE_UNAVAILABLE:
            return Kind.UNAVAILABLE
        case Reason.TIMEOUT:
            return Kind.TIMEOUT
    assert_never(reason)


def status_of(kind: Kind) -> int:
    """The HTTP status of a kind (RFC 9110; 431 is RFC 6585's)."""
    match kind:
        case Kind.BAD_REQUEST:
            return 400
        case Kind.UNAUTHENTICATED:
            return 401
        case Kind.PAYMENT_REQUIRED:
            return 402
        case Kind.FORBIDDEN:
            return 403
        case Kind.NOT_FOUND:
            return 404
        case Kind.METHOD_NOT_ALLOWED:
            return 405
        case Kind.NOT_ACCEPTABLE:
            return 406
        case Kind.CONFLICT:
            return 409
        case Kind.CONTENT_TOO_LARGE:
            return 413
        case Kind.URI_TOO_LONG:
            return 414
        case Kind.UNSUPPORTED_MEDIA_TYPE:
            return 415
        case Kind.UNPROCESSABLE:
            return 422
        case Kind.TOO_MANY:
            return 429
        case Kind.HEADER_TOO_LARGE:
            return 431
        case Kind.BUG:
            return 500
        case Kind.UNAVAILABLE:
            return 503
        case Kind.TIMEOUT:
            return 504
    assert_never(kind)


@dataclass(frozen=True, slots=True)
class FieldError:
    """One thing wrong with a request: where (a JSON pointer, RFC 6901, or a parameter's name) and what."""

    pointer: str
    detail: str


@dataclass(frozen=True, slots=True)
class Refusal:
    """A refused request.

    ``detail`` says to a person what is wrong and what to do. ``members`` are further members of the problem document
    (``transactionId``, ``failureReason``). ``retry_after_seconds`` becomes the ``Retry-After`` header.
    """

    reason: Reason
    detail: str
    errors: tuple[FieldError, ...] = ()
    members: Mapping[str, Any] = field(default_factory=dict)
    retry_after_seconds: int | None = None

    @property
    def status(self) -> int:
        """The HTTP status to answer with."""
        return status_of(kind_of(self.reason))


class Refused(Exception):
    """A refusal on its way through code that has no return value to put it in."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.detail)
        self.refusal = refusal


class InvariantBroken(Exception):
    """The rules make this impossible, yet it was seen: stop, write nothing, tell the operator."""


class OutcomeUnknown(Exception):
    """The other side may or may not have acted. Never treat as refused: repeat with the same id."""


class Overloaded(Exception):
    """There is no room to take this on; it was refused before any of it was begun."""


Answer = TypeVar("Answer")


def unwrap(answer: Answer | Refusal) -> Answer:
    """The answer itself; a refusal is raised as :class:`Refused`, for the edge to render."""
    if isinstance(answer, Refusal):
        raise Refused(answer)
    return answer


def invalid(pointer: str, detail: str) -> Refusal:
    """A validation error in one field."""
    return Refusal(Reason.VALIDATION_ERROR, detail, errors=(FieldError(pointer, detail),))


def not_found(what: str) -> Refusal:
    """Nothing there, or not the caller's: the two must look exactly alike."""
    return Refusal(Reason.NOT_FOUND, f"There is no such {what}, or it is not yours.")
