"""Notification as its tests meet it: real databases, real tokens, and a real socket where a stream is read."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count
from typing import Any

import uvicorn
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from litestar.types import ASGIApp

from ewallet.gateway.domain import LARGE_BODIES
from ewallet.kernel.caller import Caller, Role
from ewallet.kernel.clock import system_clock
from ewallet.kernel.ids import derived_id, new_id
from ewallet.notification.app import create_app
from ewallet.notification.service import NotificationService
from ewallet.notification.templates import load_languages
from ewallet.plumbing.http.application import House
from ewallet.plumbing.http.edge import Edge
from ewallet.plumbing.outbox import Event
from ewallet.plumbing.settings import Settings
from ewallet.plumbing.tokens import AUDIENCE, ISSUER, PublicKeys, Verifier, sign
from tests.support.migrated import migrate

NOW = 1_790_000_000_000_000
INTERNAL_SECRET = "a secret that only the services of this test know"
KEY = generate_private_key(SECP256R1())
KEY_ID = "key-1"
LANGUAGES = load_languages("", "en")

CUSTOMER = new_id("usr", NOW)
MERCHANT = new_id("usr", NOW)
STRANGER = new_id("usr", NOW)

_numbers = count(1)


def caller(subject: str, role: Role = Role.CUSTOMER) -> Caller:
    return Caller(subject, role, "req_test")


def token(subject: str, role: Role = Role.CUSTOMER, *, seconds: int = 600) -> str:
    now = int(time.time())
    claims = {
        "iss": ISSUER,
        "sub": subject,
        "aud": AUDIENCE,
        "exp": now + seconds,
        "iat": now,
        "jti": f"jti-{next(_numbers)}",
        "role": role,
    }
    return sign(claims, KEY, KEY_ID)


def bearer(subject: str, role: Role = Role.CUSTOMER, *, seconds: int = 600) -> dict[str, str]:
    return {"Authorization": f"Bearer {token(subject, role, seconds=seconds)}"}


def verifier() -> Verifier:
    async def fetch_keys() -> PublicKeys:
        return {KEY_ID: KEY.public_key()}

    return Verifier(fetch_keys, system_clock)


def payment_event(
    name: str = "payment.succeeded",
    *,
    recipients: tuple[str, ...] = (CUSTOMER, MERCHANT),
    **changes: Any,
) -> Event:
    """An event as the payment service writes it, of a payment of 12.50 USD from CUSTOMER to MERCHANT."""
    payment_id = new_id("pay", NOW + next(_numbers))
    data = {
        "transactionId": payment_id,
        "customerId": CUSTOMER,
        "merchantId": MERCHANT,
        "amount": 1250,
        "fee": 25,
        "netAmount": 1225,
        "currency": "USD",
        "reference": "order-17",
        "description": None,
        "failureReason": "INSUFFICIENT_FUNDS" if name == "payment.failed" else None,
        **changes,
    }
    return Event(
        id=derived_id("evt", payment_id, name),
        name=name,
        ordering_key=payment_id,
        recipients=recipients,
        data=data,
        occurred_at=NOW,
        request_id="req_test",
    )


def new_house(database_url: str, **settings: Any) -> House[NotificationService]:
    """A migrated notification service; its database closes with its application's lifespan."""
    migrate("notification", database_url)
    return create_app(
        Settings(notification_database_url=database_url, **settings),
        verifier=verifier(),
        internal_secret=INTERNAL_SECRET,
    )


@asynccontextmanager
async def running(database_url: str) -> AsyncIterator[NotificationService]:
    """The service with its watch, without HTTP."""
    house = new_house(database_url)
    async with house.application.lifespan():
        yield house.service


@asynccontextmanager
async def serving(application: ASGIApp) -> AsyncIterator[tuple[str, uvicorn.Server]]:
    """An application behind its edge on a free port of the loopback: its address and its server."""
    edge = Edge(application, service="notification", clock=system_clock, large_bodies=LARGE_BODIES)
    server = uvicorn.Server(uvicorn.Config(edge, log_config=None, access_log=False, lifespan="on"))
    # The socket listens before the server starts, so that the first request waits instead of being refused.
    with socket.create_server(("127.0.0.1", 0)) as listening:
        running = asyncio.create_task(server._serve([listening]))
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}", server
        finally:
            server.should_exit = True
            await running
