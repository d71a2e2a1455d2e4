"""Engines with the base images, and what the contexts reach for."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.system.build.peers import SOCKET
from tests.system.build.real import building, recording
from tests.system.build.real.comparing import Image
from tests.system.build.real.kinds import BUSYBOX, DEBIAN
from tests.system.host import Host


@dataclass(frozen=True)
class Engine:
    """An address and the base images that are there."""

    url: str
    bases: dict[str, Image]


@pytest.fixture(scope="session")
def ours(host: Host, busybox_tar: Path, debian: str) -> Engine:
    return Engine(host.url, recording.bring(host.url, busybox_tar, debian))


@pytest.fixture(scope="session")
def theirs(busybox_tar: Path, debian: str) -> Iterator[Engine]:
    """A dockerd beside us, for tests marked `peer`."""
    yield Engine(SOCKET, recording.bring(SOCKET, busybox_tar, debian))
    subprocess.run(["docker", "-H", SOCKET, "rmi", "-f", BUSYBOX, DEBIAN], capture_output=True, check=False)


@pytest.fixture(scope="session")
def around(tmp_path_factory: pytest.TempPathFactory) -> Iterator[building.Surroundings]:
    with recording.surroundings(tmp_path_factory.mktemp("around")) as around:
        yield around


@pytest.fixture(scope="session")
def client_config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return recording.client_config(tmp_path_factory.mktemp("client"))
