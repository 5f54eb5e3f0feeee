"""What the README tells a newcomer to type works, as it stands there."""

import json
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.platform import Platform, platform

README = Path(__file__).parents[2] / "README.md"


@pytest.fixture
def running(scratch: Path) -> Iterator[Platform]:
    """Start a platform without an administrator, as `make run` does."""
    nobody = {"EWALLET_ADMIN_EMAIL": "", "EWALLET_ADMIN_PASSWORD": ""}
    with tempfile.TemporaryDirectory(dir=scratch) as folder, platform("together", {}, Path(folder), **nobody) as made:
        made.start()
        yield made
        made.stop()


def test_the_curl_commands_pay_a_merchant(running: Platform) -> None:
    commands = "\n".join(_blocks("## Try it with curl"))
    here = commands.replace("http://127.0.0.1:8080", running.address).replace(
        ".venv/bin/ewallet", f"{shlex.quote(sys.executable)} -m ewallet"
    )

    typed = subprocess.run(
        ["/bin/bash", "-euo", "pipefail", "-c", here],
        env=running.environment,
        capture_output=True,
        text=True,
        check=False,
    )

    assert typed.returncode == 0, typed.stdout + typed.stderr
    credit, receipt, wallet, inbox = _documents(typed.stdout.partition("\n")[2])
    assert credit["available"] == 100_00
    assert (receipt["status"], receipt["fee"], receipt["netAmount"]) == ("SUCCESS", 25, 12_25)
    assert wallet["balances"][0]["available"] == 87_50
    assert "wallet.credited" in {item["event"] for item in inbox["items"]}


def test_the_demo_without_an_administrator_makes_its_own_back_end(running: Platform) -> None:
    shown = running.run("demo")

    assert shown.returncode == 0, shown.stdout + shown.stderr
    assert _without_ids(shown.stdout) == _without_ids(_blocks("## Start it")[3])


def _blocks(heading: str) -> list[str]:
    """The code blocks of one section."""
    section = README.read_text().partition(f"\n{heading}\n")[2].partition("\n## ")[0]
    return re.findall(r"^```(?:sh)?\n(.*?)^```$", section, re.DOTALL | re.MULTILINE)


def _documents(text: str) -> list[dict[str, Any]]:
    """The JSON documents that stand one after the other in a text."""
    found, decoder = [], json.JSONDecoder()
    while text := text.lstrip():
        document, end = decoder.raw_decode(text)
        found.append(document)
        text = text[end:]
    return found


def _without_ids(text: str) -> list[str]:
    """The lines of the demo without what is different every time."""
    stable = re.sub(r"[a-z]{3}_[0-9a-z]{26}|\b[0-9a-f]{8}\b", "…", text)
    return [" ".join(line.split()) for line in stable.strip().splitlines()]
