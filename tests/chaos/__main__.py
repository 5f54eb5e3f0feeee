"""Everything in full, and the table in docs/reliability.md: ``python -m tests.chaos [--kills 500] [--seed N]``.

It takes hours. With ``--keep FILE`` each step is written down when it is done, whatever came of it, and a run that is
broken off goes on where it was.
"""

import argparse
import asyncio
import json
import os
import platform
import random
import secrets
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import astuple, dataclass, field
from datetime import UTC, datetime
from functools import partial
from itertools import product
from pathlib import Path

from rich.console import Console

from tests.chaos.accountant import Figures
from tests.chaos.enumerated import OPERATIONS, faults, let_all_happen
from tests.chaos.hunts import HUNTS, Hunt, hunt
from tests.chaos.invariants import INVARIANTS, Scale, hold
from tests.chaos.outages import OUTAGES, under_outages
from tests.chaos.storm import storm
from tests.chaos.telling import tell
from tests.chaos.world import ENDS_WITHIN_SECONDS, SETTLES_WITHIN_SECONDS, Tally, Worlds, worlds
from tests.house.tree import ROOT
from tests.servers.galera import Cluster, running_galera
from tests.servers.mariadb import running_mariadb
from tests.support.platform import Way

REPORT = ROOT / "docs" / "reliability.md"
ROUND_KILLS = 50
"""Kills of one platform before the accountant looks and a new one is made: as many as a person can still follow."""

APART_EVERY = 3
"""Every third round is against separate processes."""

WAYS: tuple[Way, ...] = ("together", "apart")
ON_GALERA: tuple[Way, ...] = ("together", "doubled")
OUTAGES_OF_EACH_KIND = 4
MEMORY = Path("/dev/shm")  # noqa: S108  # only a folder of our own, with a random name, is made in it

console = Console(highlight=False)


@dataclass
class Run:
    """What one run has done so far, in this process or, as a file says, before it."""

    command: str
    kills: int
    cuts: int
    seed: int
    file: Path | None = None
    database: str = ""
    parts: dict[str, Figures] = field(default_factory=dict)
    caught: list[tuple[str, str]] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    done: dict[str, Tally] = field(default_factory=dict)
    begun: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        """Read what was done before."""
        if self.file and self.file.exists():
            for line in self.file.read_text(encoding="utf-8").splitlines():
                step, figures, wrong = json.loads(line)
                self.done[step] = Tally(Figures(*figures), wrong)

    async def part(self, name: str, work: Callable[[], Awaitable[Tally]]) -> None:
        """Do some work and count it to a part, whether it ends well or not."""
        name = self.database + name
        tally = await self.step(name, work)
        self.parts[name] = self.parts.get(name, Figures()) + tally.figures

    async def step(self, name: str, work: Callable[[], Awaitable[Tally]]) -> Tally:
        """Do some work, unless it was done before; those of one name are told apart by their order."""
        started = time.monotonic()
        self.begun[name] += 1
        key = f"{name} {self.begun[name]}"
        if key not in self.done:
            try:
                tally = await work()
            except AssertionError as error:
                tally = Tally(Figures(otherwise_wrong=1), [str(error)])
            self._keep(key, tally)
        tally = self.done[key]
        self.wrong += [f"{name}: {text}" for text in tally.wrong]
        counts = f"{tally.figures.faults} faults, {tally.figures.acknowledged} acknowledged"
        self.show(f"{name}: {counts} ({time.monotonic() - started:.0f} s)", well=not tally.wrong)
        return tally

    def _keep(self, key: str, tally: Tally) -> None:
        self.done[key] = tally
        if self.file:
            with self.file.open("a", encoding="utf-8") as file:
                file.write(json.dumps([key, astuple(tally.figures), tally.wrong]) + "\n")

    def show(self, text: str, *, well: bool) -> None:
        console.print(f"{'[green]✓[/]' if well else '[red]✗[/]'} {text}", soft_wrap=True)

    @property
    def total(self) -> Figures:
        return sum(self.parts.values(), start=Figures())


def main() -> None:
    """Run everything; exit status 1 where anything was wrong, and then there is no new report."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--kills", type=int, default=500, help="kills at random moments")
    parser.add_argument("--cuts", type=int, default=2000, help="power cuts")
    parser.add_argument("--events", type=int, default=50_000, help="told while notification is killed every second")
    parser.add_argument(
        "--database",
        choices=["sqlite", "mariadb", "galera", "all"],
        default="all",
        help="where the data lie while processes are killed",
    )
    parser.add_argument("--seed", type=int, default=secrets.randbits(32), help="all that is random follows from it")
    parser.add_argument("--keep", type=Path, metavar="FILE", help="go on with the run that this file is of")
    arguments = parser.parse_args()
    command = " ".join(f"--{name} {value}" for name, value in vars(arguments).items() if name != "keep")
    run = Run(f"python -m tests.chaos {command}", arguments.kills, arguments.cuts, arguments.seed, arguments.keep)
    console.print(run.command)
    asyncio.run(run.step(f"{run.cuts} power cuts", partial(_cut_power, run)))
    parent = MEMORY if os.access(MEMORY, os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="ewallet-chaos-", dir=parent) as name:
        if arguments.database in ("sqlite", "all"):
            with worlds(Path(name)) as made:
                asyncio.run(_everything(run, made))
        if arguments.database in ("mariadb", "all"):
            run.database = "MariaDB: "
            with running_mariadb(Path(name) / "mariadb") as server, worlds(Path(name), server) as made:
                asyncio.run(_everything(run, made))
                with server.database() as url:
                    work = partial(
                        tell, url, Path(name), events=arguments.events, kills=arguments.events, seed=run.seed
                    )
                    asyncio.run(run.part("notification killed every second, with webhooks", work))
        if arguments.database in ("galera", "all"):
            run.database = "Galera: "
            with running_galera(Path(name) / "galera") as cluster:
                asyncio.run(_on_galera(run, Path(name), cluster))
    console.print(f"\n{_table(run)}", soft_wrap=True)
    if run.wrong or not run.total.clean:
        sys.exit("\n".join([*run.wrong, f"The platform is not reliable: --seed {run.seed}"]))
    REPORT.write_text(_report(run), encoding="utf-8")
    console.print(f"{REPORT.relative_to(ROOT)} is written.")


async def _cut_power(run: Run) -> Tally:
    """Cut the power so many times; these cuts are tests of their own."""
    tests = "tests/power/test_power_cuts.py"
    environment = {**os.environ, "CUTS": str(run.cuts), "SEED": str(run.seed)}
    command = [sys.executable, "-m", "pytest", "--quiet", "--numprocesses", "auto", tests]
    finished = subprocess.run(  # noqa: ASYNC221  # nothing else is done meanwhile
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    return Tally(Figures(faults=run.cuts), [finished.stdout] if finished.returncode else [])


async def _everything(run: Run, made: Worlds) -> None:
    for operation, way in product(OPERATIONS, WAYS):
        work = partial(let_all_happen, made, way, faults(operation, way))
        await run.part(f"every fault at every point: {operation.name}, {way}", work)
    for number, done in enumerate(range(0, run.kills, ROUND_KILLS), start=1):
        way = WAYS[number % APART_EVERY == 0]
        kills = min(ROUND_KILLS, run.kills - done)
        await run.part(f"kills at random, {way}", partial(storm, made, way, kills=kills, seed=run.seed + number))
    for invariant in INVARIANTS:
        name = invariant.__name__.replace("_", " ")
        await run.part(f"while being killed: {name}", partial(hold, made, invariant, Scale(), seed=run.seed))
    for wanted in HUNTS:
        await _hunted(run, made, wanted)


async def _on_galera(run: Run, folder: Path, cluster: Cluster) -> None:
    server, outages = cluster.nodes[0], [*OUTAGES] * OUTAGES_OF_EACH_KIND
    random.Random(run.seed).shuffle(outages)
    with worlds(folder, server, port=cluster.port) as made:
        for way in ON_GALERA:
            work = partial(under_outages, made, cluster, way, outages, seed=run.seed)
            await run.part(f"nodes killed, paused and cut off, {way}", work)
    with worlds(folder, server, port=cluster.spread_port) as made:
        work = partial(storm, made, "doubled", kills=ROUND_KILLS, seed=run.seed)
        await run.part("all nodes written to at once, kills at random, doubled", work)


async def _hunted(run: Run, made: Worlds, wanted: Hunt) -> None:
    check = wanted.found_by.__name__
    await run.step(f"{run.database}mutant {wanted.mutant}, for {check}", partial(_found, made, wanted))
    run.caught.append((wanted.mutant, check))


async def _found(made: Worlds, wanted: Hunt) -> Tally:
    """A check has to find its mutant, and nothing in the product: one that finds fault with everything finds each."""
    unharmed, report = await hunt(made, wanted, mutated=False), await hunt(made, wanted)
    wrong = [f"the product does not stand what is for the mutant: {unharmed}"] if unharmed.findings else []
    if wanted.found_by.__name__ not in report.findings:
        wrong.append(f"the mutant was not found: {report}")
    return Tally(wrong=wrong)


# --- the report ---------------------------------------------------------------------------------------------------

HEAD = ("", "faults injected", "acknowledged", "lost", "doubled", "stuck", "otherwise wrong", "unexplained minor units")


def _table(run: Run) -> str:
    """The figures of each part and of all, as a Markdown table."""
    rows = [(name, *map("{:,}".format, astuple(figures))) for name, figures in run.parts.items()]
    rows.append(("**all**", *map("{:,}".format, astuple(run.total))))
    return _markdown(HEAD, ["---", *["---:"] * (len(HEAD) - 1)], rows)


def _markdown(head: Sequence[str], rule: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, rule, *rows))


def _report(run: Run) -> str:
    mutants = [(f"`{mutant}`", f"`{check}`") for mutant, check in dict.fromkeys(run.caught)]
    machine = f"{os.cpu_count()} cores, Linux {platform.release()}, Python {platform.python_version()}"
    return TEXT.format(
        command=run.command,
        cuts=f"{run.cuts:,}",
        machine=machine,
        date=f"{datetime.now(UTC):%Y-%m-%d}",
        table=_table(run),
        settles=SETTLES_WITHIN_SECONDS,
        ends=ENDS_WITHIN_SECONDS,
        mutants=_markdown(("mutant", "found by"), ("---", "---"), mutants),
    )


TEXT = """# Reliability

Written by `{command}` on {date}; {machine}.
Had anything been wrong, it would not have been written; `make chaos` runs the same.
The data lie in SQLite files, and in MariaDB or in a Galera cluster where a line says so.

{table}

- **faults injected**: a process killed with SIGKILL, an error of the database's driver before or after it took effect,
  no connection to another service, no answer from it. A kill at random counts only if requests were in flight.
  In a cluster: the node that is written to killed, paused or cut off, two of three cut off, all killed at once.
- **acknowledged**: whatever a client was told is done: payments, operations on them, credits and debits. Among them are
  what an operation needs to be there before it, and a last payment and credit before each look at the books.
  Where notification is killed, they are the events that it has taken.
- **lost**: acknowledged, and not there. **doubled**: two payments or postings for one key, or different answers to it.
  **stuck**: without an end, or a client without an answer. **otherwise wrong**: what the other checks found.
- **unexplained minor units**: money in wallets that no order explains, or that an order explains and is not there.

The accountant ([tests/chaos/accountant.py](../tests/chaos/accountant.py)) keeps its own record of what clients ordered
and were answered, reads everything back over the API, and shares no code and no database with the product. After each
fault at a point everything must be right within {settles} seconds of the restart, after the last of many kills within
{ends}. What cannot be read completely is not judged, but counts as wrong.

## Power cuts

SIGKILL does not test what a disk has really kept. The power was cut {cuts} times while people paid: just after an
answer, in a checkpoint, at the first start, at any moment; and of what was not synced, some was lost, torn or
reordered. Every time all that was acknowledged was there, every database passed its `integrity_check`, and what was
under way came
to its end. With `synchronous=OFF`, and with `NORMAL`, the same test fails, as it must
([decision 14](decisions/0014-power-is-cut-in-a-recording.md)).

## Mutants

Each of its checks finds a mistake made on purpose, which only the tests can switch on. The same scenario on the
product as it is leaves nothing to find. Mistakes in the rules about money, a thousand small ones, are
for the tests of these rules to find: [mutants.md](mutants.md).

{mutants}
"""


if __name__ == "__main__":
    main()
