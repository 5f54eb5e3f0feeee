"""The example in the repository does what it tells merchants to do."""

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

import ewallet
from ewallet.webhooks import SECRET_BYTES, new_secret, signed
from tests.support.platform import clean_environment, wait_until
from tests.support.ports import free_port

EXAMPLE = Path(ewallet.__file__).parents[2] / "examples" / "webhook_receiver.py"
SECRET = new_secret(b"s" * SECRET_BYTES)
BODY = b'{"type":"payment.succeeded","data":{"transactionId":"pay_1","reference":"o-1","amount":5,"currency":"USD"}}'


@pytest.fixture
def example(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """The running example: its address, and what it prints."""
    port, output = free_port(), tmp_path / "output"
    environment = clean_environment() | {"WEBHOOK_SECRET": SECRET, "PORT": str(port)}
    with output.open("wb") as printed:
        process = subprocess.Popen([sys.executable, EXAMPLE], env=environment, stdout=printed, stderr=printed)
    try:
        wait_until(lambda: "listening" in output.read_text(), 20, output.read_text)
        yield f"http://127.0.0.1:{port}", output
    finally:
        process.kill()
        process.wait()


def test_an_event_is_worked_on_once_and_a_forged_one_never(example: tuple[str, Path]) -> None:
    address, output = example
    headers = signed(BODY, message_id="evt_1", timestamp=int(time.time()), secrets=(SECRET,))
    with httpx2.Client(trust_env=False) as http:
        answers = [
            http.post(address, content=body, headers=headers) for body in (BODY, BODY, BODY.replace(b"5", b"500"))
        ]

    assert [answer.status_code for answer in answers] == [204, 204, 400]
    wait_until(lambda: "payment" in output.read_text(), 20, output.read_text)
    assert output.read_text().splitlines()[1:] == ["payment.succeeded pay_1 o-1 5 minor units of USD"]


def test_without_a_secret_it_says_what_is_missing() -> None:
    ended = subprocess.run(
        [sys.executable, EXAMPLE], env=clean_environment(), capture_output=True, text=True, check=False
    )

    assert ended.returncode == 1
    assert "WEBHOOK_SECRET" in ended.stderr
