"""The project's own files, as the rules read them."""

import subprocess
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]


@cache
def text_files() -> dict[str, str]:
    """Every text file that is tracked, or would be by `git add`: path from the root to content."""
    listing = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    names = subprocess.run(listing, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    files = (ROOT / name for name in names.split("\0") if name)
    return {str(file.relative_to(ROOT)): text for file in files if (text := _text(file)) is not None}


def _text(file: Path) -> str | None:
    try:
        return file.read_text(encoding="utf-8")
    except (UnicodeDecodeError, FileNotFoundError):  # a picture, or removed but not yet committed
        return None
