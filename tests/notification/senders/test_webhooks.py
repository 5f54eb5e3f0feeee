"""One webhook on its way: what is sent, what an answer means, and what a bad receiver cannot do to us."""

import asyncio
import datetime as dt
import gzip
import ssl
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.x509.oid import NameOID

from ewallet.kernel.clock import system_clock
from ewallet.notification.domain.deliveries import Verdict
from ewallet.notification.domain.endpoints import AddressRules
from ewallet.notification.senders import Parcel
from ewallet.notification.senders import webhooks as sender_module
from ewallet.notification.senders.outside import Outside, Resolver
from ewallet.notification.senders.webhooks import WebhookSender
from ewallet.webhooks import SECRET_BYTES, new_secret, verify
from tests.notification.senders.test_outside import LOOPBACK, Names
from tests.support.receiver import Got, Receiver, answering, dripping, receiving, silent

SECRET = new_secret(b"s" * SECRET_BYTES)
PAYLOAD = '{"type":"payment.succeeded","data":{"reference":"Ærø"}}'


def parcel(url: str, event_id: str = "evt_1") -> Parcel:
    return Parcel(event_id=event_id, event="payment.succeeded", payload=PAYLOAD, address=url, secrets=(SECRET,))


@asynccontextmanager
async def sending(
    *,
    rules: AddressRules = LOOPBACK,
    names: Resolver | None = None,
    tls: ssl.SSLContext | None = None,
    per_second: int = 0,
) -> AsyncIterator[WebhookSender]:
    outside = Outside(rules, names or Names(["127.0.0.1"]))
    async with aclosing(WebhookSender(outside, per_second=per_second, clock=system_clock, tls=tls)) as sender:
        yield sender


async def test_a_webhook_arrives_as_it_was_signed() -> None:
    async with receiving() as receiver, sending() as sender:
        outcome = await sender.send(parcel(receiver.url))

        [got] = receiver.got
        assert (outcome.verdict, outcome.status) == (Verdict.TAKEN, 204)
        assert verify(got.body, got.headers, SECRET)["data"] == {"reference": "Ærø"}
        assert (got.id, got.path) == ("evt_1", "/hook")
        assert got.headers["host"] == f"127.0.0.1:{receiver.port}"
        assert got.headers["content-type"] == "application/json"


async def test_a_connection_serves_many_webhooks() -> None:
    async with receiving(answering(200, body=b"thank you")) as receiver, sending() as sender:
        for number in range(5):
            await sender.send(parcel(receiver.url, f"evt_{number}"))

        assert receiver.connections == 1


@pytest.mark.parametrize("target", ["/", "/hook;shop=1/a;b?c=d;e&f=%2F", "//hook", "/hook;", "/?a"])
async def test_a_url_arrives_as_it_was_given(target: str) -> None:
    """Parameters of a path (RFC 3986, 3.3) may be what tells one shop from another."""
    async with receiving() as receiver, sending() as sender:
        await sender.send(parcel(f"http://127.0.0.1:{receiver.port}{target}"))

    assert [got.path for got in receiver.got] == [target]


@pytest.mark.parametrize(
    ("status", "verdict"),
    [
        (200, Verdict.TAKEN),
        (299, Verdict.TAKEN),
        (400, Verdict.FAILED),
        (404, Verdict.FAILED),
        (410, Verdict.GONE),
        (429, Verdict.FAILED),
        (500, Verdict.FAILED),
        (503, Verdict.FAILED),
    ],
)
async def test_the_status_alone_decides(status: int, verdict: Verdict) -> None:
    async with receiving(answering(status, body=b"not to be shown")) as receiver, sending() as sender:
        outcome = await sender.send(parcel(receiver.url))

    assert (outcome.verdict, outcome.status) == (verdict, status)
    assert "not to be shown" not in (outcome.error or "")


async def test_a_redirect_is_a_failure_and_not_followed() -> None:
    async with receiving() as internal, sending() as sender:
        for status in (301, 302, 307, 308):
            async with receiving(answering(status, f"location: {internal.url}")) as receiver:
                outcome = await sender.send(parcel(receiver.url))
            assert (outcome.verdict, outcome.status) == (Verdict.FAILED, status)

        assert internal.got == []


async def test_an_answer_that_changes_between_check_and_connection_changes_nothing() -> None:
    """DNS rebinding: the name is public when the endpoint is made, and ours when something is sent to it."""
    names = Names(["1.1.1.1"], ["127.0.0.1"])
    async with receiving() as receiver, sending(rules=AddressRules(), names=names) as sender:
        await Outside(AddressRules(), names).addresses("shop.example", receiver.port)
        outcome = await sender.send(parcel(f"http://shop.example:{receiver.port}/hook"))

        assert outcome.verdict is Verdict.FAILED
        assert "public internet" in (outcome.error or "")
        assert receiver.connections == 0


async def test_a_connection_asks_for_the_name_once_and_goes_where_the_answer_said() -> None:
    """Who asked again to connect could be told something else."""
    names = Names(["127.0.0.1"], ["169.254.169.254"])
    async with receiving() as receiver, sending(names=names) as sender:
        outcome = await sender.send(parcel(f"http://shop.example:{receiver.port}/hook"))

        assert outcome.verdict is Verdict.TAKEN
        assert names.asked == ["shop.example"]
        assert receiver.got[0].headers["host"] == f"shop.example:{receiver.port}"


async def test_another_address_is_tried_where_the_first_one_does_not_answer() -> None:
    rules = AddressRules.parse("127.0.0.0/8")
    async with receiving() as receiver, sending(rules=rules, names=Names(["127.0.0.9", "127.0.0.1"])) as sender:
        outcome = await sender.send(parcel(f"http://shop.example:{receiver.port}/hook"))

    assert outcome.verdict is Verdict.TAKEN


async def test_tls_is_spoken_with_the_name_and_only_with_who_proves_it(tmp_path: Path) -> None:
    server, trust = certificate(tmp_path, "shop.example")
    asked: list[str | None] = []
    server.sni_callback = lambda _socket, name, _context: asked.append(name)
    async with receiving(tls=server) as receiver, sending(tls=trust) as sender:
        right = await sender.send(parcel(f"https://shop.example:{receiver.port}/hook"))
        wrong = await sender.send(parcel(f"https://other.example:{receiver.port}/hook"))

    assert right.verdict is Verdict.TAKEN
    assert wrong.verdict is Verdict.FAILED
    assert "certificate" in (wrong.error or "")
    assert asked == ["shop.example", "other.example"]
    assert len(receiver.got) == 1


async def test_nobody_there_is_a_failure_with_a_sentence() -> None:
    async with receiving() as receiver:
        url = receiver.url
    async with sending() as sender:
        outcome = await sender.send(parcel(url))

    assert outcome.verdict is Verdict.FAILED
    assert "No connection" in (outcome.error or "")


async def test_what_is_no_http_is_a_failure_with_a_sentence() -> None:
    async def rubbish(_receiver: Receiver, _got: Got, writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-2.0-OpenSSH\r\n\r\n")

    async with receiving(rubbish) as receiver, sending() as sender:
        outcome = await sender.send(parcel(receiver.url))

    assert (outcome.verdict, outcome.error) == (Verdict.FAILED, "What came back is no answer of an HTTP server.")


@pytest.mark.parametrize("behave", [silent, dripping])
async def test_who_does_not_answer_in_time_is_left(behave: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sender_module, "ANSWER_SECONDS", 0.2)
    async with receiving(behave) as receiver, sending() as sender:  # type: ignore[arg-type]  # both are of the kind
        outcome = await sender.send(parcel(receiver.url))

    assert outcome.verdict is Verdict.FAILED
    assert "no answer within" in (outcome.error or "")


async def test_an_answer_that_would_grow_or_never_end_is_cut_off_and_counts() -> None:
    """A kilobyte of gzip can be a megabyte; a body can be sent for ever. The status has been said already."""
    bomb = gzip.compress(b"\0" * 10_000_000)

    async def endless(_receiver: Receiver, _got: Got, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 1000000000\r\n\r\n" + bomb)
        while True:
            writer.write(b"x" * 65536)
            await writer.drain()

    async with receiving(endless) as receiver, sending() as sender:
        outcome = await sender.send(parcel(receiver.url))

    assert (outcome.verdict, outcome.status) == (Verdict.TAKEN, 200)


async def test_one_host_gets_so_many_calls_at_once_and_others_do_not_wait_for_it() -> None:
    async with receiving(silent) as slow, receiving() as quick, sending() as sender:
        waiting = [asyncio.create_task(sender.send(parcel(slow.url, f"evt_{number}"))) for number in range(50)]
        await slow.wait_for(sender_module.CALLS_PER_HOST)

        outcome = await sender.send(parcel(quick.url))

        assert outcome.verdict is Verdict.TAKEN
        assert len(slow.got) == sender_module.CALLS_PER_HOST
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)


async def test_one_host_gets_so_many_calls_a_second() -> None:
    async with receiving() as receiver, sending(per_second=50) as sender:
        began = asyncio.get_running_loop().time()
        await asyncio.gather(*(sender.send(parcel(receiver.url, f"evt_{number}")) for number in range(11)))

        assert asyncio.get_running_loop().time() - began >= 10 / 50


def certificate(folder: Path, name: str) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """What a server shows for a name, and what believes it."""
    key = generate_private_key(SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(hours=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.DNSName(name), x509.IPAddress(ip_address("192.0.2.1"))]), critical=False
        )
        .sign(key, hashes.SHA256())
    )
    public = made.public_bytes(serialization.Encoding.PEM)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    file = folder / "server.pem"
    file.write_bytes(private + public)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(file)
    return server, ssl.create_default_context(cadata=public.decode())
