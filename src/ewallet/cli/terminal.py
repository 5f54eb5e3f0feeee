"""What the commands say to a person: coloured and aligned on a terminal, plain in a pipe."""

import sys

from rich.console import Console
from rich.table import Table

PIPE_WIDTH = 120
"""Columns where there is no terminal to ask: wide enough that no id is broken over two lines."""


class Stopped(Exception):
    """The command cannot go on; the message is a sentence that says why and what to do."""


def complain(sentence: str) -> None:
    """Say on stderr why the program stops."""
    _console(stderr=True).print(f"ewallet: {sentence}", style="red", markup=False, highlight=False, soft_wrap=True)


def standard_output() -> Console:
    """The console of a command's results."""
    return _console(stderr=False)


def columns(*headings: str, right: tuple[str, ...] = ()) -> Table:
    """An empty table without lines; the columns named by ``right`` hold numbers."""
    table = Table(box=None, padding=(0, 3, 0, 0), header_style="dim", pad_edge=False)
    for heading in headings:
        table.add_column(heading, justify="right" if heading in right else "left", overflow="fold")
    return table


def _console(*, stderr: bool) -> Console:
    stream = sys.stderr if stderr else sys.stdout
    return Console(file=stream, highlight=False, width=None if stream.isatty() else PIPE_WIDTH)
