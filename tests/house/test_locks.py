"""The locks install what pyproject.toml asks for, checked by hash, from wherever the machine gets its packages."""

import re
import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.house.tree import ROOT, text_files

LOCKS = {"requirements/run.txt": (), "requirements/dev.txt": ("dev",)}
LOCK_LINE = re.compile(
    r"[a-z0-9-]+==[^\s\\]+ \\"  # a pin
    r"|    --hash=sha256:[0-9a-f]{64}( \\)?"
    r"|\s*#.*"  # who asked for it
    r"|"
)


def pins(lock: str) -> dict[str, str]:
    return dict(re.findall(r"^([a-z0-9-]+)==(\S+)", lock, flags=re.MULTILINE))


def not_satisfied(wanted: list[str], lock: str) -> list[str]:
    """Requirements that the lock does not pin, or pins to a version outside the range."""
    pinned = pins(lock)

    def is_satisfied(requirement: Requirement) -> bool:
        version = pinned.get(canonicalize_name(requirement.name))
        return version is not None and requirement.specifier.contains(version)

    return [line for line in wanted if not is_satisfied(Requirement(line))]


def strange_lines(lock: str) -> list[str]:
    return [line for line in lock.splitlines() if not LOCK_LINE.fullmatch(line)]


@pytest.mark.parametrize(("path", "extras"), LOCKS.items())
def test_a_lock_pins_everything_that_pyproject_asks_for(path: str, extras: tuple[str, ...]) -> None:
    document = tomllib.loads((ROOT / "pyproject.toml").read_text())
    project = document["project"]
    wanted = [*document["build-system"]["requires"], *project["dependencies"]]
    for extra in extras:
        wanted += project["optional-dependencies"][extra]

    assert not_satisfied(wanted, text_files()[path]) == [], "run `make lock`"


@pytest.mark.parametrize("path", LOCKS)
def test_a_lock_holds_pins_hashes_and_comments_only(path: str) -> None:
    assert strange_lines(text_files()[path]) == []


def test_the_tests_see_the_versions_that_run() -> None:
    run, dev = (pins(text_files()[path]) for path in LOCKS)

    assert run.items() <= dev.items(), "run `make lock`"


def test_a_lock_that_fell_behind_is_noticed() -> None:
    lock = "litestar==2.24.0 \\\n"

    assert not_satisfied(["litestar>=2.25", "msgspec"], lock) == ["litestar>=2.25", "msgspec"]
    assert not_satisfied(["litestar>=2.20"], lock) == []


@pytest.mark.parametrize("line", ["-r other.txt", "msgspec", "msgspec @ file:msgspec.whl", "msgspec==0.22.0"])
def test_a_line_without_pin_or_hash_is_noticed(line: str) -> None:
    assert strange_lines(line) == [line]
