"""The secret with which our services know each other: configured, or made once in the data folder."""

import os
import secrets
import tempfile
from contextlib import suppress
from pathlib import Path

from ewallet.plumbing.files import make_folder, sync
from ewallet.plumbing.settings import MINIMUM_SECRET_LENGTH, Settings, SettingsError

FILE_NAME = "internal.secret"
_RANDOM_BYTES = 48


def internal_secret(settings: Settings) -> str:
    """The configured secret, or the one in the data folder, which is made where there is none.

    SettingsError: the file is shorter than a secret may be.
    """
    if settings.internal_secret:
        return settings.internal_secret
    file = settings.data_folder / FILE_NAME
    if not file.exists():
        _make(file)
    secret = file.read_text(encoding="ascii").strip()
    if len(secret) < MINIMUM_SECRET_LENGTH:
        raise SettingsError(f"{file} is too short for a secret: remove it, and the next start makes a new one.")
    return secret


def _make(file: Path) -> None:
    """Write a new secret that only we can read; of several processes that start at once, one makes it."""
    make_folder(file.parent)
    descriptor, draft = tempfile.mkstemp(dir=file.parent, prefix=f"{FILE_NAME}.")
    with os.fdopen(descriptor, "w", encoding="ascii") as opened:
        opened.write(secrets.token_urlsafe(_RANDOM_BYTES))
    sync(Path(draft))  # or a power cut could leave the name without what belongs in it
    # A link appears whole or, where another process was faster, not at all.
    with suppress(FileExistsError):
        os.link(draft, file)
    Path(draft).unlink()
    sync(file.parent)
