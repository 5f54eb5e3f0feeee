"""`ewallet haproxy-config` beside a running platform, and HAProxy with what it printed."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from tests.cli.conftest import Run
from tests.servers.haproxy import running_haproxy
from tests.support.platform import People, Platform, payment, platform
from tests.support.ports import free_port

SERVICE_URLS = ("AUTH_URL", "WALLET_URL", "PAYMENT_URL", "NOTIFICATION_URL")


@pytest.fixture(scope="module")
def running(scratch: Path) -> Iterator[Platform]:
    """Start a platform for this file; its one process is every service."""
    with tempfile.TemporaryDirectory(dir=scratch) as folder, platform("together", {}, Path(folder)) as made:
        made.start()
        yield made
        made.stop()


def test_people_pay_through_haproxy_with_the_configuration_that_is_printed(
    run: Run, running: Platform, tmp_path: Path
) -> None:
    port = free_port()
    urls = dict.fromkeys(SERVICE_URLS, running.address)

    printed = run(
        "haproxy-config", "--pages", running.address, "--keys", str(tmp_path / "keys"), PORT=str(port), **urls
    )

    assert printed.status == 0, printed.err
    file = tmp_path / "haproxy.cfg"
    file.write_text(printed.out)
    with running_haproxy(file), httpx2.Client(timeout=30, trust_env=False) as http:
        people = People(f"http://127.0.0.1:{port}", http)
        customer, merchant = people.customer(with_amount=50_00), people.merchant()
        paid = customer.answer("POST", "/payment/initiate", payment(merchant, 12_50))
        assert (paid["status"], customer.available()) == ("SUCCESS", 37_50)
        assert http.get(f"{people.address}/docs").status_code == 200


def test_keys_of_before_stay_for_a_haproxy_that_is_started_again(run: Run, running: Platform, tmp_path: Path) -> None:
    (tmp_path / "older.pem").write_text("a key")

    printed = run(
        *("haproxy-config", "--pages", running.address, "--keys", str(tmp_path)),
        **dict.fromkeys(SERVICE_URLS, running.address),
    )

    key_files = {file.name for file in tmp_path.iterdir() if file.suffix == ".pem"}
    assert len(key_files) == 2
    assert str(tmp_path / (key_files - {"older.pem"}).pop()) in printed.out
    assert "older" not in printed.out


@pytest.mark.parametrize(
    ("changed", "complaint"),
    [
        ({"AUTH_URL": ""}, "EWALLET_AUTH_URL is needed"),
        ({"WALLET_URL": "https://127.0.0.1:1"}, "EWALLET_WALLET_URL must look like http://host:port for HAProxy."),
        (
            {"WALLET_URL": "http://127.0.0.1:1/wallet"},
            "EWALLET_WALLET_URL must look like http://host:port for HAProxy.",
        ),
        ({"AUTH_URL": "http://127.0.0.1:9"}, "Auth does not tell its keys"),
    ],
)
def test_why_there_is_no_configuration_is_one_sentence(
    run: Run, tmp_path: Path, changed: dict[str, str], complaint: str
) -> None:
    urls = dict.fromkeys(SERVICE_URLS, "http://127.0.0.1:9") | changed

    refused = run("haproxy-config", "--pages", "http://127.0.0.1:9", "--keys", str(tmp_path / "keys"), **urls)

    assert refused.status in (1, 2)
    assert complaint in refused.err
    assert refused.out == ""
    assert not (tmp_path / "keys").exists()


def test_keys_that_cannot_be_written_are_told(run: Run, running: Platform, tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("no folder")

    refused = run(
        *("haproxy-config", "--pages", running.address, "--keys", str(tmp_path / "keys")),
        **dict.fromkeys(SERVICE_URLS, running.address),
    )

    assert (refused.status, refused.out) == (1, "")
    assert "cannot be written to" in refused.err


def test_with_a_certificate_haproxy_speaks_tls(run: Run, running: Platform, tmp_path: Path) -> None:
    files = ("--keys", str(tmp_path), "--certificate", "/etc/ssl/ewallet.pem")

    printed = run(
        *("haproxy-config", "--pages", running.address, *files), **dict.fromkeys(SERVICE_URLS, running.address)
    )

    assert "bind 127.0.0.1:8080 ssl crt /etc/ssl/ewallet.pem alpn h2,http/1.1 ssl-min-ver TLSv1.2\n" in printed.out
