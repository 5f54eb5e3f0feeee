"""Running the platform, or one service of it, behind uvicorn."""

import asyncio
import errno
import gc
import logging
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from itertools import count
from types import FrameType
from typing import Any, Protocol

import structlog
import uvicorn
from litestar.types import ASGIApp, Receive, Send
from msgspec.structs import replace

from ewallet import __version__
from ewallet.cli.databases import migrate_all, weaknesses_found
from ewallet.cli.observing import observed
from ewallet.cli.sole_use import require_server, sole_use
from ewallet.cli.terminal import Stopped, columns, standard_output
from ewallet.cli.workers import Workers
from ewallet.plumbing.http.admission import Admissions
from ewallet.plumbing.http.operations import STOPPING_SCOPE_KEY
from ewallet.plumbing.http.protocol import ADMISSION_SCOPE_KEY, ProblemProtocol
from ewallet.plumbing.settings import SERVICES, Settings
from ewallet.plumbing.telemetry import configure_logging
from ewallet.together import create_alone, create_together

BACKLOG = 2048
"""Connections that wait to be accepted; a burst of new clients is larger than the usual 128."""

ACCEPTED_AT_ONCE = 32
"""Connections taken in one turn of the event loop. libuv takes one for each listening descriptor, so with a single one,
and turns of some hundredths of a second under load, a thousand new clients waited for up to twenty seconds."""

STOP_SECONDS = 5
"""How long requests that are under way may take to finish when no new ones are taken any more."""

LOOK_SECONDS = 0.1
"""Between looks whether a stop should wait no longer, as uvicorn's own."""

SWITCH_SECONDS = 0.0005
"""How soon a thread that computes gives up the interpreter's lock. SQLite hands the lock over once per statement: with
Python's 5 ms a batch behind a busy event loop was measured at 20 ms, with this at 3 ms."""

COLLECT_AFTER = 20_000
"""Objects made before the garbage collector looks for cycles: a batch of payments makes thousands that are all needed,
and looking at them every 700 was 4 % of the event loop's time."""

log = structlog.get_logger()


def up(settings: Settings) -> None:
    """The command `up`: everything in this process, until it is told to stop."""
    _run(settings, create_together, databases=SERVICES, program="ewallet", title=f"ewallet {__version__} is running")


def serve(settings: Settings, service: str, *, workers: int = 1) -> None:
    """The command `serve`: one service in this process, or in so many, until it is told to stop."""

    def create(settings: Settings, *, stopping: asyncio.Event) -> ASGIApp:
        return create_alone(settings, service, stopping=stopping)

    databases = [service] if service in SERVICES else []
    if workers > 1:
        require_server(settings, databases)
    title = f"ewallet {__version__}: {service} is running"
    _run(settings, create, databases=databases, program=f"ewallet-{service}", title=title, workers=workers)


class _Create(Protocol):
    """Makes the application; ``stopping`` tells its streams to end."""

    def __call__(self, settings: Settings, *, stopping: asyncio.Event) -> ASGIApp: ...


def _run(
    settings: Settings, create: _Create, *, databases: Sequence[str], program: str, title: str, workers: int = 1
) -> None:
    """Serve until told to stop. Stopped, SettingsError: why that cannot be."""
    # A service manager's SIGTERM stops as cleanly as Ctrl-C does.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    configure_logging(settings.log_level, settings.log_format)
    with _listener(settings) as listener, sole_use(settings, databases):
        migrate_all(settings, databases)
        for weakness, concerned in weaknesses_found(settings, databases).items():
            log.warning("database.weak_setting", setting=weakness, databases=concerned)

        def announce() -> None:
            _announce(settings, listener, databases, title)
            if workers > 1 and not settings.metrics_port:
                log.warning("metrics.of_one_worker", advice="EWALLET_METRICS_PORT gives each worker a port of its own")

        def work(lifeline: int | None, started: Callable[[], object]) -> None:
            with observed(settings, program=program, processes=workers):
                _serve(settings, create, listener, started=started, lifeline=lifeline)

        if workers > 1:
            Workers(work, announce=announce).run(workers)
        work(None, announce)


def _serve(
    settings: Settings,
    create: _Create,
    listener: socket.socket,
    *,
    started: Callable[[], object],
    lifeline: int | None,
) -> None:
    """Serve in this process until it is told to stop, or ``lifeline`` is at its end."""
    stopping = asyncio.Event()
    application = _Application(create(settings, stopping=stopping), stopping)
    tune_interpreter()
    config = uvicorn.Config(
        application,
        loop="uvloop",
        http=partial(ProblemProtocol, Admissions(settings.queue_milliseconds / 1000)),  # type: ignore[arg-type]  # it makes one
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # whom to believe is the gateway's decision: EWALLET_TRUSTED_PROXIES
        backlog=BACKLOG,
        timeout_graceful_shutdown=STOP_SECONDS,
    )
    server = _Server(
        config, started=started, stopping=stopping, drain_seconds=settings.drain_seconds, lifeline=lifeline
    )
    with suppress(KeyboardInterrupt, SystemExit), ExitStack() as closing:
        more = [closing.enter_context(listener.dup()) for _ in range(1, ACCEPTED_AT_ONCE)]
        server.run(sockets=[listener, *more])
    if application.failure is not None:
        raise application.failure


def tune_interpreter() -> None:
    """Set up the interpreter for serving; to be called when everything that stays is loaded."""
    sys.setswitchinterval(SWITCH_SECONDS)
    gc.collect()
    gc.freeze()
    gc.enable()  # nobody looked for garbage while all this was loaded
    gc.set_threshold(COLLECT_AFTER, 20, 20)


class _Application:
    """The application, told of each request whether the server is about to stop.

    It keeps the error with which it could not start or stop: uvicorn only logs that.
    """

    def __init__(self, application: ASGIApp, stopping: asyncio.Event) -> None:
        self._application = application
        self._stopping = stopping
        self.failure: Exception | None = None

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        if self._stopping.is_set():
            scope[STOPPING_SCOPE_KEY] = True
        try:
            await self._application(scope, receive, send)
        except Exception as error:
            if scope["type"] == "lifespan":
                self.failure = _innermost(error)
            raise
        finally:
            if (admission := scope.get(ADMISSION_SCOPE_KEY)) is not None:
                admission.end()


def _innermost(error: Exception) -> Exception:
    """The one error in the groups that Litestar's nested lifespans wrap around it."""
    while isinstance(error, ExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


class _Server(uvicorn.Server):
    """Uvicorn that tells when requests are being answered, and stops in a way in which none is lost.

    Told to stop by SIGTERM, it first answers for ``drain_seconds`` as before, but says that it is not ready and closes
    each connection behind its answer: proxies send their requests elsewhere before anything is closed in their face.
    Somebody who presses Ctrl-C, or asks twice, is waiting.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        *,
        started: Callable[[], object],
        stopping: asyncio.Event,
        drain_seconds: int,
        lifeline: int | None,
    ) -> None:
        super().__init__(config)
        self._started = started
        self._stopping = stopping
        self._drain_seconds = drain_seconds
        self._lifeline = lifeline
        self._stops_at = 0.0

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        if self._lifeline is not None:
            asyncio.get_running_loop().add_reader(self._lifeline, self._orphaned, self._lifeline)
        # What goes wrong here is told once, by whoever called us.
        logging.disable()
        try:
            await super().startup(sockets)
        finally:
            logging.disable(logging.NOTSET)
        self._started()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if sig == signal.SIGINT or self.should_exit:
            self._drain_seconds, self._stops_at = 0, 0.0
        super().handle_exit(sig, frame)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._stopping.set()
        self.config.encoded_headers.append((b"connection", b"close"))
        self._stops_at = time.monotonic() + self._drain_seconds
        for tick in count():
            await self.on_tick(tick)  # puts that header, and the date, on every answer from now on
            if time.monotonic() >= self._stops_at:
                break
            await asyncio.sleep(LOOK_SECONDS)
        await super().shutdown(sockets)

    def _orphaned(self, lifeline: int) -> None:
        """Nobody looks after us any more."""
        asyncio.get_running_loop().remove_reader(lifeline)
        self.handle_exit(signal.SIGTERM, None)


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
        # All descriptors and all workers share this flag, and Python gives a copy that of the original: a worker that
        # starts would have the others wait in accept() for a client that somebody else has taken.
        listener.settimeout(0)
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
