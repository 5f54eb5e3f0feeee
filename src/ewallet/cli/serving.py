"""Running the platform, or one service of it, behind uvicorn."""

import asyncio
import errno
import gc
import logging
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Protocol

import structlog
import uvicorn
from litestar.types import ASGIApp, Receive, Send
from msgspec.structs import replace

from ewallet import __version__
from ewallet.cli.databases import migrate_all, weaknesses_found
from ewallet.cli.terminal import Stopped, columns, standard_output
from ewallet.plumbing.http.protocol import ProblemProtocol
from ewallet.plumbing.settings import SERVICES, Settings
from ewallet.plumbing.telemetry import configure_logging
from ewallet.together import create_alone, create_together

BACKLOG = 2048
"""Connections that wait to be accepted; a burst of new clients is larger than the usual 128."""

STOP_SECONDS = 5
"""How long requests that are under way may take to finish after Ctrl-C."""

SWITCH_SECONDS = 0.0005
"""How soon a thread that computes gives up the interpreter's lock. SQLite hands the lock over once per statement: with
Python's 5 ms a batch behind a busy event loop was measured at 20 ms, with this at 3 ms."""

COLLECT_AFTER = 20_000
"""Objects made before the garbage collector looks for cycles: a batch of payments makes thousands that are all needed,
and looking at them every 700 was 4 % of the event loop's time."""

log = structlog.get_logger()


def up(settings: Settings) -> None:
    """The command `up`: everything in this process, until it is told to stop."""
    _run(settings, create_together, databases=SERVICES, title=f"ewallet {__version__} is running")


def serve(settings: Settings, service: str) -> None:
    """The command `serve`: one service in this process, until it is told to stop."""

    def create(settings: Settings, *, stopping: asyncio.Event) -> ASGIApp:
        return create_alone(settings, service, stopping=stopping)

    own_database = [service] if service in SERVICES else []
    _run(settings, create, databases=own_database, title=f"ewallet {__version__}: {service} is running")


class _Create(Protocol):
    """Makes the application; ``stopping`` tells its streams to end."""

    def __call__(self, settings: Settings, *, stopping: asyncio.Event) -> ASGIApp: ...


def _run(settings: Settings, create: _Create, *, databases: Sequence[str], title: str) -> None:
    """Serve until Ctrl-C. Stopped, SettingsError: why that cannot be."""
    # A service manager's SIGTERM stops as cleanly as Ctrl-C does.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    configure_logging(settings.log_level, settings.log_format)
    with _listener(settings) as listener:
        migrate_all(settings, databases)
        for weakness, concerned in weaknesses_found(settings, databases).items():
            log.warning("database.weak_setting", setting=weakness, databases=concerned)
        stopping = asyncio.Event()
        application = _Application(create(settings, stopping=stopping))
        tune_interpreter()
        config = uvicorn.Config(
            application,
            loop="uvloop",
            http=ProblemProtocol,
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,  # whom to believe is the gateway's decision: EWALLET_TRUSTED_PROXIES
            backlog=BACKLOG,
            timeout_graceful_shutdown=STOP_SECONDS,
        )
        server = _Server(config, started=lambda: _announce(settings, listener, databases, title), stopping=stopping)
        with suppress(KeyboardInterrupt, SystemExit):
            server.run(sockets=[listener])
    if application.failure is not None:
        raise application.failure


def tune_interpreter() -> None:
    """Set up the interpreter for serving; to be called when everything that stays is loaded."""
    sys.setswitchinterval(SWITCH_SECONDS)
    gc.collect()
    gc.freeze()
    gc.set_threshold(COLLECT_AFTER, 20, 20)


class _Application:
    """The application, keeping the error with which it could not start or stop: uvicorn only logs that."""

    def __init__(self, application: ASGIApp) -> None:
        self._application = application
        self.failure: Exception | None = None

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        try:
            await self._application(scope, receive, send)
        except Exception as error:
            if scope["type"] == "lifespan":
                self.failure = _innermost(error)
            raise


def _innermost(error: Exception) -> Exception:
    """The one error in the groups that Litestar's nested lifespans wrap around it."""
    while isinstance(error, ExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


class _Server(uvicorn.Server):
    """Uvicorn that tells when requests are being answered, and its application when no more will be."""

    def __init__(self, config: uvicorn.Config, *, started: Callable[[], None], stopping: asyncio.Event) -> None:
        super().__init__(config)
        self._started = started
        self._stopping = stopping

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        # What goes wrong here is told once, by whoever called us.
        logging.disable()
        try:
            await super().startup(sockets)
        finally:
            logging.disable(logging.NOTSET)
        self._started()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._stopping.set()
        await super().shutdown(sockets)


def _listener(settings: Settings) -> socket.socket:
    """A socket of our address, taken before anything else, so that a second start fails before it touches the data.

    It listens at once: two processes may bind one address as long as neither listens. Who connects while we start
    waits for the answer.
    """
    listener = socket.socket(socket.AF_INET6 if ":" in settings.host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.host, settings.port))
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise Stopped(_why_not_listening(settings, error)) from error
    return listener


def _why_not_listening(settings: Settings, error: OSError) -> str:
    match error.errno:
        case errno.EADDRINUSE:
            return (
                f"Port {settings.port} of {settings.host} is in use, perhaps by an ewallet that is already running: "
                "stop it, or choose another port with EWALLET_PORT."
            )
        case errno.EACCES:
            return f"Port {settings.port} needs more rights than you have: choose one over 1023 with EWALLET_PORT."
        case _:
            return f"EWALLET_HOST is wrong: {settings.host} is no address of this machine ({error.strerror})."


def _program() -> str:
    """What to type to run us again: the path, where we are not on the PATH of a shell."""
    return sys.argv[0] if sys.argv[0].endswith("/ewallet") else "ewallet"


def _announce(settings: Settings, listener: socket.socket, databases: Sequence[str], title: str) -> None:
    """Say where everything is."""
    address = replace(settings, port=listener.getsockname()[1]).gateway_url  # port 0 means any free one
    lines = columns("", "")
    lines.show_header = False
    lines.add_row("API", address)
    if tuple(databases) == SERVICES:
        lines.add_row("docs", f"{address}/docs")
        lines.add_row("health", f"{address}/health/ready")
        lines.add_row("demo", f"{_program()} demo, in another terminal")
    lines.add_row("data", str(settings.data_folder.absolute()))
    lines.add_row("stop", "Ctrl-C")
    output = standard_output()
    output.print(f"\n[bold green]{title}[/]\n")
    output.print(lines)
    output.print()
