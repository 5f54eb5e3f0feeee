"""Both doors to auth give the same keys, and these keys check its tokens."""

from collections.abc import AsyncIterator

import pytest

from ewallet.auth.client import AuthClient, HttpAuth
from ewallet.auth.messages import JsonWebKey
from ewallet.kernel.clock import system_clock
from ewallet.plumbing.http.doors import Door
from ewallet.plumbing.tokens import Verifier
from tests.support.auth import ADMIN, INTERNAL_SECRET, Auth, running


@pytest.fixture
async def auth(sqlite_url: str) -> AsyncIterator[Auth]:
    async with running(sqlite_url) as running_auth:
        yield running_auth


@pytest.fixture(params=["direct", "http"])
async def client(request: pytest.FixtureRequest, auth: Auth) -> AsyncIterator[AuthClient]:
    if request.param == "direct":
        yield auth.service
    else:
        door = Door("http://auth", caller="payment", secret=INTERNAL_SECRET, clock=system_clock)
        await door._client.aclose()
        door._client = auth.http
        yield HttpAuth(door)


async def test_the_keys_check_the_tokens_that_auth_signs_before_and_after_a_rotation(
    auth: Auth, client: AuthClient
) -> None:
    before = (await auth.logged_in()).access_token
    await auth.service.rotate_key(ADMIN)
    auth.clock.pass_seconds(10)
    after = (await auth.logged_in()).access_token

    assert len(await client.public_keys()) == 2
    verifier = Verifier(client.public_keys, auth.clock)
    assert await verifier.verify(before) is not None
    assert await verifier.verify(after) is not None


async def test_a_key_survives_the_wire(auth: Auth) -> None:
    for kid, key in (await auth.service.public_keys()).items():
        assert JsonWebKey.of(kid, key).public_key() == key


async def test_a_key_off_the_curve_is_no_key() -> None:
    with pytest.raises(ValueError, match="curve"):
        JsonWebKey(kid="forged", x="AQ", y="AQ").public_key()
