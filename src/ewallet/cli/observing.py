"""What a process shows its operators while it serves: its metrics on a port of their own, its traces."""

import errno
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from threading import Thread
from wsgiref.simple_server import WSGIServer

from prometheus_client import start_http_server

from ewallet.cli.terminal import Stopped
from ewallet.plumbing.settings import Settings


@contextmanager
def observed(settings: Settings, *, program: str, processes: int) -> Iterator[None]:
    """Show what the settings ask for until the block is left; ``processes`` do so side by side."""
    with ExitStack() as shown:
        if settings.metrics_port:
            shown.enter_context(_metrics(settings, processes))
        if settings.otlp_url:
            # Ten packages that nobody needs without a collector.
            from ewallet.plumbing.exporting import exported_traces  # noqa: PLC0415  # loaded only where it is wanted

            shown.enter_context(exported_traces(settings.otlp_url, percent=settings.trace_percent, name=program))
        yield


@contextmanager
def _metrics(settings: Settings, processes: int) -> Iterator[None]:
    """Serve ``/metrics`` in a thread, which answers also when everything else hangs.

    Each of several processes takes the first port that is free; who replaces one that died finds that one's.
    """
    server, thread = _served(settings.host, range(settings.metrics_port, settings.metrics_port + processes))
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _served(host: str, ports: range) -> tuple[WSGIServer, Thread]:
    for port in ports:
        try:
            return start_http_server(port, host)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise Stopped(f"EWALLET_METRICS_PORT is wrong: {port} cannot be used ({error.strerror}).") from error
    raise Stopped(f"EWALLET_METRICS_PORT is wrong: {ports[0]} is in use; choose another one.")
