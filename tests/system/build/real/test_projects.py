"""Several images at once: a matrix by bake, the same by a compose file, an application by Compose."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.build.plugins import Buildx
from tests.system.build.real.kinds import BUSYBOX, CONTEXTS
from tests.system.build.real.running import get
from tests.system.host import Host

MATRIX = {
    f"pyd-tests-bake-{variant}:{version}" for variant in ("plain", "debug") for version in ("1-0", "2-0")
}
COMPOSED = {"pyd-tests-bake-compose-plain:latest", "pyd-tests-bake-compose-debug:latest"}
APPLICATION = {"pyd-tests-compose-api:latest", "pyd-tests-compose-web:latest"}


@pytest.fixture
def project(buildx: Buildx, host: Host, tmp_path: Path) -> Iterator[Path]:
    """An empty directory, the base image, and none of the images afterwards."""
    host.docker("tag", "busybox:latest", BUSYBOX)
    directory = tmp_path / "project"
    yield directory
    host.try_docker("rmi", "-f", BUSYBOX, *MATRIX, *COMPOSED, *APPLICATION)


def names(host: Host) -> set[str]:
    return set(host.docker("images", "--format", "{{.Repository}}:{{.Tag}}").split())


def test_a_matrix_by_bake(buildx: Buildx, host: Host, project: Path) -> None:
    shutil.copytree(CONTEXTS / "bake-matrix", project)
    buildx.docker("buildx", "bake", "-f", "docker-bake.hcl", cwd=project)
    assert names(host) >= MATRIX
    assert buildx.run("pyd-tests-bake-debug:2-0") == "version 2.0\n"
    assert "VERSION=1.0\n" in buildx.run("pyd-tests-bake-debug:1-0", "debug.sh")
    assert buildx.run("pyd-tests-bake-plain:1-0", "cat", "/etc/app/app.conf") == "level = info\n"
    labels = {"org.example.variant": "plain", "org.example.built-by": "bake"}
    assert buildx.config("pyd-tests-bake-plain:2-0")["Labels"] == labels


def test_bake_leaves_a_report_in_a_directory(buildx: Buildx, project: Path) -> None:
    shutil.copytree(CONTEXTS / "bake-matrix", project)
    refused = buildx.try_docker("buildx", "bake", "-f", "docker-bake.hcl", "absent", cwd=project)
    assert refused.returncode != 0 and b"absent" in refused.stderr
    buildx.docker("buildx", "bake", "-f", "docker-bake.hcl", "--allow=fs.write=*", "report", cwd=project)
    assert (project / "out/report").read_text() == "checked\n"
    assert os.listdir(project / "out") == ["report"]


def test_a_compose_file_by_bake(buildx: Buildx, host: Host, project: Path) -> None:
    shutil.copytree(CONTEXTS / "bake-matrix", project)
    buildx.docker("buildx", "bake", "-f", "compose.yaml", cwd=project)
    assert names(host) >= COMPOSED
    assert buildx.run("pyd-tests-bake-compose-debug", "cat", "/debug/flag") == "on\n"
    assert buildx.config("pyd-tests-bake-compose-plain")["Labels"]["org.example.built-by"] == "compose"


def test_an_application_by_compose(buildx: Buildx, project: Path) -> None:
    shutil.copytree(CONTEXTS / "compose-app", project)
    buildx.compose("build", cwd=project)
    try:
        buildx.compose("up", "--detach", "--wait", cwd=project)
        port = buildx.compose("port", "web", "8000", cwd=project).strip()
        assert get(f"http://{port}/cgi-bin/ask") == "web asked: hello from the api\n"
        assert get(f"http://{port}/copied.html") == "hello from the api\n"
        assert get(f"http://{port}/stamp").strip() == "10"
    finally:
        buildx.compose("down", "--timeout", "1", "--volumes", cwd=project)
