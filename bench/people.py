"""Customers with money and merchants to pay, made through the public API."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2

from bench.platform import ADMIN_EMAIL, ADMIN_PASSWORD

PASSWORD = "a bench person's password"
FUNDS = 10**12


class People:
    """A client of one running platform; ``pairs`` are (access token of a customer, id of a merchant)."""

    def __init__(self, base_url: str, *, customers: int, merchants: int) -> None:
        self._client = httpx2.Client(base_url=base_url, timeout=30, trust_env=False)
        admin = self._login(ADMIN_EMAIL, ADMIN_PASSWORD)
        with ThreadPoolExecutor(16) as pool:
            sellers = list(pool.map(lambda n: self._register(f"merchant{n}", "MERCHANT"), range(merchants)))
            payers = list(pool.map(lambda n: self._funded_customer(n, admin), range(customers)))
        self.pairs = [(token, sellers[n % merchants]) for n, token in enumerate(payers)]

    def _funded_customer(self, number: int, admin: str) -> str:
        user = self._register(f"customer{number}", "CUSTOMER")
        credit = {"customerId": user, "amount": FUNDS, "currency": "USD", "reference": f"funds-{number}"}
        self._post("/wallet/credit", credit, admin)
        return self._login(f"customer{number}@example.test", PASSWORD)

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
