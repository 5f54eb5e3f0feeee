"""What lies in `deploy/` is what the code says, and is well formed.

As far as can be told without a container engine, a cluster and a running systemd: images are not built, and nothing is
started. What an image would be made of is checked as a wheel, and HAProxy's configuration runs in other tests.
"""

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from ewallet.cli.serving import STOP_SECONDS
from ewallet.plumbing.settings import Settings, documented_settings
from tests.house.tree import ROOT, text_files
from tests.support.deployment import haproxy_example

KUBERNETES = "1.34"
PROGRAM = "/opt/ewallet/bin/ewallet"
UNITS = sorted(path for path in text_files() if path.startswith("deploy/systemd/"))


def run(program: str, *arguments: str | Path) -> None:
    """Run a checker, which must find nothing to say."""
    found = shutil.which(program, path=f"{Path(sys.executable).parent}:{os.environ['PATH']}:/usr/bin")
    assert found, f"`{program}` is missing: `make test` installs it"
    ended = subprocess.run([found, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr


def kubernetes_items() -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = yaml.safe_load(text_files()["deploy/kubernetes/ewallet.yaml"])["items"]
    return items


def test_haproxy_s_configuration_is_the_one_that_the_code_writes() -> None:
    assert text_files()["deploy/haproxy/haproxy.cfg"] == haproxy_example(), "run `make haproxy-example`"


def test_the_dockerfile_has_nothing_that_hadolint_minds() -> None:
    run("hadolint", "Dockerfile")


def test_what_an_image_installs_has_all_files_of_the_package(tmp_path: Path) -> None:
    """An editable installation has them in any case; an image has what is in the wheel."""
    wheel = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*wheel, "--wheel-dir", tmp_path, ROOT], check=True, capture_output=True)

    (built,) = tmp_path.iterdir()
    packed = {name for name in zipfile.ZipFile(built).namelist() if name.startswith("ewallet/")}
    assert packed >= {path.removeprefix("src/") for path in text_files() if path.startswith("src/ewallet/")}


def test_the_compose_file_keeps_to_its_schema() -> None:
    run("check-jsonschema", "--builtin-schema", "vendor.compose-spec", "deploy/compose.yaml")


@pytest.mark.parametrize("item", kubernetes_items(), ids=lambda item: f"{item['kind']} {item['metadata']['name']}")
def test_the_kubernetes_example_keeps_to_its_schema(item: dict[str, Any]) -> None:
    kubernetes_validate.validate(item, KUBERNETES, strict=True)


@pytest.mark.parametrize("unit", UNITS)
def test_systemd_understands_the_unit(unit: str, tmp_path: Path) -> None:
    """With programs in the place of ours and HAProxy's, because a unit whose program is missing is not accepted."""
    file = tmp_path / Path(unit).name.replace("@", "@wallet")
    file.write_text(text_files()[unit].replace(PROGRAM, "/bin/true").replace("/usr/sbin/haproxy", "/bin/true"))

    run("systemd-analyze", "verify", file)


def test_every_setting_in_the_examples_exists() -> None:
    deployed = "".join(text for path, text in text_files().items() if path.startswith(("deploy/", "Dockerfile")))
    known = {setting.variable for setting in documented_settings()}

    assert set(re.findall(r"\bEWALLET_[A-Z_]*[A-Z]\b", deployed)) <= known


def test_whoever_stops_a_process_waits_until_it_has_drained() -> None:
    """A process that is killed before it has finished its requests is what draining is to avoid."""
    needed = Settings().drain_seconds + STOP_SECONDS
    compose = yaml.safe_load(text_files()["deploy/compose.yaml"])
    patience = [int(compose["x-ewallet"]["stop_grace_period"].removesuffix("s"))]
    patience += [
        item["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
        for item in kubernetes_items()
        if item["kind"] == "Deployment"
    ]
    patience += [
        int(found)
        for unit in UNITS
        for found in re.findall(r"^TimeoutStopSec=(\d+)$", text_files()[unit], re.MULTILINE)
    ]

    assert len(patience) == 8
    assert min(patience) > needed
