"""The build cache: leases while entries live, what a prune chooses, and what survives a restart."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from daemon.build.upkeep.cache import Cache, Entry
from storage.content import ContentStore
from storage.gc import Collector, Layer
from storage.records import Records
from storage.snapshots import OverlaySnapshotter


class Store:
    """A collector over an empty image store, and one committed snapshot a chain."""

    def __init__(self, root: Path) -> None:
        self.records = Records(root / "db")
        self.snapshots = OverlaySnapshotter(root / "snapshots")
        content = ContentStore(root / "content")
        self.collector = Collector(content, self.snapshots, roots=lambda: (), references=lambda node: ())
        self.cache = Cache(self.records, self.collector.lease)

    def entry(self, name: str, *, used: int, size: int = 10, parent: str = "") -> Entry:
        self.snapshots.prepare(f"build-{name}", parent or None)
        self.snapshots.commit(name, f"build-{name}")
        return Entry(
            f"sha256:{name * 32}", (name,), name, "", size, used, used, 1, "exec", f"RUN {name}", parent
        )


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


async def test_entries_keep_their_layers_until_forgotten(store: Store) -> None:
    await store.cache.add(store.entry("aa", used=1))
    await store.cache.add(store.entry("bb", used=2, parent="aa"))
    store.snapshots.prepare("build-cc", None)
    store.snapshots.commit("cc", "build-cc")
    assert store.collector.collect().layers == ("cc",)
    await store.cache.forget(["sha256:" + "bb" * 32])
    assert store.collector.collect().layers == ("bb",)
    assert store.snapshots.exists("aa")


async def test_a_restart_finds_entries_and_times_of_use(store: Store) -> None:
    entry = store.entry("aa", used=1)
    await store.cache.add(entry)
    found = store.cache.find(entry.key)
    assert found is not None and found.uses == 2 and found.used > 1
    await store.cache.save()
    again = Cache(store.records, store.collector.lease)
    again.load()
    assert again.entries == {entry.key: found}
    with store.collector.lease() as lease:
        lease.add(Layer("zz"))
    assert store.collector.collect().layers == ()


async def test_two_keys_for_one_layer_count_once(store: Store) -> None:
    entry = store.entry("aa", used=1, size=100)
    await store.cache.add(entry)
    await store.cache.add(replace(entry, key="sha256:" + "ee" * 32))
    assert store.cache.size() == 100
    await store.cache.forget([entry.key])
    assert store.collector.collect().layers == ()
    assert store.collector.leases(Layer("aa")) == 1
