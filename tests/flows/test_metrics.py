"""What the platform shows Prometheus is what the dashboard, the alerts and the documentation speak of."""

import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.conftest import SERVICES
from tests.house.tree import ROOT
from tests.support.platform import People, Way, payment, platform, wait_until

PATIENCE_SECONDS = 30
SPEAKERS = ("docs/operations.md", "deploy/prometheus/alerts.yaml", "deploy/grafana/ewallet.json")
SERIES = ("", "_bucket", "_sum", "_count")

Sample = tuple[str, frozenset[tuple[str, str]]]


class Page:
    """The metrics of all processes of a platform; of the same series, the largest."""

    def __init__(self, texts: list[str]) -> None:
        families = [family for text in texts for family in text_string_to_metric_families(text)]
        self.names = {
            f"{family.name}_total" if family.type == "counter" else family.name
            for family in families
            if family.name.startswith("ewallet_")
        }
        self._values: dict[Sample, float] = {}
        for sample in (sample for family in families for sample in family.samples):
            key = sample.name, frozenset(sample.labels.items())
            self._values[key] = max(self._values.get(key, sample.value), sample.value)

    def value(self, name: str, **labels: str) -> float | None:
        return self._values.get((name, frozenset(labels.items())))


@pytest.fixture(scope="module", params=["together", "apart"])
def way(request: pytest.FixtureRequest) -> Way:
    way: Way = request.param
    return way


@pytest.fixture(scope="module")
def page(way: Way, scratch: Path, http: httpx2.Client) -> Iterator[Page]:
    """Give the metrics of a platform on which somebody has paid, was refused, and forgot the password."""
    with tempfile.TemporaryDirectory(dir=scratch) as name:
        folder = Path(name)
        databases = {service: f"sqlite:///{folder / service}.sqlite3" for service in SERVICES}
        with platform(way, databases, folder) as running:
            running.start()
            people = People(running.address, http)
            customer, merchant = people.customer(with_amount=100_00), people.merchant()
            customer.answer("POST", "/payment/initiate", payment(merchant, 50_00))
            held = customer.answer("POST", "/payment/initiate", payment(merchant, 20_00, capture=False))
            assert customer.post("/payment/initiate", payment(merchant, 99_00)).status_code == 402
            login = {"email": customer.email, "password": "not the password"}
            assert http.post(f"{running.address}/auth/login", json=login).status_code == 401
            assert held["status"] == "AUTHORIZED"
            ports = {int(process.environment["EWALLET_PORT"]) for process in running.processes.values()}

            def look() -> Page:
                return Page([http.get(f"http://127.0.0.1:{port}/metrics").text for port in ports])

            def figures_are_fresh() -> bool:
                seen = look()
                return (
                    seen.value("ewallet_ledger_held", currency="USD") == 20_00
                    and seen.value("ewallet_unfinished", kind="HOLD") == 1
                )

            wait_until(
                figures_are_fresh, PATIENCE_SECONDS, "the figures of the tables have not come", pause_seconds=0.2
            )
            yield look()
            running.stop()


def spoken_of(text: str) -> set[str]:
    return set(re.findall(r"\bewallet_[a-z_]+[a-z]\b(?!\.|\()", text))


@pytest.mark.parametrize("speaker", SPEAKERS)
def test_nobody_speaks_of_a_metric_that_is_not_there(page: Page, speaker: str) -> None:
    there = {f"{name}{series}" for name in page.names for series in SERIES}

    databases = {f"ewallet_{service}" for service in SERVICES}
    assert spoken_of((ROOT / speaker).read_text()) - databases <= there


def test_every_metric_is_documented(page: Page) -> None:
    documented = re.findall(r"^\| `(ewallet_\w+)` \|", (ROOT / "docs/operations.md").read_text(), flags=re.MULTILINE)

    assert sorted(documented) == sorted(page.names)


def test_the_books_are_shown_and_balance(page: Page) -> None:
    owners = ("customer", "merchant", "fees", "cash")
    balance = {owner: page.value("ewallet_ledger_balance", currency="USD", owner=owner) for owner in owners}

    assert balance == {"customer": 50_00, "merchant": 49_00, "fees": 1_00, "cash": -100_00}
    assert page.value("ewallet_ledger_imbalance", currency="USD") == 0


def test_what_was_done_and_refused_is_counted(page: Page, way: Way) -> None:
    def refused(service: str, reason: str) -> float | None:
        return page.value("ewallet_refusals_total", service="gateway" if way == "together" else service, reason=reason)

    assert page.value("ewallet_payments_total", status="SUCCESS") == 1
    assert page.value("ewallet_payments_total", status="AUTHORIZED") == 1
    assert page.value("ewallet_payments_total", status="FAILED") == 1
    assert refused("payment", "insufficient-funds") == 1
    assert refused("auth", "invalid-credentials") == 1
    assert page.value("ewallet_queue_depth", database="payment") == 0
    assert page.value("ewallet_outbox_dead_letters", service="payment") == 0


def test_every_worker_says_when_it_was_last_well(page: Page) -> None:
    workers = [
        *("payment-recovery", "payment-relay", "payment-figures", "wallet-expiry", "wallet-relay", "wallet-figures"),
        *("auth-recovery", "auth-forgetting", "notification-watch", "notification-dispatch", "notification-figures"),
    ]

    times: list[Any] = [page.value("ewallet_worker_last_success_timestamp_seconds", worker=each) for each in workers]

    assert all(times), dict(zip(workers, times, strict=True))
