"""Customers with money and merchants to pay, made through the public API."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2

from bench.load import Request
from bench.platform import ADMIN_EMAIL, ADMIN_PASSWORD

PASSWORD = "a bench person's password"
FUNDS = 10**12


class People:
    """The people of one running platform, and what they ask of it."""

    def __init__(self, base_url: str, *, customers: int, merchants: int) -> None:
        self._client = httpx2.Client(base_url=base_url, timeout=30, trust_env=False)
        admin = self._login(ADMIN_EMAIL, ADMIN_PASSWORD)
        with ThreadPoolExecutor(16) as pool:
            self.merchants = list(pool.map(lambda n: self._register(f"merchant{n}", "MERCHANT"), range(merchants)))
            self._customers = list(pool.map(lambda n: self._funded_customer(n, admin), range(customers)))

    def payments(self, *, merchants: int | None = None) -> list[Request]:
        """A payment of every customer, spread over all merchants, or over the first few."""
        sellers = self.merchants[:merchants]
        return [
            payment_to(sellers[number % len(sellers)], token=token) for number, (_, token) in enumerate(self._customers)
        ]

    def looks(self) -> list[Request]:
        """Every customer's look at the own wallet."""
        return [Request("GET", f"/wallet/{customer}", token) for customer, token in self._customers]

    def tokens(self) -> list[str]:
        """Every customer's access token."""
        return [token for _, token in self._customers]

    def want_webhooks(self, urls: Sequence[str]) -> None:
        """Each merchant is told of payments at one of these URLs."""
        for number, url in enumerate(urls):
            token = self._login(f"merchant{number}@example.test", PASSWORD)
            self._post("/notification/webhooks", {"url": url, "events": ["payment.succeeded"]}, token)

    def _funded_customer(self, number: int, admin: str) -> tuple[str, str]:
        """Id and access token."""
        user = self._register(f"customer{number}", "CUSTOMER")
        credit = {"customerId": user, "amount": FUNDS, "currency": "USD", "reference": f"funds-{number}"}
        self._post("/wallet/credit", credit, admin)
        return user, self._login(f"customer{number}@example.test", PASSWORD)

    def _register(self, name: str, role: str) -> str:
        body = {"email": f"{name}@example.test", "password": PASSWORD, "fullName": name, "role": role}
        return str(self._post("/auth/register", body)["userId"])

    def _login(self, email: str, password: str) -> str:
        return str(self._post("/auth/login", {"email": email, "password": password})["accessToken"])

    def _post(self, path: str, body: dict[str, Any], token: str | None = None) -> dict[str, Any]:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        response = self._client.post(path, json=body, headers=headers)
        response.raise_for_status()
        answer: dict[str, Any] = response.json()
        return answer


def payment_to(merchant: str, *, token: str) -> Request:
    """A small payment."""
    body = f'{{"merchantId":"{merchant}","amount":1250,"currency":"USD","reference":"bench"}}'
    return Request("POST", "/payment/initiate", token, body)
