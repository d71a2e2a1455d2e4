"""One vertex whose inputs are there: its key, and what is done when nobody knows its results."""

from __future__ import annotations

import contextlib
import secrets

from daemon.build.bench import SCRATCH, Bench, Job, Result
from daemon.build.graph import (
    CopyFiles,
    Diff,
    Exec,
    ExecMount,
    File,
    Merge,
    Source,
    Vertex,
    describe,
    digest_of,
)
from daemon.build.solver import run
from daemon.build.solver.keys import Keys, outputs
from daemon.build.solver.layering import Active, Layering, new_key
from daemon.build.solver.lookup import Lookup, Results
from daemon.build.solver.processes import Left, ProcessFailed
from daemon.build.solver.stacking import Stacking
from daemon.build.sources.origins import Origins
from daemon.build.steps import Progress
from daemon.build.upkeep.cache import Entry
from storage.gc import Layer


class Executing:
    """For one job."""

    def __init__(self, bench: Bench, job: Job, lookup: Lookup) -> None:
        self._bench, self._job, self._lookup = bench, job, lookup
        self._keys = Keys(bench, job, lookup.bring)
        self._layering = Layering(bench, job)
        self._stacking = Stacking(bench, job, lookup, self._layering)

    async def results(self, vertex: Vertex, inputs: list[Result], progress: Progress) -> tuple[Results, bool]:
        """A vertex's outputs, and whether nothing had to be done for them."""
        match vertex.operation:
            case Source() as source:
                found, here = await Origins(self._bench, self._job).get(source, progress)
                return (found,), here
            case Merge() | Diff() as operation:
                inputs = [await self.layered(each, vertex) for each in inputs]
                return await self._stacking.work(operation, vertex, inputs, progress)
            case File() as file:
                return await self._file(file, inputs, vertex, progress)
            case Exec() as process:
                return await self._process(process, inputs, vertex, progress)

    async def layered(self, result: Result, vertex: Vertex) -> Result:
        """A context's or a download's directory as a layer, where layers are needed."""
        if result.directory is None:
            return result
        read = await self._keys.contents(result, ("/",), False, ())
        copied = describe(CopyFiles(1, ("/",), "/", wildcard=False))

        async def work() -> list[Entry]:
            async with Active(self._bench, SCRATCH) as active:
                trees = [None, self._bench.overlay(result)]
                await self._bench.workshop.call(
                    "file", actions=[copied], target=active.tree(), inputs=trees, own=[False, True]
                )
                return [await self._layering.layer(active, vertex, "source")]

        unseen = Progress(vertex)
        (layered,), _ = await self._lookup.once(digest_of(["tree", read]), vertex, unseen, work)
        return layered

    async def _file(
        self, file: File, inputs: list[Result], vertex: Vertex, progress: Progress
    ) -> tuple[Results, bool]:
        inputs[0] = await self.layered(inputs[0], vertex)
        key = await self._lookup.key(lambda claims: self._keys.file(file, inputs, claims), vertex)

        async def work() -> list[Entry]:
            await self._lookup.bring(*inputs)
            async with Active(self._bench, inputs[0]) as active:
                await self._bench.workshop.call(
                    "file",
                    actions=[describe(action) for action in file.actions],
                    target=active.tree(),
                    inputs=[self._bench.overlay(each) for each in inputs],
                    own=[self._never_changes(each) for each in inputs],
                )
                return [await self._layering.layer(active, vertex, "file")]

        return await self._lookup.once(key, vertex, progress, work)

    def _never_changes(self, tree: Result) -> bool:
        """Whether the files of a directory may become a layer's by a link: the build's own, and kept contexts."""
        directory = tree.directory
        if directory is None:
            return False
        return directory.is_relative_to(self._job.directory) or self._bench.sessions.contexts.keeps(directory)

    async def _process(
        self, process: Exec, inputs: list[Result], vertex: Vertex, progress: Progress
    ) -> tuple[Results, bool]:
        inputs[0] = await self.layered(inputs[0], vertex)
        for mount in process.mounts:
            if mount.output > 0 and mount.input >= 0:
                inputs[mount.input] = await self.layered(inputs[mount.input], vertex)
        count = outputs(process)
        key = await self._lookup.key(lambda claims: self._keys.exec(process, inputs, claims), vertex, count)

        async def work() -> list[Entry]:
            return await self._run(process, inputs, vertex, progress)

        return await self._lookup.once(key, vertex, progress, work, count)

    async def _run(
        self, process: Exec, inputs: list[Result], vertex: Vertex, progress: Progress
    ) -> list[Entry]:
        """One entry an output, the root's first."""
        parent = inputs[0]
        await self._lookup.bring(*inputs)
        async with contextlib.AsyncExitStack() as stack:
            root = await stack.enter_async_context(Active(self._bench, parent))
            written: dict[int, Active] = {}
            for mount in process.mounts:
                if mount.output > 0:
                    base = inputs[mount.input] if mount.input >= 0 else SCRATCH
                    written[mount.output] = await stack.enter_async_context(Active(self._bench, base))
            keys = {number: active.key for number, active in written.items()}
            try:
                stubs = await run.run(self._bench, self._job, process, inputs, root.key, progress, keys)
            except ProcessFailed as error:
                error.left = self._left(process, inputs, root)
                raise
            if process.readonly:
                entries = [self._layering.entry(parent.diff_ids, parent.chain, 0, "exec", vertex, "")]
            else:
                entries = [await self._layering.layer(root, vertex, "exec", stubs)]
            for _, active in sorted(written.items()):
                entries.append(await self._layering.layer(active, vertex, "exec"))
            return entries

    def _left(self, process: Exec, inputs: list[Result], root: Active) -> Left | None:
        """Keeps what a failed process leaves, for as long as its build."""
        left = self._job.left
        if left is None:
            return None
        name = new_key()
        self._job.lease.add(Layer(name))
        self._bench.store.snapshots.commit(name, root.key)
        root.done = True
        given = [inputs[0], *(self._given(mount, inputs) for mount in process.mounts if mount.target)]
        given += [None] if process.shm_size else []  # a mount in definitions
        before = tuple(_kept(left, each) for each in given)
        after = _kept(left, Result(inputs[0].diff_ids, snapshot=name))
        return Left(before, (after, *before[1:]))

    @staticmethod
    def _given(mount: ExecMount, inputs: list[Result]) -> Result | None:
        return inputs[mount.input] if mount.input >= 0 else None


def _kept(left: dict[str, Result], tree: Result | None) -> str:
    """The ID that is told of a tree; empty for none, and for scratch."""
    if tree is None or (not tree.chain and tree.directory is None):
        return ""
    id = secrets.token_hex(12)
    left[id] = tree
    return id
