"""HTTP/1.1 as uvicorn speaks it, but for what is not HTTP at all, and for how answers are sent."""

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from ewallet.kernel.clock import system_clock
from ewallet.kernel.errors import Reason, Refusal
from ewallet.kernel.ids import new_id
from ewallet.plumbing.http.problems import MEDIA_TYPE, problem
from ewallet.plumbing.json import encode

_NOT_HTTP = Refusal(Reason.MALFORMED_REQUEST, "This is not a valid HTTP/1.1 request.")


LARGE_BYTES = 16 * 1024
"""What is larger is sent at once: there is nothing to gain by waiting, and something to lose by keeping much."""


class ProblemProtocol(HttpToolsProtocol):
    """Answers what cannot be parsed with a problem and a request id, as everything else is answered."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's own
        """Begin with a connection."""
        super().connection_made(_Joining(transport))

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002  # the name and the argument are uvicorn's
        """Answer and close."""
        request_id = new_id("req", system_clock())
        body = encode(problem(_NOT_HTTP, instance="/", request_id=request_id))
        head = (
            "HTTP/1.1 400 Bad Request\r\n"
            f"content-type: {MEDIA_TYPE}\r\n"
            f"content-length: {len(body)}\r\n"
            f"x-request-id: {request_id}\r\n"
            "connection: close\r\n\r\n"
        )
        self.transport.write(head.encode("ascii") + body)
        self.transport.close()


class _Joining(asyncio.Transport):
    """A transport that sends what is written in one turn of the event loop in one piece.

    uvicorn writes the head and the body of an answer one after the other, and uvloop would send each at once: two
    system calls, each of which wakes the client.
    """

    def __init__(self, transport: asyncio.Transport) -> None:
        super().__init__()
        self._transport = transport
        self._loop = asyncio.get_running_loop()
        self._pieces: list[bytes] = []
        self.get_extra_info = transport.get_extra_info  # type: ignore[method-assign]  # as it is
        self.is_closing = transport.is_closing  # type: ignore[method-assign]  # as it is
        self.pause_reading = transport.pause_reading  # type: ignore[method-assign]  # as it is
        self.resume_reading = transport.resume_reading  # type: ignore[method-assign]  # as it is

    def write(self, data: Any) -> None:
        """Send it at the end of this turn, with whatever comes until then."""
        if not self._pieces:
            self._loop.call_soon(self._flush)
        self._pieces.append(data)
        if len(data) > LARGE_BYTES:
            self._flush()

    def close(self) -> None:
        """Send what is left, and close."""
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        pieces, self._pieces = self._pieces, []
        if pieces and not self._transport.is_closing():
            self._transport.write(b"".join(pieces))
