"""`make apart`: everything that runs at scale, on one machine."""

import os
import re
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from tests.house.tree import ROOT
from tests.support.platform import START_SECONDS, STOP_SECONDS, clean_environment, run_command, wait_until


def test_two_processes_of_each_service_behind_haproxy_serve_the_demo_and_stop_at_ctrl_c(tmp_path: Path) -> None:
    log = tmp_path / "log"
    cheap = clean_environment(EWALLET_BCRYPT_COST="4")
    with log.open("wb") as output:
        started = subprocess.Popen(
            [sys.executable, "-m", "bench.apart"],
            cwd=ROOT,
            env=cheap,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        wait_until(lambda: "stop  " in log.read_text() or started.poll(), 2 * START_SECONDS, log.read_text)
        said = log.read_text()
        settings = dict(re.findall(r"(EWALLET_ADMIN_\w+)=(\S+)", said))
        address = re.findall(r"--url (\S+)", said)

        demo = run_command("demo", "--url", *address, environment={**cheap, **settings})

        assert demo.returncode == 0, f"{demo.stdout}{demo.stderr}{said}"
        started.send_signal(signal.SIGINT)
        assert started.wait(2 * STOP_SECONDS) == 0, log.read_text()
    finally:
        with suppress(ProcessLookupError):  # all have ended as they should
            os.killpg(started.pid, signal.SIGKILL)
        started.wait()
