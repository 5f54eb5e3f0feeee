"""Passwords hashed with bcrypt, beside the event loop and never by more threads than the machine can spare.

bcrypt reads 72 bytes and stops at the first NUL. So it is not given the password but the base64 of an HMAC-SHA-256 of
it: 44 characters, none of them NUL, that depend on all of a password of any length. The HMAC's key is no secret; it
makes our digests different from the plain SHA-256 of the same password that some other site may have leaked.
"""

import asyncio
import base64
import hmac
import os
import unicodedata
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import bcrypt

from ewallet.kernel.errors import Overloaded
from ewallet.plumbing.cores import roam

Result = TypeVar("Result")

_CONTEXT = b"ewallet password 1"
_DIGEST_LENGTH = 31

THREADS = max(1, (os.cpu_count() or 1) // 2)
"""Half of the cores at most: people who log in must not stop people who pay. bcrypt runs without the interpreter's
lock, so these threads really are other cores."""

WAITING_ROUNDS_PER_THREAD = 128_000
"""Bounds the wait: a core does some 16,000 rounds of bcrypt a second, and a client waits ten seconds at most."""


class PasswordHasher:
    """Hashes passwords with 2^``cost`` rounds. Take a :meth:`place` first, before anything that costs."""

    def __init__(self, cost: int) -> None:
        self._cost = cost
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="passwords", initializer=roam)
        self._pending = 0
        self._maximum_pending = THREADS * max(1, WAITING_ROUNDS_PER_THREAD // 2**cost)
        # Costs as much to check as a real one. That some password has this digest is as likely as guessing a key.
        self._nobody = bcrypt.gensalt(cost) + b"." * _DIGEST_LENGTH

    @contextmanager
    def place(self) -> Iterator[None]:
        """A place in the queue for what is done inside. Overloaded: too many wait already; nothing was begun."""
        if self._pending >= self._maximum_pending:
            raise Overloaded("too many passwords wait to be checked")
        self._pending += 1
        try:
            yield
        finally:
            self._pending -= 1

    async def hash(self, password: str) -> str:
        """A new salted hash, 60 ASCII characters."""
        hashed = await self._run(lambda: bcrypt.hashpw(_digest(password), bcrypt.gensalt(self._cost)))
        return hashed.decode("ascii")

    async def matches(self, password: str, hashed: str | None) -> bool:
        """Whether the password belongs to the hash. Without a hash the answer is no, after the same amount of work."""
        expected = self._nobody if hashed is None else hashed.encode("ascii")
        matched = await self._run(lambda: bcrypt.checkpw(_digest(password), expected))
        return matched and hashed is not None

    def is_outdated(self, hashed: str) -> bool:
        """Whether a hash was made with another cost than new ones are: checking it takes another time, which shows."""
        _, _, cost, _ = hashed.split("$")
        return int(cost) != self._cost

    def close(self) -> None:
        """Finish what is under way and stop the threads."""
        self._threads.shutdown()

    async def _run(self, work: Callable[[], Result]) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)


def _digest(password: str) -> bytes:
    """What bcrypt is given. Normalised (NFKC), because keyboards write the same letter in different ways."""
    normalised = unicodedata.normalize("NFKC", password).encode()
    return base64.b64encode(hmac.digest(_CONTEXT, normalised, "sha256"))
