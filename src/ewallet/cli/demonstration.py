"""The command `demo`: payments, told as a story, against a running platform and through its public API only."""

import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import httpx2

from ewallet.cli.administration import throw_away_client
from ewallet.cli.terminal import Stopped, columns, standard_output
from ewallet.kernel.money import Money
from ewallet.plumbing.settings import Settings

CURRENCY = "USD"
CREDITED = Money(100_00, CURRENCY)
PAID = Money(12_50, CURRENCY)
HELD = Money(40_00, CURRENCY)
CAPTURED = Money(30_00, CURRENCY)
REFUNDED = Money(10_00, CURRENCY)
TOO_MUCH = Money(500_00, CURRENCY)

TIMEOUT_SECONDS = 15.0
"""Longer than the gateway takes to give up, so that its own answer is seen."""

NOTIFIED_SECONDS = 5.0
"""Notifications follow a payment within a moment; after this long they are missing."""


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody who registered for the demo and has logged in."""

    name: str
    role: str
    user_id: str
    email: str
    token: str


class Platform:
    """The running platform, as a client sees it."""

    def __init__(self, address: str, http: httpx2.Client) -> None:
        self._address = address
        self._http = http

    def call(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, *, token: str = ""
    ) -> httpx2.Response:
        """Make a call, whatever its answer; Stopped where there is none."""
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        return self._send(method, path, json=body, headers=headers)

    def ask(self, method: str, path: str, body: Mapping[str, Any] | None = None, *, token: str = "") -> Any:
        """Make a call that must succeed; Stopped, with the problem's own words, where it does not."""
        return self._expect_success(self.call(method, path, body, token=token))

    def service_token(self, client_id: str, client_secret: str) -> str:
        """The access token of a back end."""
        form = {"grant_type": "client_credentials"}
        response = self._send("POST", "/auth/token", data=form, auth=(client_id, client_secret))
        token: str = self._expect_success(response)["access_token"]
        return token

    def _send(self, method: str, path: str, **request: Any) -> httpx2.Response:
        try:
            return self._http.request(method, path, **request)
        except httpx2.ConnectError as error:
            raise Stopped(
                f"No platform answers at {self._address}: start it with `make run` (or `ewallet up`) in another "
                "terminal, or name its address with --url."
            ) from error
        except httpx2.HTTPError as error:
            raise Stopped(f"{method} {self._address}{path} failed: {type(error).__name__}.") from error

    def _expect_success(self, response: httpx2.Response) -> Any:
        if not response.is_success:
            raise Stopped(f"{response.request.method} {response.url} was answered {_problem_of(response)}")
        return response.json()


def demonstrate(settings: Settings, url: str) -> None:
    """Run the demo; Stopped at the first step that does not go as it should."""
    address = url.rstrip("/") or settings.gateway_url
    with httpx2.Client(base_url=address, timeout=TIMEOUT_SECONDS, trust_env=False) as http:
        _tell(Platform(address, http), settings)


def _tell(platform: Platform, settings: Settings) -> None:
    ada, bookshop = _register_both(platform)
    staff_token = _staff_token(platform, settings)
    _credit(platform, ada, staff_token)
    _pay(platform, ada, bookshop)
    _pay_too_much(platform, ada, bookshop)
    held_id = _hold(platform, ada, bookshop)
    _capture(platform, bookshop, held_id)
    _refund(platform, bookshop, held_id)
    _show_balances(platform, ada, bookshop)
    _show_inboxes(platform, ada, bookshop)


def _register_both(platform: Platform) -> tuple[Person, Person]:
    _heading("Two people register; each gets a wallet")
    ada = _register(platform, "Ada Reader", "ada", "CUSTOMER")
    bookshop = _register(platform, "Corner Bookshop", "bookshop", "MERCHANT")
    table = columns("name", "role", "id", "e-mail")
    for person in (ada, bookshop):
        table.add_row(person.name, person.role, person.user_id, person.email)
    standard_output().print(table)
    return ada, bookshop


def _register(platform: Platform, name: str, mailbox: str, role: str) -> Person:
    email = f"{mailbox}.{secrets.token_hex(4)}@example.com"
    password = secrets.token_urlsafe(16)
    user = platform.ask(
        "POST",
        "/auth/register",
        {"email": email, "password": password, "fullName": name, "role": role, "currency": CURRENCY},
    )
    session = platform.ask("POST", "/auth/login", {"email": email, "password": password})
    return Person(name, role, user["userId"], email, session["accessToken"])


def _staff_token(platform: Platform, settings: Settings) -> str:
    """Crediting needs a member of staff: the administrator of the settings, or a back end made for the occasion."""
    _heading(f"Ada's wallet is credited with {CREDITED}")
    if settings.admin_email:
        _note(f"by the administrator {settings.admin_email}")
        credentials = {"email": settings.admin_email, "password": settings.admin_password}
        token: str = platform.ask("POST", "/auth/login", credentials)["accessToken"]
        return token
    client = throw_away_client(settings, "demo")
    _note(f"by the service client {client.client_id}, made for this demo in the data folder of the platform")
    return platform.service_token(client.client_id, client.client_secret)


def _credit(platform: Platform, ada: Person, staff_token: str) -> None:
    order = {
        "customerId": ada.user_id,
        "amount": CREDITED.amount,
        "currency": CURRENCY,
        "reference": f"demo-{secrets.token_hex(4)}",
        "description": "Welcome",
    }
    transfer = platform.ask("POST", "/wallet/credit", order, token=staff_token)
    _facts(transfer=transfer["transferId"], credited=_amount(transfer), available=_amount(transfer, "available"))


def _pay(platform: Platform, ada: Person, bookshop: Person) -> None:
    _heading(f"Ada pays the bookshop {PAID}")
    payment = platform.ask("POST", "/payment/initiate", _order(bookshop, PAID, "order-1001"), token=ada.token)
    _facts(
        payment=payment["transactionId"],
        status=payment["status"],
        reference=payment["reference"],
        amount=f"{_amount(payment)}   leaves Ada's wallet",
        fee=f"{_amount(payment, 'fee')}   stays with the platform",
        net=f"{_amount(payment, 'netAmount')}   reaches the bookshop",
    )


def _pay_too_much(platform: Platform, ada: Person, bookshop: Person) -> None:
    _heading(f"Ada tries to pay {TOO_MUCH}, which she does not have")
    response = platform.call("POST", "/payment/initiate", _order(bookshop, TOO_MUCH, "order-1002"), token=ada.token)
    if response.status_code != httpx2.codes.PAYMENT_REQUIRED:
        raise Stopped(f"The payment should have been refused, but was answered {_problem_of(response)}")
    problem = response.json()
    saved = platform.ask("GET", f"/payment/{problem['transactionId']}", token=ada.token)
    _facts(
        answer=f"{response.status_code} {problem['type']}",
        title=problem["title"],
        detail=problem["detail"],
        payment=problem["transactionId"],
        status=f"{saved['status']}   {saved['failureReason']}, kept for both to see",
    )


def _hold(platform: Platform, ada: Person, bookshop: Person) -> str:
    """The id of the payment whose money is held."""
    _heading(f"Ada orders books that are not in stock: {HELD} are held")
    order = _order(bookshop, HELD, "order-1003") | {"capture": False}
    payment = platform.ask("POST", "/payment/initiate", order, token=ada.token)
    _facts(
        payment=payment["transactionId"],
        status=payment["status"],
        held=f"{_amount(payment)}   still Ada's, but not available to her",
    )
    payment_id: str = payment["transactionId"]
    return payment_id


def _capture(platform: Platform, bookshop: Person, payment_id: str) -> None:
    _heading(f"The bookshop captures {CAPTURED}: one book is out of print")
    body = {"amount": CAPTURED.amount}
    payment = platform.ask("POST", f"/payment/{payment_id}/capture", body, token=bookshop.token)
    _facts(
        status=payment["status"],
        held=_amount(payment, "authorizedAmount"),
        captured=f"{_amount(payment)}   leaves Ada's wallet, the rest is released",
        net=f"{_amount(payment, 'netAmount')}   reaches the bookshop",
    )


def _refund(platform: Platform, bookshop: Person, payment_id: str) -> None:
    _heading(f"The bookshop refunds {REFUNDED}: one book is damaged")
    body = {"amount": REFUNDED.amount, "reason": "A damaged book"}
    refund = platform.ask("POST", f"/payment/{payment_id}/refund", body, token=bookshop.token)
    payment = platform.ask("GET", f"/payment/{payment_id}", token=bookshop.token)
    _facts(
        refund=refund["refundId"],
        status=refund["status"],
        amount=f"{_amount(refund)}   back in Ada's wallet",
        payment=f"{payment['status']}   {_amount(payment, 'refundedAmount')} of {_amount(payment)}",
    )


def _order(merchant: Person, money: Money, reference: str) -> dict[str, Any]:
    return {
        "merchantId": merchant.user_id,
        "amount": money.amount,
        "currency": money.currency,
        "reference": reference,
        "description": "Books",
    }


def _show_balances(platform: Platform, *people: Person) -> None:
    _heading("Balances")
    table = columns("name", "available", "held", right=("available", "held"))
    for person in people:
        wallet = platform.ask("GET", f"/wallet/{person.user_id}", token=person.token)
        for balance in wallet["balances"]:
            table.add_row(person.name, _amount(balance, "available"), _amount(balance, "held"))
    standard_output().print(table)


def _show_inboxes(platform: Platform, ada: Person, bookshop: Person) -> None:
    for person, expected in ((ada, 6), (bookshop, 5)):
        _heading(f"Inbox of {person.name}")
        table = columns("event", "title", "body")
        for item in reversed(_inbox(platform, person, expected)):
            table.add_row(item["event"], item["title"], item["body"])
        standard_output().print(table)


def _inbox(platform: Platform, person: Person, expected: int) -> list[dict[str, Any]]:
    """Everything in somebody's inbox, once as much as expected is there."""

    def read() -> list[dict[str, Any]] | None:
        items: list[dict[str, Any]] = platform.ask("GET", "/notification", token=person.token)["items"]
        return items if len(items) >= expected else None

    items = _wait_for(read, NOTIFIED_SECONDS)
    if items is None:
        raise Stopped(f"{person.name} was not notified within {NOTIFIED_SECONDS:.0f} seconds.")
    return items


def _wait_for(look: Callable[[], list[dict[str, Any]] | None], seconds: float) -> list[dict[str, Any]] | None:
    deadline = time.monotonic() + seconds
    while (found := look()) is None and time.monotonic() < deadline:
        time.sleep(0.05)
    return found


# --- showing ------------------------------------------------------------------------------------------------------


def _heading(text: str) -> None:
    standard_output().print(f"\n{text}", style="bold", markup=False)


def _note(text: str) -> None:
    standard_output().print(text, style="dim", markup=False, soft_wrap=True)


def _facts(**facts: str) -> None:
    table = columns("", "")
    table.show_header = False
    for name, value in facts.items():
        table.add_row(name, value)
    standard_output().print(table)


def _amount(thing: Mapping[str, Any], member: str = "amount") -> str:
    return str(Money(thing[member], thing["currency"]))


def _problem_of(response: httpx2.Response) -> str:
    """``409 email-taken: …``, or what there is where the answer is no problem document."""
    try:
        problem = response.json()
        return f"{response.status_code} {problem['type']}: {problem['detail']} (request {problem['requestId']})"
    except (ValueError, KeyError, TypeError):
        return f"{response.status_code}."
