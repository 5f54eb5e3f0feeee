"""Identifiers: opaque, readable by their prefix, ordered by time, impossible to guess.

The body is a ULID in lower case: 48 bits of milliseconds and 80 random bits in Crockford's base 32, 26 characters.
A *derived* identifier keeps the time of the one it comes from and replaces the randomness by a hash, so a step that
is repeated after a crash names the same thing again (DESIGN section 5, rule 2).
"""

import hashlib
import re
import secrets
from collections.abc import Callable

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_PAIRS = [first + second for first in _ALPHABET for second in _ALPHABET]
_TIME_LENGTH = 10
_RANDOM_BYTES = 10
_DIGEST_BYTES = 8  # 16 hexadecimal digits, all of which are letters of the alphabet above

ID_PATTERN = r"^[a-z]{3}_[0-9a-hjkmnp-tv-z]{26}$"
_ID = re.compile(ID_PATTERN)

RandomBytes = Callable[[int], bytes]


def new_id(prefix: str, now: int, random_bytes: RandomBytes = secrets.token_bytes) -> str:
    """A fresh identifier, for example ``pay_01jd8x…``; ``now`` in microseconds since the epoch."""
    milliseconds = now // 1000
    randomness = int.from_bytes(random_bytes(_RANDOM_BYTES), "big")
    return f"{prefix}_{_base32(milliseconds, _TIME_LENGTH)}{_base32(randomness, 16)}"


def derived_id(prefix: str, source: str, label: str) -> str:
    """The identifier that ``label`` always has for ``source``: same time part, hash instead of randomness."""
    time_part = source[4 : 4 + _TIME_LENGTH]
    digest = hashlib.blake2b(f"{prefix}\0{source}\0{label}".encode(), digest_size=_DIGEST_BYTES)
    return f"{prefix}_{time_part}{digest.hexdigest()}"


def is_id(text: str, prefix: str) -> bool:
    """Whether the text could be an identifier with that prefix; says nothing about whether it exists."""
    return _ID.match(text) is not None and text.startswith(prefix + "_")


def _base32(number: int, length: int) -> str:
    """``number`` in exactly ``length`` digits; two digits at a time, because this runs on every payment."""
    digits = []
    for _ in range(length // 2):
        number, pair = divmod(number, 1024)
        digits.append(_PAIRS[pair])
    return "".join(reversed(digits))
