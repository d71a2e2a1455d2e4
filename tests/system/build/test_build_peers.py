"""The same Dockerfiles built by a real BuildKit: same files, owners, modes, configuration.

What it made is recorded (peers.py); where a dockerd is beside us it is asked again.

Named differences:
- times, and what is derived from them;
- a directory that a RUN only touched (BuildKit's layers have `etc/` because it mounted upon it) is in no layer of
  ours: what the image holds is the same;
- BuildKit adds attestations unless told not to (`--provenance=false` there).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.build import peers
from tests.system.build.conftest import Builder
from tests.system.build.real.comparing import Image, differences, saved


def alike(one: Image, other: Image) -> None:
    lines = differences(one.files, other.files) + differences(one.document, other.document)
    assert not lines, "\n".join(lines)


@pytest.fixture
def base(builder: Builder, busybox_tar: Path, tmp_path: Path) -> Iterator[Image]:
    with peers.based(builder.host.url, busybox_tar):
        yield saved(builder.host.url, peers.BASE, tmp_path)


@pytest.fixture(scope="module")
def base_there(busybox_tar: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Image]:
    with peers.based(peers.SOCKET, busybox_tar):
        yield saved(peers.SOCKET, peers.BASE, tmp_path_factory.mktemp("base"))


@pytest.mark.parametrize("kind", peers.KINDS)
def test_same_image_as_buildkit(builder: Builder, base: Image, kind: str, tmp_path: Path) -> None:
    tag = f"pyd-tests-{kind.replace(' ', '-')}:latest"
    builder.build(peers.checkout(kind, tmp_path), "-t", tag)
    try:
        alike(peers.read(builder.host.url, tag, base, kind, tmp_path), peers.recorded(kind))
    finally:
        builder.host.docker("rmi", tag)


@pytest.mark.peer
@pytest.mark.parametrize("kind", peers.KINDS)
def test_buildkit_still_says_so(base_there: Image, kind: str, tmp_path: Path) -> None:
    alike(peers.theirs(kind, base_there, tmp_path), peers.recorded(kind))
