"""The command `haproxy-config`: HAProxy in the place of the Python gateway."""

import asyncio
import re
import sys
from collections.abc import Mapping
from contextlib import redirect_stdout
from pathlib import Path
from urllib.parse import urlsplit

import typer
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from ewallet.auth.client import HttpAuth
from ewallet.cli.terminal import Stopped
from ewallet.gateway.domain import GATEWAY
from ewallet.gateway.haproxy import Surroundings, configuration
from ewallet.kernel.clock import system_clock
from ewallet.kernel.errors import OutcomeUnknown, Overloaded
from ewallet.plumbing.http.doors import Door
from ewallet.plumbing.settings import SERVICES, Settings, SettingsError, variable
from ewallet.plumbing.tokens import PublicKeys


def haproxy_config(settings: Settings, *, pages: str, keys: Path, certificate: Path | None) -> None:
    """Write auth's public keys into a folder and the configuration to standard output.

    Stopped, SettingsError: why there is none; then nothing has been written.
    """
    servers = {name: _servers(settings, name) for name in SERVICES}
    servers[GATEWAY] = [_server(pages, "--pages")]
    with redirect_stdout(sys.stderr):  # what is logged meanwhile is no part of a configuration
        public_keys = asyncio.run(_public_keys(settings))
    files = _written(public_keys, keys.absolute())
    text = configuration(settings, Surroundings(servers, files, certificate.absolute() if certificate else None))
    typer.echo(text, nl=False)


def _servers(settings: Settings, service: str) -> list[str]:
    return [_server(url, variable(f"{service}_url")) for url in settings.service_urls(service)]


def _server(url: str, what: str) -> str:
    """The ``host:port`` of an address. SettingsError: HAProxy would need to be told more."""
    parts = urlsplit(url)
    if parts.scheme != "http" or not parts.hostname or parts.path.strip("/"):
        raise SettingsError(f"{what} must look like http://host:port for HAProxy.")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{host}:{parts.port or 80}"


async def _public_keys(settings: Settings) -> PublicKeys:
    door = Door(*settings.service_urls("auth"), caller=GATEWAY, secret="", clock=system_clock)
    try:
        return await HttpAuth(door).public_keys()
    except (Overloaded, OutcomeUnknown) as error:
        raise Stopped(f"Auth does not tell its keys ({error}): start it, or correct {variable('auth_url')}.") from error
    finally:
        await door.close()


def _written(keys: PublicKeys, folder: Path) -> Mapping[str, Path]:
    """One file for each key, in PEM. Those of keys that are gone stay: a process that runs may be started again."""
    if unusable := [key_id for key_id in keys if not _FILE_NAME.fullmatch(key_id)]:
        raise Stopped(f"Auth has a key whose id cannot name a file: {unusable[0]!r}.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        files = {key_id: folder / f"{key_id}.pem" for key_id in keys}
        for key_id, key in keys.items():
            files[key_id].write_bytes(key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    except OSError as error:
        raise Stopped(f"The keys cannot be written to {folder}: {error.strerror}.") from error
    return files


_FILE_NAME = re.compile(r"[A-Za-z0-9_-]+")
