"""Generated requests against the merged OpenAPI document of a running platform: it does what its document says.

Valid and invalid requests of every operation, as each role. Whatever is sent, the status is documented, the body has
the documented shape and media type, invalid data are refused, a token is asked for where the document says so, and
nothing is ever a 5xx.

schemathesis runs as a program: its fixtures for pytest need insides of pytest that pytest 9.2 no longer has.
"""

import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from tests.support.platform import People, Platform, User, payment, platform

EXAMPLES = 5
"""Per operation and role, beside the boundaries of every constraint, which are most of the requests."""

OPERATIONS = 30
"""At least so many: an empty document would conform to everything."""

REFUSED = ["400", "401", "403", "404", "405", "406", "409", "413", "414", "415", "422", "429", "431"]
"""How invalid data may be answered: schemathesis itself does not think of bodies and headers that are too large."""

ENDLESS = "/notification/stream"

KNOWN_PROBABILITY = 0.7
"""How often a request names something that exists; made-up ids would only ever find nothing."""


@pytest.fixture(scope="module")
def running(scratch: Path) -> Iterator[Platform]:
    """Start a platform for this file."""
    with tempfile.TemporaryDirectory(dir=scratch) as folder, platform("together", {}, Path(folder)) as made:
        made.start()
        yield made
        made.stop()


@pytest.fixture(scope="module")
def users(running: Platform) -> Iterator[dict[str, User]]:
    """Give a user of each role."""
    with httpx2.Client(timeout=30, trust_env=False) as http:
        people = People(running.address, http)
        customer, merchant = people.customer(with_amount=1_000_000_00), people.merchant()
        yield {"CUSTOMER": customer, "MERCHANT": merchant, "ADMIN": people.admin()}


@pytest.fixture(scope="module")
def known(users: dict[str, User]) -> dict[str, str]:
    """Give values of parameters that lead somewhere, by the place that schemathesis gives them."""
    customer, merchant = users["CUSTOMER"], users["MERCHANT"]
    receipt = customer.answer("POST", "/payment/initiate", payment(merchant, 10_00))
    (notification,) = merchant.notified_of("payment.succeeded")
    return {
        "path.customerId": customer.user_id,
        "path.transactionId": receipt["transactionId"],
        "path.notificationId": notification["notificationId"],
        "path.slug": "insufficient-funds",
        "body.customerId": customer.user_id,
        "body.merchantId": merchant.user_id,
        "body.currency": "USD",
    }


@pytest.mark.parametrize("role", ["CUSTOMER", "MERCHANT", "ADMIN"])
def test_the_platform_does_what_its_document_says(
    running: Platform, users: dict[str, User], known: dict[str, str], role: str, tmp_path: Path
) -> None:
    config = tmp_path / "schemathesis.toml"
    config.write_text(_config(known, users[role].token))

    run = subprocess.run(
        [
            *(sys.executable, "-c", "from schemathesis.cli import schemathesis; schemathesis()"),
            *("--config-file", str(config), "--no-color", "run", f"{running.address}/openapi.json"),
            *("--exclude-path", ENDLESS, "--max-examples", str(EXAMPLES), "--continue-on-failure"),
            *("--phases", "examples,coverage,fuzzing"),
            # A request that fits the schema may still be refused by a rule: acceptance is not promised.
            *("--exclude-checks", "positive_data_acceptance"),
        ],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )

    assert run.returncode == 0, run.stdout + run.stderr
    assert _operations_tested(run.stdout) >= OPERATIONS, run.stdout


def _operations_tested(output: str) -> int:
    found = re.search(r"Tested: (\d+)", output)
    return int(found[1]) if found else 0


def _config(known: dict[str, str], token: str) -> str:
    dictionaries = [
        f'dictionaries."{place}".values = ["{value}"]\n'
        f'parameters."{place}" = {{ dictionary = "{place}", probability = {KNOWN_PROBABILITY} }}'
        for place, value in known.items()
    ]
    return "\n".join(
        [
            f'headers = {{ Authorization = "Bearer {token}" }}',
            f"checks.negative_data_rejection.expected-statuses = {REFUSED}",
            *dictionaries,
        ]
    )
