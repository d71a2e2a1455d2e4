"""Cache mounts, layers and contexts under one roof: what is shown, what goes, what is in use."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from daemon.build.bench import Bench
from daemon.build.graph import ExecMount
from daemon.build.session.contexts import Contexts
from daemon.build.upkeep.cache import Cache, Entry
from daemon.build.upkeep.cachemounts import CacheMounts
from daemon.build.upkeep.housekeeping import Housekeeping, row
from daemon.config import BuilderConfig, CacheRule, DaemonConfig
from storage.content import ContentStore
from storage.errors import Conflict
from storage.gc import Collector, Layer
from storage.records import Records
from storage.snapshots import OverlaySnapshotter

HOUR = 3600 * 10**9


class Store(list[Any]):
    """Images (here none), and the collector of layers."""

    def __init__(self, root: Path) -> None:
        super().__init__()
        self.snapshots = OverlaySnapshotter(root / "snapshots")
        content = ContentStore(root / "content")
        self.collector = Collector(content, self.snapshots, roots=lambda: (), references=lambda node: ())

    async def collect(self) -> None:
        await asyncio.to_thread(self.collector.collect)


class Rig:
    def __init__(self, root: Path, builder: BuilderConfig | None = None) -> None:
        self.store = Store(root)
        self.cache = Cache(Records(root / "db"), self.store.collector.lease)
        self.mounts = CacheMounts(root / "mounts")
        config = DaemonConfig(data_root=root, builder=builder or BuilderConfig())
        bench = SimpleNamespace(
            store=self.store,
            cache=self.cache,
            cache_mounts=self.mounts,
            running={},
            sessions=SimpleNamespace(contexts=Contexts(root / "contexts")),
            ctx=SimpleNamespace(config=config),
        )
        self.keeper = Housekeeping(cast(Bench, bench))

    async def layer(self, name: str, *, used: int = 1, parent: str = "", key: str = "") -> None:
        chain = name * 32
        if not self.store.snapshots.exists(chain):
            self.store.snapshots.prepare(f"build-{name}", parent * 32 or None)
            self.store.snapshots.commit(chain, f"build-{name}")
        entry = Entry(
            f"sha256:{(key or name) * 32}", (chain,), chain, "", 10, used, used, 1, "exec", name, parent * 32
        )
        await self.cache.add(entry)

    async def shown(self) -> dict[str, Any]:
        return {record.description: record for record in await self.keeper.records()}


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig(tmp_path)


async def test_one_record_a_layer_whatever_its_keys(rig: Rig) -> None:
    await rig.layer("aa")
    await rig.layer("aa", key="ee", used=5)
    await rig.layer("bb", parent="aa")
    first, second = await rig.keeper.records()
    assert (first.uses, first.used, first.in_use) == (2, 5, False)
    assert second.parents == (first.id,)
    assert row(second)["Parents"] == [first.id] and row(second)["Type"] == "regular"
    with rig.store.collector.lease() as lease:
        lease.add(Layer("aa" * 32))
        assert [record.in_use for record in await rig.keeper.records()] == [True, False]
        gone, freed = await rig.keeper.prune(CacheRule())
        assert [record.description for record in gone] == ["bb"] and freed == 10
    gone, _ = await rig.keeper.prune(CacheRule())
    assert len(gone) == 1 and not rig.store.snapshots.exists("aa" * 32) and not rig.cache.entries


async def test_a_cache_mount_in_use_stays(rig: Rig) -> None:
    directory, release = await rig.mounts.take(ExecMount("cache", "/c", id="i"), "cached mount /c", None)
    (directory / "f").write_bytes(bytes(5000))
    (record,) = await rig.keeper.records()
    assert (record.type, record.mutable, record.in_use) == ("exec.cachemount", True, True)
    assert record.size >= 5000
    assert await rig.keeper.prune(CacheRule(all=True)) == ([], 0)
    release()
    (gone,), freed = await rig.keeper.prune(CacheRule(filters=("type==exec.cachemount",)))
    assert gone.id == record.id and freed >= 5000 and not directory.exists()
    assert list(rig.mounts.root.iterdir()) == []


async def test_private_mounts_are_copies_and_locked_ones_wait(rig: Rig) -> None:
    private = ExecMount("cache", "/c", id="i", sharing="private")
    first, release = await rig.mounts.take(private, "", None)
    second, other = await rig.mounts.take(private, "", None)
    assert first != second
    release()
    assert (await rig.mounts.take(private, "", None))[0] == first
    other()
    locked = ExecMount("cache", "/c", id="i", sharing="locked")
    _, release = await rig.mounts.take(locked, "", None)
    waiting = asyncio.ensure_future(rig.mounts.take(locked, "", None))
    await asyncio.sleep(0)
    assert not waiting.done()
    release()
    (await waiting)[1]()


async def test_a_mount_that_could_not_be_filled_is_not_there(rig: Rig) -> None:
    async def fill(directory: Path) -> None:
        (directory / "half").write_text("")
        raise OSError("no space left on device")

    mount = ExecMount("cache", "/c", id="i", sharing="locked")
    with pytest.raises(OSError, match="no space"):
        await rig.mounts.take(mount, "", fill)
    assert await rig.keeper.records() == []
    directory, release = await rig.mounts.take(mount, "", None)
    assert list(directory.iterdir()) == []
    release()


async def test_one_prune_at_a_time(rig: Rig) -> None:
    await rig.layer("aa")
    results = await asyncio.gather(*(rig.keeper.prune(CacheRule()) for _ in range(2)), return_exceptions=True)
    assert sum(isinstance(each, Conflict) for each in results) == 1


async def test_garbage_collection_goes_by_the_rules(tmp_path: Path) -> None:
    rule = CacheRule(all=True, unused_for=HOUR)
    rig = Rig(tmp_path, BuilderConfig(rules=(rule,)))
    await rig.layer("aa", used=1)
    assert await rig.keeper.collect() == 10
    idle = Rig(tmp_path / "off", BuilderConfig(collects=False, rules=(rule,)))
    await idle.layer("aa", used=1)
    assert await idle.keeper.collect() == 0
