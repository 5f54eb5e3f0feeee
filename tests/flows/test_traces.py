"""A payment is one trace from the gateway to the notification, in every way of running, and its log lines name it."""

import json
import secrets
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx2
import pytest

from tests.conftest import SERVICES
from tests.support.collector import Collector, Span, running_collector
from tests.support.platform import People, Platform, User, Way, payment, platform, wait_until
from tests.support.ports import free_port

PATIENCE_SECONDS = 20
AMOUNT = 8_765_432
SCOPES = {"ewallet.gateway", "ewallet.payment", "ewallet.wallet", "ewallet.notification"}


@dataclass
class Paid:
    """A traced payment, and everything that was seen of it."""

    way: Way
    running: Platform
    collector: Collector
    customer: User
    merchant: User
    trace: str
    client_span: str
    request_id: str

    @property
    def spans(self) -> list[Span]:
        return self.collector.of(self.trace)


@pytest.fixture(scope="module", params=["together", "apart"])
def paid(request: pytest.FixtureRequest, scratch: Path, http: httpx2.Client) -> Iterator[Paid]:
    """Give a payment whose trace a client began, on a platform that has a collector."""
    way: Way = request.param
    with tempfile.TemporaryDirectory(dir=scratch) as name, running_collector(free_port()) as collector:
        folder = Path(name)
        databases = {service: f"sqlite:///{folder / service}.sqlite3" for service in SERVICES}
        settings = {
            "EWALLET_OTLP_URL": collector.url,
            "EWALLET_LOG_LEVEL": "info",
            "EWALLET_LOG_FORMAT": "json",
            "OTEL_BSP_SCHEDULE_DELAY": "50",
        }
        with platform(way, databases, folder, **settings) as running:
            running.start()
            people = People(running.address, http)
            customer, merchant = people.customer(with_amount=AMOUNT), people.merchant()
            trace, client_span = secrets.token_hex(16), secrets.token_hex(8)
            response = customer.post(
                "/payment/initiate",
                payment(merchant, AMOUNT),
                traceparent=f"00-{trace}-{client_span}-01",
                tracestate="shop=aisle7",
            )
            assert response.status_code == 201, response.text
            request_id = response.headers["x-request-id"]
            made = Paid(way, running, collector, customer, merchant, trace, client_span, request_id)
            wait_until(
                lambda: any(span.name == "notification.store" for span in made.spans),
                PATIENCE_SECONDS,
                lambda: f"no span of the notification among {made.spans}",
            )
            running.stop()
            yield made


def test_one_trace_leads_from_the_client_through_every_service(paid: Paid) -> None:
    names = {span.name for span in paid.spans}

    assert {span.scope for span in paid.spans} == SCOPES
    assert {"POST /payment/initiate", "payment.begin", "payment.move", "payment.settle"} <= names
    assert {"wallet.post_group", "notification.store"} <= names
    known = {span.id for span in paid.spans}
    assert {span.parent for span in paid.spans} <= known | {paid.client_span}
    assert {span.state for span in paid.spans} == {"shop=aisle7"}
    assert not [span for span in paid.spans if span.failed]


def test_what_many_requests_share_is_linked_to_each(paid: Paid) -> None:
    batches = {span.name for span in paid.collector.linked_to(paid.trace)}

    expected = {"payment batch", "wallet batch", "notification batch", "outbox.deliver"}
    assert batches == expected | ({"wallet-door batch"} if paid.way == "apart" else set())
    if paid.way == "apart":
        # The shared call to the wallet is a trace of its own, on both sides of the door.
        (batch,) = [span for span in paid.collector.linked_to(paid.trace) if span.name == "wallet-door batch"]
        calls = {(span.scope, span.name) for span in paid.collector.of(batch.trace)}
        assert ("ewallet.payment", "POST /internal/wallet/groups") in calls
        assert ("ewallet.wallet", "POST /internal/wallet/groups") in calls


def test_each_program_says_which_it_is(paid: Paid) -> None:
    programs = {span.program for span in paid.spans}

    alone = {"ewallet-gateway", "ewallet-payment", "ewallet-wallet", "ewallet-notification"}
    assert programs == ({"ewallet"} if paid.way == "together" else alone)


def test_a_span_says_what_was_done_but_not_for_whom_and_how_much(paid: Paid) -> None:
    told = "\n".join(span.text for span in paid.collector.spans)

    people = (paid.customer, paid.merchant)
    for secret in [str(AMOUNT), *(word for each in people for word in (each.user_id, each.email, each.token))]:
        assert secret not in told
    assert "request_id" in told


def test_the_log_lines_of_the_request_name_its_trace_and_a_span_of_it(paid: Paid) -> None:
    lines = [json.loads(line) for line in paid.running.logs().splitlines() if line.startswith("{")]

    mine = [line for line in lines if line.get("trace_id") == paid.trace]
    assert {line["service"] for line in mine if line["event"] == "request"} == (
        {"gateway"} if paid.way == "together" else {"gateway", "payment"}
    )
    assert {line["request_id"] for line in mine} == {paid.request_id}
    assert {line["span_id"] for line in mine} <= {span.id for span in paid.spans}
