"""HTTP/1.1 as uvicorn speaks it, but for what is not HTTP at all."""

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from ewallet.kernel.clock import system_clock
from ewallet.kernel.errors import Reason, Refusal
from ewallet.kernel.ids import new_id
from ewallet.plumbing.http.problems import MEDIA_TYPE, problem
from ewallet.plumbing.json import encode

_NOT_HTTP = Refusal(Reason.MALFORMED_REQUEST, "This is not a valid HTTP/1.1 request.")


class ProblemProtocol(HttpToolsProtocol):
    """Answers what cannot be parsed with a problem and a request id, as everything else is answered."""

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
