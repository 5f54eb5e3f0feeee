"""A merchant's server that takes webhooks: check the signature, remember the id, answer, and only then work.

    EWALLET_WEBHOOK_ALLOWED_ADDRESSES=127.0.0.1/32 make run        # lets webhooks come to this machine
    WEBHOOK_SECRET=whsec_… python examples/webhook_receiver.py     # the secret of `POST /notification/webhooks`

It listens on http://127.0.0.1:9000, or on the port in PORT, and prints what comes. Standard library only; with any
web framework the three lines around ``verify`` stay the same, as long as they get the body as it came, not parsed.
"""

import os
import sys
from collections import OrderedDict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock
from typing import Any

from ewallet.webhooks import ID_HEADER, WebhookInvalid, verify

SECRET = os.environ.get("WEBHOOK_SECRET", "")
REMEMBERED_IDS = 10_000  # a real shop has them in its database, in the transaction of what it does because of an event
MAXIMUM_BODY_BYTES = 256 * 1024

_seen: OrderedDict[str, None] = OrderedDict()
_lock = Lock()


class Receiver(BaseHTTPRequestHandler):
    """Answers POST requests."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:  # the name is http.server's
        """Take one webhook."""
        body = self.rfile.read(min(int(self.headers.get("Content-Length", 0)), MAXIMUM_BODY_BYTES))
        try:
            event = verify(body, dict(self.headers), SECRET)
        except WebhookInvalid as error:
            self._answer(400, str(error))
            return
        self._answer(204)
        if _is_new(self.headers[ID_HEADER]):
            work_on(event)

    def _answer(self, status: int, text: str = "") -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(text.encode())))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_arguments: Any) -> None:
        """Only events are printed."""


def work_on(event: dict[str, Any]) -> None:
    """What the shop does because of an event: here it prints it."""
    data = event["data"]
    amount = f"{data['amount']} minor units of {data['currency']}" if "amount" in data else ""
    print(event["type"], data.get("transactionId", ""), data.get("reference") or "", amount, flush=True)


def _is_new(event_id: str) -> bool:
    """Whether this is the first time that an event comes: it may come again, always with the same id."""
    with _lock:
        if event_id in _seen:
            return False
        _seen[event_id] = None
        if len(_seen) > REMEMBERED_IDS:
            _seen.popitem(last=False)
        return True


if __name__ == "__main__":
    if not SECRET:
        sys.exit("WEBHOOK_SECRET is missing: it is the `secret` that POST /notification/webhooks has answered.")
    server = ThreadingHTTPServer(("127.0.0.1", int(os.environ.get("PORT", "9000"))), Receiver)
    print(f"listening on http://127.0.0.1:{server.server_port}", flush=True)
    server.serve_forever()
