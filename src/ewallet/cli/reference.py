"""What the README repeats from the code."""

from collections.abc import Iterable

from ewallet.plumbing.settings import DocumentedSetting


def settings_table(settings: Iterable[DocumentedSetting]) -> str:
    """Settings as a Markdown table, one line each, without a line break at the end."""
    rows = [f"| `{each.variable}` | {_code(each.default)} | {each.description} |" for each in settings]
    return "\n".join(["| variable | default | meaning |", "|---|---|---|", *rows])


def _code(default: str) -> str:
    return f"`{default}`" if default else ""
