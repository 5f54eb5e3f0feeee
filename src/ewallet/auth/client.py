"""The only door to auth for other services and processes: the keys with which they check tokens themselves."""

from typing import Protocol

from ewallet.auth.messages import JsonWebKeySet
from ewallet.plumbing.http.doors import Door
from ewallet.plumbing.tokens import PublicKeys

KEYS_PATH = "/.well-known/jwks.json"


class AuthClient(Protocol):
    """What others may ask of auth. OutcomeUnknown, Overloaded: auth does not answer; ask again."""

    async def public_keys(self) -> PublicKeys:
        """The keys of every access token that is still valid, by key id."""


class HttpAuth:
    """Auth in another process."""

    def __init__(self, door: Door) -> None:
        self._door = door

    async def public_keys(self) -> PublicKeys:
        """Fetched on every call: a verifier asks only when it meets a key that it does not know."""
        key_set = await self._door.get(KEYS_PATH, JsonWebKeySet)
        return {key.kid: key.public_key() for key in key_set.keys}
