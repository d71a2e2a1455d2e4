"""Merge, Diff and File operations of the graph upon real snapshots, by the solver itself."""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from daemon.build.bench import Bench, Job, Result
from daemon.build.graph import CopyFiles, Diff, File, Merge, Mkdir, Mkfile, Output, Remove, Symlink, Vertex
from daemon.build.solver.solve import Solver, StepFailed
from daemon.build.upkeep.cache import Cache
from daemon.build.workshop import Workshop
from daemon.images.store import ImageStore
from storage.content import ContentStore
from storage.records import Records
from storage.snapshots import OverlaySnapshotter, mounted

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounts overlays")


class World:
    def __init__(self, directory: Path, workshop: Workshop, records: Records) -> None:
        content = ContentStore(directory / "content")
        self.snapshots = OverlaySnapshotter(directory / "snapshots")
        self.store = ImageStore(content, self.snapshots, records)
        self.store.load()
        ctx: Any = SimpleNamespace(purge_wanted=asyncio.Event())
        cache = Cache(records, self.store.lease)
        unused: Any = None
        self.bench = Bench(ctx, self.store, cache, workshop, directory, directory, unused)
        self.directory, self.jobs = directory, 0

    async def solve(self, output: Output | None) -> Result:
        self.jobs += 1
        directory = self.directory / f"job-{self.jobs}"
        directory.mkdir()
        self.job = Job(str(self.jobs), directory, self.store.lease())
        return (await Solver(self.bench, self.job).solve_all([output]))[0]

    async def tree(self, output: Output | None) -> dict[str, str]:
        """Paths to contents, targets of links, or "" for directories."""
        result = await self.solve(output)
        if not result.diff_ids:
            return {}
        with mounted(self.snapshots.overlay(result.chain)) as fd:
            return dict(_walk(f"/proc/self/fd/{fd}", ""))


def _walk(top: str, path: str) -> Any:
    for entry in sorted(os.scandir(f"{top}/{path}"), key=lambda e: e.name):
        name = f"{path}/{entry.name}".lstrip("/")
        found = entry.stat(follow_symlinks=False)
        if entry.is_symlink():
            yield name, f"-> {os.readlink(entry.path)}"
        elif entry.is_dir():
            yield name, ""
            yield from _walk(top, name)
        elif stat.S_ISREG(found.st_mode):
            yield name, Path(entry.path).read_text()
        else:
            yield name, "?"


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    workshop, records = Workshop(tmp_path / "content"), Records(tmp_path / "db")
    with workshop.held():
        try:
            yield World(tmp_path, workshop, records)
        finally:
            await workshop.close()
            records.close()


def files(base: Output | None = None, **contents: str | None) -> Output:
    """Files upon a tree; None removes. `a__b` is a/b."""
    actions: list[Any] = []
    for name, text in contents.items():
        path = "/" + name.replace("__", "/")
        actions.append(Remove(path) if text is None else Mkfile(path, text))
    return Output(Vertex(File(tuple(actions)), (base,)))


def merge(*outputs: Output) -> Output:
    return Output(Vertex(Merge(), outputs))


def diff(lower: Output | None, upper: Output | None) -> Output:
    return Output(Vertex(Diff(), (lower, upper)))


async def test_a_merge_lays_trees_over_one_another_with_what_they_remove(world: World) -> None:
    base = files(a="base", d__x="1", d__y="2", gone="!")
    one = files(base, a="one", gone=None)
    two = files(None, d__z="3", a="two")
    assert await world.tree(merge(one, two)) == {"a": "two", "d": "", "d/x": "1", "d/y": "2", "d/z": "3"}
    changes = diff(base, one)
    assert await world.tree(merge(base, two, changes)) == {
        "a": "one", "d": "", "d/x": "1", "d/y": "2", "d/z": "3",
    }  # fmt: skip


async def test_a_merged_layer_is_the_same_layer_and_takes_no_second_copy(world: World) -> None:
    upper = files(None, big="x" * 100_000)
    first = await world.solve(merge(files(base1="1"), upper))
    second = await world.solve(merge(files(base2="2"), upper))
    assert first.diff_ids[-1] == second.diff_ids[-1] and first.chain != second.chain
    inodes = {os.stat(world.snapshots.layer_dir(each.chain) / "big").st_ino for each in (first, second)}
    assert len(inodes) == 1
    again = await world.solve(merge(files(base1="1"), upper))
    assert again.chain == first.chain
    assert world.job.progress[merge(files(base1="1"), upper).vertex.digest].state == "cached"


async def test_an_opaque_directory_hides_what_it_is_merged_upon(world: World) -> None:
    base = files(d__old="1")
    replaced = Output(Vertex(File((Remove("/d"), Mkfile("/d/new", "2"))), (base,)))
    changes = diff(base, replaced)
    assert await world.tree(merge(files(d__other="3", d__old="4"), changes)) == {"d": "", "d/new": "2"}


async def test_differences_of_trees_that_have_nothing_in_common(world: World) -> None:
    lower = files(same="1", changed="a", gone="x", d__gone="y", kind="file")
    upper = Output(
        Vertex(
            File(
                (Mkfile("/changed", "b"), Mkdir("/kind"), Mkfile("/kind/in", "z"), Symlink("/link", "same"))
            ),
            (files(same="1", other="new"),),
        )
    )
    laid = await world.tree(merge(lower, diff(lower, upper)))
    assert laid == await world.tree(upper)
    assert await world.tree(diff(lower, lower)) == {}
    assert await world.tree(merge(lower, diff(lower, None))) == {}
    assert await world.tree(diff(None, upper)) == await world.tree(upper)


@pytest.mark.parametrize(
    ("action", "expected"),
    [
        (CopyFiles(1, ("/d",), "/new"), {"new": "", "new/k.c": "1", "new/k.o": "2"}),
        (
            CopyFiles(1, ("/d",), "/there", contents=False),
            {"there/d": "", "there/d/k.c": "1", "there/d/k.o": "2"},
        ),
        (CopyFiles(1, ("/d",), "/", contents=False, includes=("*.c",)), {"d": "", "d/k.c": "1"}),
        (CopyFiles(1, ("/l",), "/l2", follow=False), {"l2": "-> d/k.c"}),
        (CopyFiles(1, ("/l",), "/l2"), {"l2": "1"}),
        (CopyFiles(1, ("/nothing*",), "/x"), {}),
    ],
)
async def test_what_copies_can_be_told(world: World, action: CopyFiles, expected: dict[str, str]) -> None:
    made = File((Mkfile("/d/k.c", "1"), Mkfile("/d/k.o", "2"), Symlink("/l", "d/k.c")))
    source = Output(Vertex(made, (None,)))
    target = Output(Vertex(File((Mkdir("/there"),)), (None,)))
    found = await world.tree(Output(Vertex(File((action,)), (target, source))))
    assert found == {"there": "", **expected}


@pytest.mark.parametrize(
    ("action", "part"),
    [
        (CopyFiles(1, ("/nothing*",), "/x", required=True), "not found"),
        (CopyFiles(1, ("/a",), "/no/such/x", create=False), "failed to stat /no/such/x"),
        (Mkdir("/no/such/d", parents=False), "no such file"),
        (Remove("/nothing"), "not found"),
    ],
)
async def test_what_copies_refuse(world: World, action: Any, part: str) -> None:
    output = Output(Vertex(File((action,)), (files(b="1"), files(a="1"))))
    with pytest.raises(StepFailed, match=part):
        await world.solve(output)


async def test_times_that_were_asked_for(world: World) -> None:
    when = 1_000_000_000 * 10**9
    actions = (Mkdir("/d", time=when), Mkfile("/f", "", time=when), CopyFiles(1, ("/a",), "/c", time=when))
    result = await world.solve(Output(Vertex(File(actions), (None, files(a="1")))))
    upper = world.snapshots.layer_dir(result.chain)
    assert {os.stat(upper / name).st_mtime_ns for name in ("d", "f", "c")} == {when}
