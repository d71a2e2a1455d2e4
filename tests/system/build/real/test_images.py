"""Every kind of image: files, owners, modes, attributes, links and configuration are those that BuildKit makes.

Named differences:
- times, and the contents that kinds.py lists with their reasons;
- `docker save` of a dockerd with graph drivers leaves out user attributes, which a layer of ours keeps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.system.build.real import building, recording
from tests.system.build.real.building import Door, Surroundings
from tests.system.build.real.comparing import Image, differences, only
from tests.system.build.real.conftest import Engine
from tests.system.build.real.kinds import KINDS, Kind
from tests.system.build.real.running import CHECKS
from tests.system.host import Host

CLASSIC = [kind for kind in KINDS if not kind.buildx]
QUICK = [kind for kind in CLASSIC if not kind.base or "debian" not in kind.base]


def parameters(kinds: list[Kind]) -> list[object]:
    marks = {kind.name: [pytest.mark.nightly] if kind.nightly else [] for kind in kinds}
    return [pytest.param(kind, id=kind.name, marks=marks[kind.name]) for kind in kinds]


@pytest.fixture
def build(
    ours: Engine, around: Surroundings, tmp_path: Path, host: Host
) -> Iterator[Callable[[Door, Kind], Image]]:
    made: list[str] = []

    def make(door: Door, kind: Kind) -> Image:
        tree = building.checkout(kind, tmp_path)
        made.extend([kind.tag, *(tag for _, tag in kind.before)])
        door.build(kind, tree, around)
        return door.image(kind, ours.bases.get(kind.base or ""), around, tmp_path)

    yield make
    if made:
        host.try_docker("rmi", "-f", *made)


@pytest.mark.parametrize("kind", parameters(CLASSIC))
def test_is_what_buildkit_made(
    kind: Kind, ours: Engine, build: Callable[[Door, Kind], Image], host: Host
) -> None:
    image = build(building.pyd_door(ours.url), kind)
    recorded = recording.read(kind)
    found = only(image, kind.recorded)
    lines = differences(found.files, recorded.files) + differences(found.document, recorded.document)
    lines = [line for line in lines if line.partition(":")[0] not in kind.differs]
    assert not lines, "\n".join(lines)
    if check := CHECKS.get(kind.name):
        check(host, kind.tag)
