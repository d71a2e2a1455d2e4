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

QUICK = [kind for kind in KINDS if kind.quick]
CLASSIC = [kind for kind in KINDS if not kind.buildx]
PEERS = [kind for kind in KINDS if not kind.peerless]
Make = Callable[[Door, Kind], Image]


def kinds(chosen: list[Kind], *, quick: bool) -> pytest.MarkDecorator:
    """A test for each of them; with `quick` those that fetch packages wait for the night."""
    night = [pytest.mark.nightly]
    slow = {kind.name: kind.nightly or (quick and not kind.quick) for kind in chosen}
    return pytest.mark.parametrize(
        "kind", [pytest.param(kind, id=kind.name, marks=night if slow[kind.name] else []) for kind in chosen]
    )


@pytest.fixture
def make(ours: Engine, around: Surroundings, tmp_path: Path, host: Host) -> Iterator[Make]:
    """Builds a kind here, and reads what it added to its base."""
    made: list[str] = []

    def build(door: Door, kind: Kind) -> Image:
        tree = building.checkout(kind, tmp_path)
        made.extend([kind.tag, *(tag for _, tag in kind.before)])
        door.build(kind, tree, around)
        return door.image(kind, ours.bases.get(kind.base or ""), around, tmp_path)

    yield build
    if made:
        host.try_docker("rmi", "-f", *made)


def alike(kind: Kind, ours: Image, theirs: Image) -> None:
    lines = differences(ours.files, theirs.files) + differences(ours.document, theirs.document)
    lines = [line for line in lines if line.partition(":")[0] not in kind.differs]
    assert not lines, "\n".join(lines)


@kinds(list(KINDS), quick=False)
def test_buildx_makes_what_buildkit_made(
    kind: Kind, ours: Engine, make: Make, host: Host, client_config: Path
) -> None:
    image = make(building.buildx_door(ours.url, client_config), kind)
    alike(kind, only(image, kind.recorded), recording.read(kind))
    if check := CHECKS.get(kind.name):
        check(host, kind.tag)


@kinds(CLASSIC, quick=True)
def test_the_classic_door_makes_the_same(kind: Kind, ours: Engine, make: Make) -> None:
    image = make(building.pyd_door(ours.url), kind)
    alike(kind, only(image, kind.recorded), recording.read(kind))


@pytest.mark.peer
@kinds(PEERS, quick=True)
def test_a_buildkit_beside_us_makes_the_same(
    kind: Kind,
    ours: Engine,
    theirs: Engine,
    make: Make,
    around: Surroundings,
    tmp_path: Path,
    client_config: Path,
) -> None:
    """Everything in the image, not only what is recorded; and what is recorded is what it still says."""
    image = make(building.buildx_door(ours.url, client_config), kind)
    door = building.buildx_door(theirs.url, client_config)
    tree = tmp_path / kind.name
    building.without_syntax(tree)
    try:
        door.build(kind, tree, around)
        other = door.image(kind, theirs.bases.get(kind.base or ""), around, tmp_path)
    finally:
        door.remove(kind.tag, *(tag for _, tag in kind.before))
    alike(kind, image, other)
    recorded = recording.read(kind)
    assert differences(only(other, kind.recorded).files, recorded.files) == []
    assert differences(other.document, recorded.document) == []
