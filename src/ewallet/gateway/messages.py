"""What the gateway itself answers."""

from typing import Literal

import msgspec

from ewallet.plumbing.http.operations import State


class Readiness(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Whether the platform can work: all services, and each of them."""

    status: Literal["ready", "unavailable"]
    services: dict[str, State]


class ProblemPage(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A problem explained to a person."""

    type: str
    title: str
    status: int
    meaning: str
    advice: str
