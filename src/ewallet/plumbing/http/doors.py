"""Calls to a service that runs in another process.

What is not a clear answer is :class:`OutcomeUnknown`: a time-out, a reset, a 5xx. The callers of a door repeat such a
call with the same ids (DESIGN section 5, rule 3).
"""

from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

import httpx2
import msgspec
from opentelemetry.trace import SpanKind

from ewallet.kernel.clock import MICROSECONDS_PER_SECOND, Clock
from ewallet.kernel.errors import InvariantBroken, OutcomeUnknown, Overloaded, Reason
from ewallet.plumbing import failpoints, tracing
from ewallet.plumbing.database import StorageUnavailable
from ewallet.plumbing.http.edge import MAXIMUM_BODY_BYTES
from ewallet.plumbing.json import encode
from ewallet.plumbing.tokens import INTERNAL_SECONDS, sign_internal

Answer = TypeVar("Answer")

TIMEOUT_SECONDS = 5.0
CONNECTIONS = 64

ENVELOPE_BYTES = 64
"""Room for what a body has around its list."""


class Door:
    """HTTP calls from one service (``caller``) to another at ``url``."""

    def __init__(self, url: str, *, caller: str, secret: str, clock: Clock) -> None:
        self._caller = caller
        self._secret = secret
        self._clock = clock
        self._token = ""
        self._token_expires = 0
        limits = httpx2.Limits(max_connections=CONNECTIONS, max_keepalive_connections=CONNECTIONS)
        self._client = httpx2.AsyncClient(base_url=url, timeout=TIMEOUT_SECONDS, limits=limits, trust_env=False)

    async def post(self, path: str, body: Any, answer_type: type[Answer], *, request_id: str) -> Answer:
        """POST a struct to an internal endpoint and decode its answer.

        OutcomeUnknown: no clear answer came; StorageUnavailable: the other side's disk fails. Overloaded: it refused
        before beginning.
        """
        with tracing.span(self._caller, f"POST {path}", kind=SpanKind.CLIENT):
            headers = {
                "Authorization": f"Bearer {self._current_token()}",
                "Content-Type": "application/json",
                "X-Request-Id": request_id,
                **tracing.headers(),
            }
            return await self._answer("POST", path, answer_type, content=encode(body), headers=headers)

    async def get(self, path: str, answer_type: type[Answer]) -> Answer:
        """GET a public document of the other service."""
        return await self._answer("GET", path, answer_type)

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def _answer(self, method: str, path: str, answer_type: type[Answer], **request: Any) -> Answer:
        try:
            failpoints.reached("door.call.before", path)
            response = await self._client.request(method, path, **request)
            failpoints.reached("door.call.after", path)
        except httpx2.ConnectError as error:
            raise Overloaded(f"{self._client.base_url}: no connection") from error
        except httpx2.HTTPError as error:
            raise OutcomeUnknown(f"{method} {path}: {type(error).__name__}") from error
        if response.status_code == httpx2.codes.SERVICE_UNAVAILABLE:
            if f"/problems/{Reason.STORAGE_UNAVAILABLE.value}" in response.text:
                raise StorageUnavailable(f"{method} {path}: the other side can store nothing")
            raise Overloaded(f"{method} {path}: the service is not available")
        if response.status_code >= httpx2.codes.INTERNAL_SERVER_ERROR:
            raise OutcomeUnknown(f"{method} {path}: status {response.status_code}")
        if not response.is_success:
            raise InvariantBroken(f"{method} {path}: a sister service answered {response.status_code}: {response.text}")
        return msgspec.json.decode(response.content, type=answer_type)

    def _current_token(self) -> str:
        now = self._clock()
        if now >= self._token_expires:
            self._token = sign_internal(self._caller, self._secret, self._clock)
            self._token_expires = now + INTERNAL_SECONDS * MICROSECONDS_PER_SECOND // 2
        return self._token


def chunks(items: Iterable[Any]) -> Iterator[list[msgspec.Raw]]:
    """The items as JSON, in their order, as many at a time as a service takes in one body."""
    chunk: list[msgspec.Raw] = []
    size = ENVELOPE_BYTES
    for item in items:
        encoded = encode(item)
        if chunk and size + len(encoded) + 1 > MAXIMUM_BODY_BYTES:
            yield chunk
            chunk, size = [], ENVELOPE_BYTES
        chunk.append(msgspec.Raw(encoded))
        size += len(encoded) + 1
    if chunk:
        yield chunk
