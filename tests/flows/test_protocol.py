"""What is not HTTP is answered like everything else: by a problem with a request id."""

import json
import socket
from urllib.parse import urlsplit

import pytest

from tests.support.platform import Platform


@pytest.mark.parametrize(
    "sent",
    [
        b"no http at all\r\n\r\n",
        b"GET /auth/me HTTP/1.1\r\nHost: x\r\nno colon here\r\n\r\n",
        b"POST /auth/login HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n{}",
    ],
    ids=["noise", "a header without a colon", "two lengths"],
)
def test_what_cannot_be_parsed_is_a_problem_with_a_request_id(running: Platform, sent: bytes) -> None:
    address = urlsplit(running.address)
    with socket.create_connection((address.hostname, address.port), timeout=5) as connection:
        connection.sendall(sent)
        answer = b"".join(iter(lambda: connection.recv(4096), b""))

    head, _, body = answer.partition(b"\r\n\r\n")
    document = json.loads(body)
    assert head.startswith(b"HTTP/1.1 400")
    assert b"application/problem+json" in head
    assert (document["type"], document["status"]) == ("/problems/malformed-request", 400)
    assert document["requestId"].encode() in head


def test_white_space_behind_a_header_is_no_part_of_it(running: Platform) -> None:
    """Over HTTP it could not be passed on to a service."""
    address = urlsplit(running.address)
    with socket.create_connection((address.hostname, address.port), timeout=5) as connection:
        request = "GET /.well-known/jwks.json HTTP/1.1", "Host: x ", "X-Request-Id: mine \t", "Connection: close"
        connection.sendall("\r\n".join([*request, "", ""]).encode())
        head, _, _ = b"".join(iter(lambda: connection.recv(4096), b"")).partition(b"\r\n\r\n")

    assert head.startswith(b"HTTP/1.1 200")
    assert b"x-request-id: mine" in head.lower().splitlines()


def test_an_answer_comes_in_one_piece(running: Platform) -> None:
    """Head and body sent apart are two system calls, each of which wakes the client."""
    address = urlsplit(running.address)
    with socket.create_connection((address.hostname, address.port), timeout=5) as connection:
        connection.sendall(b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n")
        answer = connection.recv(4096)

    assert answer.endswith(b'{"status":"live"}')


def test_a_large_answer_is_complete(running: Platform) -> None:
    address = urlsplit(running.address)
    with socket.create_connection((address.hostname, address.port), timeout=5) as connection:
        connection.sendall(b"GET /docs/swagger-ui-bundle.js HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        head, _, body = b"".join(iter(lambda: connection.recv(65536), b"")).partition(b"\r\n\r\n")

    assert f"content-length: {len(body)}".encode() in head
