"""Every alert is checked against made-up figures and says what to do; the dashboard is as its script writes it."""

import re
import shutil
import subprocess

import pytest

from deploy.grafana.make_dashboard import DASHBOARD, as_text
from tests.house.tree import ROOT

PROMTOOL = shutil.which("promtool") or "promtool"  # where it is missing, the error says so
PROMETHEUS = ROOT / "deploy/prometheus"
ALERTS = re.findall(r"- alert: (\w+)", (PROMETHEUS / "alerts.yaml").read_text())


@pytest.mark.parametrize("arguments", [("check", "rules", "alerts.yaml"), ("test", "rules", "alerts_test.yaml")])
def test_prometheus_finds_the_alerts_right(arguments: tuple[str, ...]) -> None:
    """The second runs every rule against series that are well, and against series that are not."""
    finished = subprocess.run([PROMTOOL, *arguments], cwd=PROMETHEUS, capture_output=True, text=True, check=False)

    assert finished.returncode == 0, finished.stdout + finished.stderr


def test_every_alert_is_tested_both_ways() -> None:
    tests = (PROMETHEUS / "alerts_test.yaml").read_text()

    quiet = set(re.findall(r"- {alertname: (\w+)", tests))
    firing = set(re.findall(r"- alertname: (\w+)", tests))
    assert set(ALERTS) == quiet == firing


def test_every_alert_has_its_chapter_and_no_other_thing_has() -> None:
    chapters = (ROOT / "docs/operations.md").read_text().partition("## What to do at each alert")[2]
    chapters = chapters.partition("\n## ")[0]

    assert re.findall(r"^### (\w+)$", chapters, flags=re.MULTILINE) == ALERTS


def test_the_dashboard_is_as_its_script_writes_it() -> None:
    assert DASHBOARD.read_text() == as_text(), "run python deploy/grafana/make_dashboard.py"
