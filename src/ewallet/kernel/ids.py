"""Identifiers: opaque, readable by their prefix, ordered by time, impossible to guess.

The body is a ULID in lower case: 48 bits of milliseconds and 80 random bits in Crockford's base 32, 26 characters.
A *derived* identifier keeps the time of the one it comes from and replaces the randomness by a hash, so a step that
is repeated after a crash names the same thing again (DESIGN section 5, rule 2).
"""

import hashlib
import os
import re
from collections.abc import Callable
from functools import lru_cache

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_PAIRS = [first + second for first in _ALPHABET for second in _ALPHABET]
_PAIR_SHIFTS = range(70, -1, -10)  # where in 80 bits the ten of each pair are
_TIME_BYTES = 10  # two zeros in front of the 48 bits make 16 digits, of which the last ten are the time
_TIME_LENGTH = 10
_RANDOM_BYTES = 10
_DIGEST_BYTES = 8  # 16 hexadecimal digits, all of which are letters of the alphabet above

ID_PATTERN = r"^[a-z]{3}_[0-9a-hjkmnp-tv-z]{26}$"
_ID = re.compile(ID_PATTERN)

RandomBytes = Callable[[int], bytes]


def new_id(prefix: str, now: int, random_bytes: RandomBytes = os.urandom) -> str:
    """A fresh identifier, for example ``pay_01jd8x…``; ``now`` in microseconds since the epoch."""
    return f"{prefix}_{_time_part(now // 1000)}{_base32(random_bytes(_RANDOM_BYTES))}"


def derived_id(prefix: str, source: str, label: str) -> str:
    """The identifier that ``label`` always has for ``source``: same time part, hash instead of randomness."""
    time_part = source[4 : 4 + _TIME_LENGTH]
    digest = hashlib.blake2b(f"{prefix}\0{source}\0{label}".encode(), digest_size=_DIGEST_BYTES)
    return f"{prefix}_{time_part}{digest.hexdigest()}"


def is_id(text: str, prefix: str) -> bool:
    """Whether the text could be an identifier with that prefix; says nothing about whether it exists."""
    return _ID.match(text) is not None and text.startswith(prefix + "_")


@lru_cache(maxsize=64)
def _time_part(milliseconds: int) -> str:
    """The first ten digits; on a busy platform many identifiers are made in one millisecond."""
    return _base32(milliseconds.to_bytes(_TIME_BYTES, "big"))[-_TIME_LENGTH:]


def _base32(ten_bytes: bytes) -> str:
    """Sixteen digits of Crockford's base 32, two at a time: twice as fast as translating those of ``base64``."""
    number = int.from_bytes(ten_bytes, "big")
    return "".join([_PAIRS[number >> shift & 1023] for shift in _PAIR_SHIFTS])
