"""A log line is one JSON object with its request's id, and no secret."""

import json
import subprocess
import sys

import pytest

SCRIPT = """
import logging
import structlog
from ewallet.plumbing.telemetry import configure_logging, request_in_hand

configure_logging("info", "{log_format}")
request_in_hand.set("req_1")
log = structlog.get_logger()
log.debug("too quiet to be heard")
log.info("paid", amount=1250, password="hunter2", refresh_token="hunter2", Authorization="hunter2")
logging.getLogger("library").warning("from a %s", "library")
try:
    secret_in_a_local_variable = "hunter2"
    raise KeyError("missing")
except KeyError:
    log.exception("failed")
"""


def lines(log_format: str) -> list[str]:
    """What a process writes to its standard error; logging is set up once in the life of each."""
    command = [sys.executable, "-c", SCRIPT.format(log_format=log_format)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stderr.splitlines()


def test_every_line_is_one_json_object_with_the_id_of_its_request() -> None:
    paid, library, failed = map(json.loads, lines("json"))

    assert (paid["event"], paid["amount"], paid["request_id"], paid["level"]) == ("paid", 1250, "req_1", "info")
    assert (library["event"], library["logger"], library["level"]) == ("from a library", "library", "warning")
    assert library["request_id"] == "req_1"
    assert "KeyError" in failed["exception"]


@pytest.mark.parametrize("log_format", ["json", "pretty", "auto"])
def test_no_secret_reaches_a_log_not_even_with_a_traceback(log_format: str) -> None:
    output = "\n".join(lines(log_format))

    assert "hunter2" not in output
    assert "paid" in output
