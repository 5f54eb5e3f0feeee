"""The platform as real processes on real ports, and people who use it as clients do."""

import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias, TypeVar

import httpx2

from tests.support.ports import free_port

Way: TypeAlias = Literal["together", "apart", "doubled"]
"""One process for everything, five that talk HTTP, or two of each of those, which need databases on a server."""

SERVICES = ("auth", "wallet", "payment", "notification", "gateway")
PRODUCT = (sys.executable, "-m", "ewallet")
START_SECONDS = 60  # it takes two; a busy machine may take many
STOP_SECONDS = 20
ADMIN_EMAIL = "admin@example.com"
ADMIN_PASSWORD = "orchard-lantern-42"

Found = TypeVar("Found")


@dataclass
class Process:
    """One `ewallet` process, its log in a file."""

    command: tuple[str, ...]
    environment: Mapping[str, str]
    log: Path
    launcher: Sequence[str] = PRODUCT
    _process: subprocess.Popen[bytes] | None = field(default=None, init=False)

    def start(self) -> None:
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [*self.launcher, *self.command], env=self.environment, stdout=log, stderr=log
            )

    @property
    def id(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def processor_seconds(self) -> float:
        """What it has computed so far, which other programs of a busy machine make no longer."""
        fields = Path(f"/proc/{self.id}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.environment['EWALLET_PORT']}"

    @property
    def ready(self) -> bool:
        """Whether it says that it can work, and a gateway, that somebody of every service does."""
        try:
            return httpx2.get(f"{self.address}/health/ready", trust_env=False).is_success
        except httpx2.HTTPError:
            return False

    def signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def exit_status(self) -> int:
        assert self._process is not None
        return self._process.wait(STOP_SECONDS)

    def kill(self) -> None:
        """As a power cut would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()


@dataclass
class Platform:
    """A platform that can be started, stopped and killed; its data outlive it."""

    way: Way
    address: str
    environment: Mapping[str, str]
    processes: Mapping[str, Process]

    def start(self) -> None:
        """Start every process and wait until requests are answered."""
        for process in self.processes.values():
            process.start()
        wait_until(self._ready, START_SECONDS, lambda: f"the platform is not ready\n{self.logs()}")

    def restart(self, name: str) -> None:
        """Start one process again that was killed."""
        self.processes[name].start()
        wait_until(self._ready, START_SECONDS, lambda: f"the platform is not ready\n{self.logs()}")

    def stop(self, number: signal.Signals = signal.SIGINT) -> None:
        """Press Ctrl-C, or send another signal that asks to stop; every process must end well."""
        for process in self.processes.values():
            process.signal(number)
        statuses = {name: process.exit_status() for name, process in self.processes.items()}
        assert set(statuses.values()) == {0}, f"exit statuses {statuses}\n{self.logs()}"

    def kill(self) -> None:
        for process in self.processes.values():
            process.kill()

    def logs(self) -> str:
        return "\n".join(f"--- {name}\n{process.log.read_text()}" for name, process in self.processes.items())

    def run(self, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run another `ewallet` command with the same settings."""
        return run_command(*command, environment={**self.environment, **environment})

    def _ready(self) -> bool:
        for name, process in self.processes.items():
            assert process.running, f"{name} has ended\n{self.logs()}"
        return all(process.ready for process in self.processes.values())


@contextmanager
def platform(
    way: Way, databases: Mapping[str, str], folder: Path, *, launcher: Sequence[str] = PRODUCT, **settings: str
) -> Iterator[Platform]:
    """A platform that is not started yet; whatever runs at the end is killed."""
    common = {
        "EWALLET_BCRYPT_COST": "4",
        "EWALLET_RATE_PER_USER": "0",
        "EWALLET_RATE_PER_ADDRESS": "0",
        "EWALLET_ADMIN_EMAIL": ADMIN_EMAIL,
        "EWALLET_ADMIN_PASSWORD": ADMIN_PASSWORD,
        "EWALLET_DATA": str(folder / "data"),
        "EWALLET_LOG_LEVEL": "warning",
        **{f"EWALLET_{service.upper()}_DATABASE_URL": url for service, url in databases.items()},
        **settings,
    }
    made = _together(common, folder, launcher) if way == "together" else _apart(way, common, folder, launcher)
    with ExitStack() as cleanup:
        for process in made.processes.values():
            cleanup.callback(process.kill)
        yield made


def _together(common: Mapping[str, str], folder: Path, launcher: Sequence[str]) -> Platform:
    port = free_port()
    environment = clean_environment(EWALLET_PORT=str(port), **common)
    processes = {"ewallet": Process(("up",), environment, folder / "ewallet.log", launcher)}
    return Platform("together", f"http://127.0.0.1:{port}", environment, processes)


def _apart(way: Way, common: Mapping[str, str], folder: Path, launcher: Sequence[str]) -> Platform:
    copies = ("", "-2") if way == "doubled" else ("",)
    ports = {f"{service}{copy}": free_port() for service in SERVICES for copy in copies}
    addresses = {
        f"EWALLET_{service.upper()}_URL": ",".join(f"http://127.0.0.1:{ports[service + copy]}" for copy in copies)
        for service in SERVICES
        if service != "gateway"
    }
    shared = {**common, **addresses, "EWALLET_INTERNAL_SECRET": secrets.token_urlsafe(32)}
    processes = {
        name: Process(
            ("serve", name.partition("-")[0]),
            clean_environment(EWALLET_PORT=str(port), **shared),
            folder / f"{name}.log",
            launcher,
        )
        for name, port in ports.items()
    }
    gateway = processes["gateway"]
    return Platform(way, gateway.address, gateway.environment, processes)


def clean_environment(**settings: str) -> dict[str, str]:
    """This process's environment without its own settings of the product, plus the given ones."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("EWALLET_")}
    return {**inherited, **settings}


def run_command(
    *command: str, environment: Mapping[str, str], standard_input: str = ""
) -> subprocess.CompletedProcess[str]:
    """Run `ewallet COMMAND` to its end."""
    return subprocess.run(
        [*PRODUCT, *command],
        env=environment,
        input=standard_input,
        capture_output=True,
        text=True,
        timeout=START_SECONDS,
        check=False,
    )


def wait_until(
    look: Callable[[], Found], seconds: float, otherwise: str | Callable[[], str], *, pause_seconds: float = 0.02
) -> Found:
    """Look again and again until something true is found."""
    deadline = time.monotonic() + seconds
    while not (found := look()):
        if time.monotonic() > deadline:
            raise AssertionError(otherwise if isinstance(otherwise, str) else otherwise())
        time.sleep(pause_seconds)
    return found


# --- people -------------------------------------------------------------------------------------------------------


@dataclass
class User:
    """Somebody who uses the platform through its gateway."""

    address: str
    user_id: str
    email: str
    password: str
    token: str
    http: httpx2.Client

    def call(self, method: str, path: str, body: Any = None, **headers: str) -> httpx2.Response:
        sent = {"Authorization": f"Bearer {self.token}"} | {
            name.replace("_", "-"): value for name, value in headers.items()
        }
        return self.http.request(method, f"{self.address}{path}", json=body, headers=sent)

    def get(self, path: str, **headers: str) -> httpx2.Response:
        return self.call("GET", path, **headers)

    def post(self, path: str, body: Any = None, **headers: str) -> httpx2.Response:
        return self.call("POST", path, body, **headers)

    def answer(self, method: str, path: str, body: Any = None, **headers: str) -> Any:
        """The JSON of a call that must succeed."""
        response = self.call(method, path, body, **headers)
        assert response.is_success, f"{method} {path}: {response.status_code} {response.text}"
        return response.json() if response.content else None

    def available(self, currency: str = "USD") -> int:
        return self._balance(currency, "available")

    def held(self, currency: str = "USD") -> int:
        return self._balance(currency, "held")

    def _balance(self, currency: str, member: str) -> int:
        wallet = self.answer("GET", f"/wallet/{self.user_id}")
        by_currency: dict[str, int] = {balance["currency"]: balance[member] for balance in wallet["balances"]}
        return by_currency[currency]

    def inbox(self) -> list[dict[str, Any]]:
        items: list[dict[str, Any]] = self.answer("GET", "/notification?limit=100")["items"]
        return items

    def notified_of(self, *events: str) -> list[dict[str, Any]]:
        """Wait until exactly these events are in the inbox, oldest first; the items."""

        def look() -> list[dict[str, Any]]:
            items = self.inbox()[::-1]
            return items if len(items) >= len(events) else []

        items = wait_until(look, 10, lambda: f"{self.user_id} has only {self.inbox()}")
        assert [item["event"] for item in items] == list(events)
        return items


class People:
    """Makes users of one platform."""

    def __init__(self, address: str, http: httpx2.Client) -> None:
        self.address = address
        self.http = http

    def customer(self, *, with_amount: int = 0) -> User:
        """A new customer, credited with an amount of US cents."""
        user = self._register("CUSTOMER")
        if with_amount:
            self.credit(user, with_amount)
        return user

    def merchant(self) -> User:
        return self._register("MERCHANT")

    def admin(self) -> User:
        return self.log_in("", ADMIN_EMAIL, ADMIN_PASSWORD)

    def credit(self, user: User, amount: int, currency: str = "USD") -> Any:
        order = {
            "customerId": user.user_id,
            "amount": amount,
            "currency": currency,
            "reference": secrets.token_hex(8),
        }
        return self.admin().answer("POST", "/wallet/credit", order)

    def log_in(self, user_id: str, email: str, password: str) -> User:
        session = self.http.post(f"{self.address}/auth/login", json={"email": email, "password": password})
        assert session.status_code == 200, session.text
        return User(self.address, user_id, email, password, session.json()["accessToken"], self.http)

    def _register(self, role: str) -> User:
        email, password = f"{secrets.token_hex(8)}@example.com", secrets.token_urlsafe(16)
        body = {"email": email, "password": password, "fullName": f"A {role.lower()}", "role": role}
        registered = self.http.post(f"{self.address}/auth/register", json=body)
        assert registered.status_code == 201, registered.text
        return self.log_in(registered.json()["userId"], email, password)


def payment(merchant: User, amount: int, **more: Any) -> dict[str, Any]:
    """The body of a payment in US cents."""
    return {"merchantId": merchant.user_id, "amount": amount, "currency": "USD", **more}
