"""Who is asking, in which role, in which request: the first argument of every use case."""

from dataclasses import dataclass
from enum import StrEnum


class Role(StrEnum):
    """What a token's bearer may do; the contract's four roles."""

    CUSTOMER = "CUSTOMER"
    MERCHANT = "MERCHANT"
    ADMIN = "ADMIN"
    SERVICE = "SERVICE"


@dataclass(frozen=True, slots=True)
class Caller:
    """An authenticated caller. ``subject`` is a user id, a service client's id or ``service:<name>``.

    ``trace`` is where the request stands in a trace (``plumbing/tracing.py``), empty where it is in none.
    """

    subject: str
    role: Role
    request_id: str
    trace: str = ""

    @property
    def is_staff(self) -> bool:
        """Administrators and trusted back ends see and move what is not theirs."""
        return self.role in (Role.ADMIN, Role.SERVICE)

    def may_see(self, owner: str) -> bool:
        """Whether something that belongs to ``owner`` exists at all for this caller."""
        return self.is_staff or self.subject == owner


def platform(request_id: str, trace: str = "") -> Caller:
    """The platform itself: recovery, relay, expiry."""
    return Caller(subject="service:platform", role=Role.SERVICE, request_id=request_id, trace=trace)
