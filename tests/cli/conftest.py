"""Running commands in this process."""

import io
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import pytest

from ewallet.cli import main


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    status: int
    out: str
    err: str


class Run(Protocol):
    """Runs `ewallet ARGUMENTS` with these settings and no others, each without its prefix."""

    def __call__(self, *arguments: str, standard_input: str = "", **settings: str) -> Ended: ...


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    """Give a function that runs a command in this process, on a data folder of its own unless told otherwise."""

    def run_command(*arguments: str, standard_input: str = "", **settings: str) -> Ended:
        for name in [name for name in os.environ if name.startswith("EWALLET_")]:
            monkeypatch.delenv(name)
        for name, value in {"DATA": str(tmp_path / "data"), **settings}.items():
            monkeypatch.setenv(f"EWALLET_{name}", value)
        monkeypatch.setattr(sys, "stdin", io.StringIO(standard_input))
        monkeypatch.setattr(sys, "argv", ["ewallet", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        return Ended(int(ended.value.code or 0), captured.out, captured.err)

    return run_command
