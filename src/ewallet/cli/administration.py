"""What an operator does to auth directly, beside its API: administrators, keys, and the demo's own back end."""

import asyncio
import sys
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import typer

from ewallet.auth.messages import ClientCredentials
from ewallet.auth.service import AuthService
from ewallet.cli.databases import migrate_all, opened
from ewallet.cli.terminal import Stopped, standard_output
from ewallet.kernel.caller import Caller, Role
from ewallet.kernel.clock import system_clock
from ewallet.kernel.errors import InvariantBroken, Refusal
from ewallet.kernel.ids import new_id
from ewallet.plumbing.settings import Settings
from ewallet.plumbing.tokens import PublicKeys, Verifier
from ewallet.wallet.messages import CreditOrder, CreditOutcome, GroupOrder, GroupOutcome, OpenWallet

Answer = TypeVar("Answer")


def create_admin(settings: Settings, email: str) -> None:
    """The command `create-admin`. The settings' password is the settings' administrator's, nobody else's."""
    if not email and not settings.admin_email:
        raise Stopped("Whose? Give an e-mail address, or set EWALLET_ADMIN_EMAIL and EWALLET_ADMIN_PASSWORD.")
    password = _password() if email else settings.admin_password
    migrate_all(settings, ["auth"])
    email = email or settings.admin_email
    admin = _with_auth(settings, lambda auth: auth.create_admin(_operator(), email=email, password=password))
    standard_output().print(f"{admin.email} is an administrator now, with the id {admin.user_id}.", soft_wrap=True)


def rotate_key(settings: Settings) -> None:
    """The command `rotate-key`."""
    key_id = _with_auth(settings, lambda auth: auth.rotate_key(_operator()))
    standard_output().print(f"Access tokens will be signed with the key {key_id}.", soft_wrap=True)


def throw_away_client(settings: Settings, name: str) -> ClientCredentials:
    """A service client, made in the database of a platform on this machine."""
    return _with_auth(settings, lambda auth: auth.create_client(_operator(), name))


def _with_auth(settings: Settings, use_case: Callable[[AuthService], Awaitable[Answer | Refusal]]) -> Answer:
    """Run one use case of auth on its database; a refusal is Stopped."""

    async def run() -> Answer | Refusal:
        async def fetch_keys() -> PublicKeys:
            return await auth.public_keys()

        with opened(settings, "auth") as database:
            verifier = Verifier(fetch_keys, system_clock)
            auth = AuthService(database, settings=settings, wallet=_NoWallets(), verifier=verifier, clock=system_clock)
            try:
                return await use_case(auth)
            finally:
                auth.close()

    answer = asyncio.run(run())
    if isinstance(answer, Refusal):
        raise Stopped(answer.detail)
    return answer


class _NoWallets:
    """The wallet's door, shut: nobody whom the command line makes has a wallet."""

    async def open_wallet(self, order: OpenWallet) -> None:
        raise InvariantBroken(f"the command line opens no wallet for {order.owner}")

    async def post_group(self, order: GroupOrder) -> GroupOutcome:
        raise InvariantBroken(f"the command line moves no money for {order.id}")

    try_group = abandon_group = post_group

    async def post_linked(self, orders: Sequence[GroupOrder]) -> Sequence[GroupOutcome]:
        raise InvariantBroken(f"the command line moves no money for {orders}")

    async def book_credit(self, order: CreditOrder) -> CreditOutcome:
        raise InvariantBroken(f"the command line credits nobody for {order.id}")


def _operator() -> Caller:
    """Whoever may use the command line may do everything; the audit names the door that they came through."""
    return Caller("service:command-line", Role.SERVICE, new_id("req", system_clock()))


def _password() -> str:
    """Typed twice on a terminal, else the first line of standard input."""
    if sys.stdin.isatty():
        typed: str = typer.prompt("Password", hide_input=True, confirmation_prompt=True)
        return typed
    return sys.stdin.readline().rstrip("\n")
