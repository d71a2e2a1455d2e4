"""Fixtures on the real kernel: a running pydd with a busybox image, a registry, a Debian image."""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system import images
from tests.system.host import Host
from tests.system.runtime_bundle import Bundle


@pytest.fixture(scope="session")
def busybox_tar(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root file system of the machine's static busybox, as a tar."""
    return images.busybox(tmp_path_factory.mktemp("busybox"))


@contextlib.contextmanager
def running_host(busybox_tar: Path) -> Iterator[Host]:
    """A pydd with `busybox:latest` imported; nothing of it is left afterwards."""
    with tempfile.TemporaryDirectory(prefix="pyd-") as directory:
        running = Host(Path(directory))
        running.start()
        try:
            load_busybox(running, busybox_tar)
            yield running
        finally:
            running.undo()


@contextlib.contextmanager
def host_on_a_small_disk(directory: Path, megabytes: int) -> Iterator[Host]:
    """A pydd whose data root is a file system of its own."""
    made = Host(directory)
    made.data_root.mkdir()
    disk = directory / "disk"
    with disk.open("wb") as file:
        file.truncate(megabytes << 20)
    subprocess.run(["mkfs.ext4", "-q", "-m0", str(disk)], check=True)
    subprocess.run(["mount", "-o", "loop", str(disk), str(made.data_root)], check=True)
    try:
        made.start()
        yield made
    finally:
        made.undo()
        if os.path.ismount(made.data_root):
            subprocess.run(["umount", str(made.data_root)], check=True)


@pytest.fixture(scope="session")
def host(busybox_tar: Path) -> Iterator[Host]:
    """One pydd for all tests that don't harm it, with `busybox:latest` imported."""
    with running_host(busybox_tar) as running:
        yield running


@pytest.fixture
def own_host(busybox_tar: Path) -> Iterator[Host]:
    """A pydd of the test's own, to kill and restart."""
    with running_host(busybox_tar) as running:
        yield running


@pytest.fixture
def pyd_host(host: Host) -> str:
    """The address of a running pydd, for clients."""
    return host.url


@pytest.fixture
def bundle(tmp_path: Path) -> Iterator[Bundle]:
    """For pyd-oci; what its containers leave is removed."""
    made = Bundle(tmp_path)
    yield made
    made.remove_leftovers()


@pytest.fixture(autouse=True)
def no_containers_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """Each test removes its containers; what it forgot is removed here, so that tests don't meet."""
    yield
    if "host" in request.fixturenames:
        running: Host = request.getfixturevalue("host")
        if running.process and running.process.poll() is None:
            ids = running.docker("ps", "-aq").split()
            if ids:
                running.docker("rm", "-f", "-v", *ids)


def load_busybox(running: Host, tar: Path) -> None:
    running.docker("import", "--change", 'CMD ["sh"]', str(tar), "busybox:latest")


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """`127.0.0.1:PORT` of a docker-registry."""
    with images.registry(tmp_path_factory.mktemp("registry")) as address:
        yield address


@pytest.fixture(scope="session")
def debian(registry: str) -> str:
    """A Debian that nobody here made by hand, pushed with skopeo: `127.0.0.1:PORT/debian:test`."""
    return images.push_debian(registry)
