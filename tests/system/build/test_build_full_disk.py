"""Builds on a disk that fills: they say so, leave nothing, and the next one works."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.build.plugins import Buildx
from tests.system.conftest import host_on_a_small_disk, load_busybox
from tests.system.host import Host

MEBI = 1 << 20


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory, busybox_tar: Path) -> Iterator[Host]:
    """A pydd whose data root is a file system of 64 MB."""
    with host_on_a_small_disk(tmp_path_factory.mktemp("small"), 64) as made:
        load_busybox(made, busybox_tar)
        yield made


def free(host: Host, wanted: int) -> None:
    """Waits until what failed is deleted."""
    end = time.monotonic() + 20
    while (found := os.statvfs(host.data_root).f_bavail * os.statvfs(host.data_root).f_frsize) < wanted:
        assert time.monotonic() < end, f"{found} bytes are free, not {wanted}"
        time.sleep(0.1)


LAYERS = pytest.param("layers", marks=pytest.mark.nightly)


@pytest.mark.parametrize("case", ["a process", "a copy", "the context", LAYERS])
def test_a_build_onto_a_full_disk(small: Host, tmp_path: Path, case: str) -> None:
    buildx = Buildx(small, tmp_path)
    before = os.statvfs(small.data_root).f_bavail * os.statvfs(small.data_root).f_frsize
    cases: dict[str, dict[str, str | bytes]] = {
        "a process": {"Dockerfile": "FROM busybox\nRUN dd if=/dev/zero of=/big bs=1M count=80\n"},
        "a copy": {"Dockerfile": "FROM busybox\nCOPY f /1/\nCOPY f /2/\nCOPY f /3/\n", "f": os.urandom(18 * MEBI)},
        "the context": {"Dockerfile": "FROM busybox\nCOPY big /1\n", "big": os.urandom(80 * MEBI)},
        "layers": {"Dockerfile": "FROM busybox\nRUN head -c 40000000 /dev/urandom > /big\n"},
    }  # fmt: skip
    result = buildx.attempt(cases[case], "-t", "big")
    assert result.returncode != 0
    assert b"no space left on device" in result.stderr.lower(), result.stderr.decode()
    assert small.docker("images", "-q", "big") == ""
    buildx.docker("buildx", "prune", "-af")
    free(small, before - 2 * MEBI)
    buildx.build({"Dockerfile": f"FROM busybox\nRUN echo {case} > /f\n"}, "-t", "fits")
    assert buildx.run("fits", "cat", "/f").strip() == case
    small.docker("rmi", "fits")
    buildx.docker("buildx", "prune", "-af")
    assert list((small.data_root / "tmp").glob("*build-*")) == []
