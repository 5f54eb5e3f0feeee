"""The HTTP ceiling: a bare ASGI application behind the same server, answering with as many bytes as a payment has."""

from typing import Any

ANSWER = b'{"transactionId":"pay_01jd8x0000000000000000000","status":"SUCCESS"' + b" " * 400 + b"}"
HEADERS = [(b"content-type", b"application/json"), (b"content-length", str(len(ANSWER)).encode("ascii"))]


async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Answer every request in the same way."""
    if scope["type"] != "http":
        return
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 201, "headers": HEADERS})
    await send({"type": "http.response.body", "body": ANSWER, "more_body": False})
