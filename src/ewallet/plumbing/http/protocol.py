"""HTTP/1.1 as uvicorn speaks it, but for what is not HTTP or too much at all, and for how answers are sent."""

import asyncio
from collections.abc import Sequence
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from ewallet.kernel.clock import system_clock
from ewallet.kernel.errors import Overloaded, Reason, Refusal
from ewallet.plumbing.http.admission import Admissions
from ewallet.plumbing.http.edge import headers_of_answer, rendered, request_id
from ewallet.plumbing.http.problems import refusal_of

_NOT_HTTP = Refusal(Reason.MALFORMED_REQUEST, "This is not a valid HTTP/1.1 request.")
_OVERLOADED = refusal_of(Overloaded())
_CLOSING = (b"connection", b"close")

ADMISSION_SCOPE_KEY = "ewallet.admission"
"""In the scope of a request that was counted when it was let in."""

LARGE_BYTES = 16 * 1024
"""What is larger is sent at once: there is nothing to gain by waiting, and something to lose by keeping much."""


class ProblemProtocol(HttpToolsProtocol):
    """Answers what cannot be parsed with a problem and a request id, as everything else is answered.

    So it does with requests for which there is no room, before anything is made for them: for what uvicorn makes of a
    request, a task and what the task needs, three could be refused.
    """

    def __init__(self, admissions: Admissions, **given: Any) -> None:
        """``given`` is from uvicorn."""
        super().__init__(**given)
        self._admissions = admissions
        self.cycle = _ANSWERED

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's own
        """Begin with a connection."""
        super().connection_made(_Joining(transport))

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header without the white space behind its value, which is no part of it (RFC 9112, section 5.1)."""
        super().on_header(name, value.rstrip(b" \t"))

    def on_headers_complete(self) -> None:
        """Let a request in, or not. One that was sent before the last one was answered waits in any case."""
        self._unset_keepalive_if_required()
        admission = self._admissions.of(self.parser.get_method(), self.url)
        if admission is None or not self.cycle.response_complete:
            super().on_headers_complete()
        elif admission.has_room():
            super().on_headers_complete()
            admission.begin()
            self.scope[ADMISSION_SCOPE_KEY] = admission  # type: ignore[literal-required]  # our own key
        else:
            self._turn_away()

    def on_message_complete(self) -> None:
        """Take note of a request's end."""
        super().on_message_complete()
        if self.cycle is _ANSWERED:
            self.on_response_complete()

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002  # the name and the argument are uvicorn's
        """Answer and close."""
        self._answer(_NOT_HTTP, instance="/", headers=(), closing=True)

    def _turn_away(self) -> None:
        """Answer now. The body is still read, so that the connection can be used again, but kept nowhere."""
        self.cycle = _ANSWERED
        closing = self.expect_100_continue or not self.parser.should_keep_alive()
        path = self.url.partition(b"?")[0].decode("ascii", "replace")
        self._answer(_OVERLOADED, instance=path, headers=self.headers, closing=closing)

    def _answer(
        self, refusal: Refusal, *, instance: str, headers: Sequence[tuple[bytes, bytes]], closing: bool
    ) -> None:
        id_of_request = request_id(headers, system_clock)
        own, body = rendered(refusal, instance=instance, id_of_request=id_of_request)
        told = [*self.server_state.default_headers, *headers_of_answer(id_of_request), *own]
        if closing and _CLOSING not in told:
            told.append(_CLOSING)
        lines = b"".join(b"%b: %b\r\n" % header for header in told)
        self.transport.write(b"%b%b\r\n%b" % (STATUS_LINE[refusal.status], lines, body))
        if _CLOSING in told:
            self.transport.close()


class _Answered:
    """In the place of what uvicorn keeps of a request, where it keeps nothing: before the first, and if turned away."""

    response_complete = True
    message_event = asyncio.Event()


_ANSWERED: Any = _Answered()


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
