"""Events to merchants' servers, signed as the Standard Webhooks specification says (``ewallet/webhooks.py``)."""

import asyncio
import ssl
from contextlib import suppress
from functools import cached_property
from urllib.parse import urlsplit

import httpcore2

from ewallet import __version__, webhooks
from ewallet.kernel.clock import MICROSECONDS_PER_SECOND, Clock
from ewallet.notification.domain.deliveries import Outcome, Verdict
from ewallet.notification.senders import Parcel
from ewallet.notification.senders.hosts import Hosts
from ewallet.notification.senders.outside import AddressForbidden, Outside, OutsideNetwork

ANSWER_SECONDS = 10
"""From the first look at the name to the answer's status: who needs longer should answer first and work later."""

REST_SECONDS = 1
REST_BYTES = 64 * 1024
"""For the rest of an answer, which is thrown away: a connection whose answer is read to its end can be used again."""

CALLS_PER_HOST = 32
CALLS_AT_ONCE = 1000

POOLS = 64
"""For every call a pool looks at each of its connections: a hundred in one cost as much as the rest of a delivery."""

KEPT_CONNECTIONS = 16
"""In each pool: as many as one receiver is sent at once."""

KEPT_SECONDS = 30

GONE = 410
"""Standard Webhooks: the receiver wants nothing any more."""


class WebhookSender:
    """Posts events. ``tls`` is for tests: whom to trust, where not those whom the system trusts."""

    def __init__(self, outside: Outside, *, per_second: int, clock: Clock, tls: ssl.SSLContext | None = None) -> None:
        self._outside = outside
        self._hosts = Hosts(at_once=CALLS_PER_HOST, per_second=per_second)
        self._turns = asyncio.Semaphore(CALLS_AT_ONCE)
        self._clock = clock
        self._tls = tls

    async def send(self, parcel: Parcel) -> Outcome:
        """Post one event and look at the status alone: nothing of what a receiver says is kept or shown."""
        async with self._hosts.turn(urlsplit(parcel.address).netloc), self._turns:
            try:
                async with asyncio.timeout(ANSWER_SECONDS):
                    return _outcome(await self._post(parcel))
            except TimeoutError:
                return Outcome(Verdict.FAILED, error=f"There was no answer within {ANSWER_SECONDS} s.")
            except AddressForbidden:
                return Outcome(Verdict.FAILED, error="The host has an address that is not on the public internet.")
            except (httpcore2.NetworkError, httpcore2.ProtocolError, httpcore2.TimeoutException, ssl.SSLError) as error:
                return Outcome(Verdict.FAILED, error=_FAILURES.get(type(error), _NO_ANSWER))

    async def _post(self, parcel: Parcel) -> int:
        """The status of the answer."""
        body = parcel.payload.encode()
        headers = {
            "Content-Type": "application/json",
            "User-Agent": f"ewallet/{__version__}",
            "Accept-Encoding": "identity",
            **webhooks.signed(
                body,
                message_id=parcel.event_id,
                timestamp=self._clock() // MICROSECONDS_PER_SECOND,
                secrets=parcel.secrets,
            ),
        }
        url = _url(parcel.address)
        pool = self._pools[hash((url.host, url.port)) % POOLS]
        async with pool.stream("POST", url, headers=list(headers.items()), content=body) as answer:
            await _read_rest(answer)
            return answer.status

    async def aclose(self) -> None:
        """Close the connections that are kept."""
        for pool in self._pools:
            await pool.aclose()

    @cached_property
    def _pools(self) -> list[httpcore2.AsyncConnectionPool]:
        """Made when the first webhook is sent: reading whom to trust takes time and memory."""
        tls, network = self._tls or httpcore2.default_ssl_context(), OutsideNetwork(self._outside)
        return [
            httpcore2.AsyncConnectionPool(
                ssl_context=tls,
                max_connections=None,  # calls are bounded, and whoever waits for a turn has not failed yet
                max_keepalive_connections=KEPT_CONNECTIONS,
                keepalive_expiry=KEPT_SECONDS,
                network_backend=network,
            )
            for _ in range(POOLS)
        ]


def _url(address: str) -> httpcore2.URL:
    """An endpoint's URL in parts: read from a string, httpcore2 forgets what a path has behind a semicolon."""
    parts = urlsplit(address)
    target = f"{parts.path or '/'}{'?' if parts.query else ''}{parts.query}"
    return httpcore2.URL(scheme=parts.scheme, host=parts.hostname or "", port=parts.port, target=target)


_NO_ANSWER = "The connection broke before there was an answer."
_FAILURES: dict[type[Exception], str] = {
    httpcore2.ConnectError: "No connection could be made: the name, the port or the certificate may be wrong.",
    httpcore2.RemoteProtocolError: "What came back is no answer of an HTTP server.",
}


async def _read_rest(answer: httpcore2.Response) -> None:
    """Read a short answer to its end, raw, so that no compressed one can grow; a long or slow one is cut off."""
    length = 0
    with suppress(TimeoutError, httpcore2.NetworkError, httpcore2.ProtocolError):
        async with asyncio.timeout(REST_SECONDS):
            async for part in answer.aiter_stream():
                length += len(part)
                if length > REST_BYTES:
                    return


def _outcome(status: int) -> Outcome:
    if 200 <= status < 300:
        return Outcome(Verdict.TAKEN, status)
    if status == GONE:
        return Outcome(Verdict.GONE, status, "The receiver answered that it wants nothing any more (410).")
    return Outcome(Verdict.FAILED, status, f"The receiver answered {status}.")
