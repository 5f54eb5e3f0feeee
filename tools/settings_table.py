"""Print the README's table of settings: `make settings-table`."""

from collections.abc import Iterable

from ewallet.plumbing.settings import DocumentedSetting, documented_settings


def settings_table(settings: Iterable[DocumentedSetting]) -> str:
    """Render the settings as a Markdown table, one line for each, without a line break at the end."""
    rows = [f"| `{each.variable}` | {_code(each.default)} | {each.description} |" for each in settings]
    return "\n".join(["| variable | default | meaning |", "|---|---|---|", *rows])


def _code(default: str) -> str:
    return f"`{default}`" if default else ""


if __name__ == "__main__":
    print(settings_table(documented_settings()))
