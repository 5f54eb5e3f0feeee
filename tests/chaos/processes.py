"""The platform as processes that are killed and started again."""

import asyncio
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path

from tests.chaos.arming import ARMED, FIRED, Arming, Start, exit_line
from tests.chaos.wire import NoAnswer, NotSent, Wire
from tests.house.tree import ROOT
from tests.support.platform import START_SECONDS, STOP_SECONDS, Platform, Process, Way, platform

LOOK_AGAIN_SECONDS = 0.01
LOG_SHOWN = 20_000


class Launcher:
    """The process that forks all others; see ``tests/chaos/launcher.py``."""

    def __init__(self, folder: Path) -> None:
        self._log = (folder / "launcher.log").open("w")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.chaos.launcher"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )
        self._lock = threading.Lock()

    def start(self, start: Start) -> int:
        """Start a process; a descriptor of it (a pidfd). Several threads may do so: commands are run in threads."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with self._lock:
            self._process.stdin.write(json.dumps(asdict(start)) + "\n")
            self._process.stdin.flush()
            descriptor = os.pidfd_open(int(self._process.stdout.readline()))
            self._process.stdin.write("\n")
            self._process.stdin.flush()
        return descriptor

    def run(self, start: Start) -> tuple[bool, str]:
        """Run a command to its end; whether it ended well, and what it printed."""
        descriptor = self.start(start)
        select.select([descriptor], [], [])
        os.close(descriptor)
        printed = Path(start.log).read_bytes()
        return printed.endswith(exit_line(0)), printed.decode()

    def close(self) -> None:
        """End it, and with it every process that it has started."""
        self._process.communicate()
        self._log.close()


@contextmanager
def launcher(folder: Path) -> Iterator[Launcher]:
    """A launcher that is closed at the end."""
    made = Launcher(folder)
    try:
        yield made
    finally:
        made.close()


class Victim:
    """One process of a platform: started, killed, started again."""

    def __init__(self, launcher: Launcher, process: Process, *, mutant: str) -> None:
        self._launcher = launcher
        self.control = str(process.log.with_suffix(".control"))
        self._start = Start(
            command=process.command,
            environment=dict(process.environment),
            log=str(process.log),
            control=self.control,
            mutant=mutant,
        )
        self._descriptor: int | None = None

    @property
    def running(self) -> bool:
        return self._descriptor is not None and not select.select([self._descriptor], [], [], 0)[0]

    def start(self, *, held: bool = False) -> None:
        self.kill()
        Path(self.control).unlink(missing_ok=True)
        self._descriptor = self._launcher.start(replace(self._start, held=held))

    def signal(self, number: signal.Signals) -> None:
        assert self._descriptor is not None
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._descriptor, number)

    def end(self) -> None:
        """Wait until it has ended by itself, and well."""
        assert self._descriptor is not None
        assert select.select([self._descriptor], [], [], STOP_SECONDS)[0], "it does not stop"
        assert Path(self._start.log).read_bytes().endswith(exit_line(0)), "it has not ended well"

    def kill(self) -> None:
        """Kill it, as a power cut would, and wait until it is gone; harmless where it has ended."""
        if self._descriptor is None:
            return
        self.signal(signal.SIGKILL)
        select.select([self._descriptor], [], [])
        os.close(self._descriptor)
        self._descriptor = None


class Trigger:
    """Something armed in one process, and whether it has happened."""

    def __init__(self, connection: socket.socket, *, name: str) -> None:
        self._connection = connection
        self._name = name

    async def fired(self, seconds: float) -> None:
        """Wait until it has happened: the process says so, or it is dead."""
        try:
            async with asyncio.timeout(seconds):
                answer = await asyncio.get_running_loop().sock_recv(self._connection, 64)
        except TimeoutError as error:
            raise AssertionError(f"it was never reached: {self._name}") from error
        except ConnectionResetError:
            answer = b""
        assert answer in (b"", FIRED), answer
        self._connection.close()


class Victims:
    """A platform in either way of running, whose processes are victims."""

    def __init__(self, launcher: Launcher, plan: Platform, victims: Mapping[str, Victim]) -> None:
        self.way = plan.way
        self.wire = Wire(plan.address)
        self._launcher = launcher
        self.plan = plan
        self._victims = victims

    @property
    def names(self) -> list[str]:
        return list(self._victims)

    def home_of(self, service: str) -> str:
        """The process in which a service runs."""
        return "ewallet" if self.way == "together" else service

    async def start(self) -> None:
        """Start every process and wait until requests are answered."""
        await self.restart(*self._victims)

    async def restart(self, *names: str) -> None:
        """Start processes again, which may still be running, and wait until the platform is ready."""
        for name in names:
            self._victims[name].start()
        await self.ready()

    async def restart_armed(self, name: str, arming: Arming) -> Trigger:
        """Start a process again in which something shall happen, however soon after its start."""
        victim = self._victims[name]
        victim.start(held=True)
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                return await self.arm(name, arming)
            except (FileNotFoundError, ConnectionRefusedError):  # it is not so far yet
                assert time.monotonic() < deadline, f"{name} takes no arming\n{self.plan.logs()}"
            await asyncio.sleep(LOOK_AGAIN_SECONDS)

    def kill(self, *names: str) -> None:
        for name in names or self._victims:
            self._victims[name].kill()

    def stop(self, *names: str, number: signal.Signals = signal.SIGINT) -> None:
        """Press Ctrl-C, or send another signal that asks to stop, and wait until all of these have ended."""
        stopping = [self._victims[name] for name in names or self._victims]
        for victim in stopping:
            victim.signal(number)
        for victim in stopping:
            victim.end()

    def process(self, name: str) -> Process:
        """Where one of them is, and whether it is ready."""
        return self.plan.processes[name]

    def signal(self, name: str, number: signal.Signals) -> None:
        self._victims[name].signal(number)

    async def arm(self, name: str, arming: Arming) -> Trigger:
        """Have something happen in one process."""
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        connection.setblocking(False)
        loop = asyncio.get_running_loop()
        try:
            await loop.sock_connect(connection, self._victims[name].control)
        except OSError:
            connection.close()
            raise
        await loop.sock_sendall(connection, json.dumps(asdict(arming)).encode())
        assert await loop.sock_recv(connection, 64) == ARMED
        return Trigger(connection, name=str(arming))

    def verify(self) -> tuple[bool, str]:
        """What `ewallet verify` finds, while everything runs: whether all is well, and what it prints."""
        return self._run("verify")

    def reconcile(self) -> tuple[bool, str]:
        """What `ewallet reconcile` finds and puts right, likewise."""
        return self._run("reconcile")

    def _run(self, command: str) -> tuple[bool, str]:
        log = Path(self.plan.environment["EWALLET_DATA"]) / f"{command}.log"
        return self._launcher.run(Start((command,), dict(self.plan.environment), str(log), control=""))

    async def ready(self) -> None:
        """Wait until every service says that it is ready."""
        deadline = time.monotonic() + START_SECONDS
        while not await self._is_ready():
            for name, victim in self._victims.items():
                assert victim.running, f"{name} has ended\n{self.plan.logs()}"
            assert time.monotonic() < deadline, f"the platform is not ready\n{self.plan.logs()}"
            await asyncio.sleep(LOOK_AGAIN_SECONDS)

    async def _is_ready(self) -> bool:
        try:
            return (await self.wire.call("GET", "/health/ready")).status == 200
        except (NotSent, NoAnswer):
            return False

    def logs(self) -> str:
        return self.plan.logs()[-LOG_SHOWN:]


@contextmanager
def victims(
    launcher: Launcher, way: Way, folder: Path, databases: Mapping[str, str], *, mutant: str = "", **settings: str
) -> Iterator[Victims]:
    """A platform on databases, by service, that is not started yet; whatever runs at the end is killed."""
    with platform(way, databases, folder, **settings) as plan:
        made = {name: Victim(launcher, process, mutant=mutant) for name, process in plan.processes.items()}
        running = Victims(launcher, plan, made)
        try:
            yield running
        finally:
            running.kill()
