"""`make demo-notifications` shows each side what it has got, by each way."""

import subprocess
import sys
from pathlib import Path

import ewallet

DEMO = Path(ewallet.__file__).parents[2] / "examples" / "notifications_demo.py"


def test_the_demo_shows_what_came_to_whom_by_which_way() -> None:
    ended = subprocess.run([sys.executable, DEMO], capture_output=True, text=True, check=False, timeout=200)

    assert ended.returncode == 0, ended.stderr
    shown = ended.stdout
    for title in ("You paid $12.50", "Your payment of $1,000.00 failed", "You got $5.00 back"):
        assert shown.count(title) == 2, shown  # in the inbox and by e-mail
    for event in ("payment.succeeded", "payment.failed", "payment.refunded"):
        assert shown.count(event) == 1, shown  # by webhook
