"""Collection: the reachable stays, the rest goes, and leases decide the races."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from storage.content import ContentStore
from storage.gc import Blob, Collector, Layer, Node
from storage.snapshots import OverlaySnapshotter


class World:
    """A store, layers, and a daemon that names roots and references."""

    def __init__(self, root: Path) -> None:
        self.content = ContentStore(root / "content")
        self.snapshots = OverlaySnapshotter(root / "snapshots")
        self.roots: list[Node] = []
        self.references: dict[Node, list[Node]] = {}
        self.before_mark: Callable[[], None] = lambda: None
        self.collector = Collector(
            self.content,
            self.snapshots,
            roots=self._roots,
            references=lambda node: self.references.get(node, []),
        )

    def _roots(self) -> Iterable[Node]:
        found = list(self.roots)
        self.before_mark()
        return found

    def blob(self, data: bytes) -> Blob:
        return Blob(self.content.add(data))

    def layer(self, name: str, parent: str | None = None) -> Layer:
        self.snapshots.prepare("unpack", None)
        (self.snapshots.layer_dir("unpack") / "file").write_bytes(b"12345")
        self.snapshots.commit(name, "unpack", parent=parent)
        return Layer(name)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_what_roots_reach_stays_and_the_rest_goes(world: World) -> None:
    manifest, config, stray = world.blob(b"manifest"), world.blob(b"config"), world.blob(b"stray")
    world.layer("bottom")
    top = world.layer("top", "bottom")
    world.layer("other")
    world.roots = [manifest]
    world.references = {manifest: [config, top]}
    collected = world.collector.collect()
    assert collected.blobs == (stray.digest,)
    assert collected.layers == ("other",)
    assert collected.size == len(b"stray") + 5
    assert {s.key for s in world.snapshots.walk()} == {"bottom", "top"}
    assert world.collector.collect() == ((), (), 0)


def test_whole_chains_go_children_first(world: World) -> None:
    world.layer("a")
    world.layer("b", "a")
    world.layer("c", "b")
    assert world.collector.collect().layers == ("c", "b", "a")


def test_containers_keep_their_image(world: World) -> None:
    world.layer("image")
    world.snapshots.prepare("container", "image")
    assert world.collector.collect().layers == ()
    world.snapshots.remove("container")
    assert world.collector.collect().layers == ("image",)


def test_leased_blob_survives_until_released(world: World) -> None:
    with world.collector.lease() as lease:
        blob = Blob(f"sha256:{'0' * 64}")
        lease.add(blob)
        real = world.blob(b"pulled")
        lease.add(real)
        assert world.collector.collect().blobs == ()
    assert world.collector.collect().blobs == (real.digest,)


def test_lease_taken_while_marking_wins(world: World) -> None:
    blob = world.blob(b"found again")
    lease = world.collector.lease()
    world.before_mark = lambda: lease.add(blob)
    assert world.collector.collect().blobs == ()
    assert world.content.has(blob.digest)


def test_lease_that_came_and_went_while_marking_wins(world: World) -> None:
    blob = world.blob(b"pulled quickly")

    def pull() -> None:
        with world.collector.lease() as lease:
            lease.add(blob)
            world.roots.append(blob)

    world.before_mark = pull
    assert world.collector.collect().blobs == ()
    world.before_mark = lambda: None
    assert world.collector.collect().blobs == ()


def test_leased_layer_keeps_its_parents(world: World) -> None:
    world.layer("a")
    top = world.layer("b", "a")
    lease = world.collector.lease()
    lease.add(top)
    assert world.collector.collect().layers == ()
    lease.release()
    lease.release()
    assert world.collector.collect().layers == ("b", "a")


def test_cycles_of_references_end(world: World) -> None:
    one, other = world.blob(b"1"), world.blob(b"2")
    world.references = {one: [other], other: [one]}
    world.roots = [one]
    assert world.collector.collect().blobs == ()
