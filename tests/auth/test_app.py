"""Auth as it is put together: what it does by itself when it starts, and when nobody asks."""

from ewallet.auth.app import create_app
from ewallet.auth.worker import Forgetting, Recovery
from ewallet.kernel.clock import system_clock
from ewallet.plumbing.settings import Settings
from ewallet.plumbing.tokens import PublicKeys, Verifier
from tests.support.auth import INTERNAL_SECRET, Wallets, http_client, running
from tests.support.migrated import migrate


async def no_keys() -> PublicKeys:
    return {}


async def test_a_started_service_has_a_key_and_is_ready(database_url: str) -> None:
    migrate("auth", database_url)
    house = create_app(
        Settings(auth_database_url=database_url, bcrypt_cost=4),
        verifier=Verifier(no_keys, system_clock),
        internal_secret=INTERNAL_SECRET,
        wallet=Wallets(),
    )

    async with house.application.lifespan(), http_client(house.application) as http:
        assert (await http.get("/health/ready")).json() == {"status": "ready"}
        assert len((await http.get("/.well-known/jwks.json")).json()["keys"]) == 1


async def test_a_round_of_background_work_finds_nothing_when_all_is_well(sqlite_url: str) -> None:
    async with running(sqlite_url) as auth:
        await auth.logged_in()
        auth.clock.pass_seconds(60)

        assert await Recovery(auth.service).run_once() == 0
        assert await Forgetting(auth.service).run_once() == 1, "the account's count, which its login has set to zero"
        assert await Forgetting(auth.service).run_once() == 0
