"""The solver: a graph to layers, as much side by side as its edges allow, nothing twice.

Each vertex is a task that awaits its inputs. A step's cache key is the digest of its operation, of its
parent's chain ID, and of the content that it reads; the parent's chain ID is itself a digest of content, so a
step that was run again with the same outcome invalidates nothing behind it. Of equal steps that run at once,
in whichever builds, one works and the others wait; when the one is cancelled another takes over.

Failing or being cancelled, a solve first waits for its own tasks: nothing of them is mounted or running then.
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import os
import secrets
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any

from daemon.build.bench import BUILD_KEY, SCRATCH, Bench, Imported, Job, Result
from daemon.build.graph import (
    CopyFiles,
    Diff,
    Exec,
    File,
    Merge,
    Output,
    Source,
    Vertex,
    describe,
    digest_of,
    ordered,
)
from daemon.build.solver import run
from daemon.build.solver.keys import Keys, numbered, outputs
from daemon.build.sources.origins import Origins
from daemon.build.steps import Progress
from daemon.build.upkeep.cache import Entry
from daemon.images.made import Unpacked
from daemon.images.manifests import DOCKER_LAYER
from daemon.images.model import chain_ids
from daemon.images.model import digest_of as digest_of_bytes
from storage.errors import Conflict, Internal, InvalidArgument, PydError
from storage.gc import Blob, Layer

Results = tuple[Result, ...]
"""A vertex's outputs."""
EMPTY_TAR = bytes(1024)
EMPTY_GZIP = gzip.compress(EMPTY_TAR, mtime=0)
EMPTY_DIFF, EMPTY_BLOB = digest_of_bytes(EMPTY_TAR), digest_of_bytes(EMPTY_GZIP)


class StepFailed(PydError):
    """A vertex failed; the cause is the message, `vertex` says where."""

    status = 400

    def __init__(self, cause: PydError, vertex: Vertex, progress: Progress) -> None:
        self.cause, self.vertex, self.progress = cause, vertex, progress
        super().__init__(str(cause))


class _Lost(Exception):
    """An imported cache told of layers that can't be had."""


class Solver:
    """Solves for one job."""

    def __init__(self, bench: Bench, job: Job) -> None:
        self._bench, self._job = bench, job
        self._imported = job.imported
        self._imported_first = False
        """Whether imported caches are asked before ours."""
        self._keys = Keys(bench, job, self._bring)
        self._tasks: dict[str, asyncio.Task[Results]] = {}

    async def solve(self, output: Output | None) -> Result:
        """The tree of an output. StepFailed names the first vertex that failed."""
        return (await self.solve_all([output]))[0]

    async def trees(self, outputs: Sequence[Output | None]) -> list[Result]:
        """As solve_all(); what is a directory stays one and becomes no layer."""
        return await self._until_found(outputs, layers=False)

    async def solve_all(self, outputs: Sequence[Output | None]) -> list[Result]:
        """Several outputs' trees, in their order; what they share is done once."""
        return await self._until_found(outputs, layers=True)

    async def _until_found(self, outputs: Sequence[Output | None], *, layers: bool) -> list[Result]:
        if self._job.policy is not None:
            outputs = self._job.policy.applied(outputs)
        while True:
            try:
                return await self._solve(outputs, layers=layers)
            except _Lost:  # which that cache is not asked for again; what was done meanwhile is in ours
                sources = [each.digest for each in ordered(outputs) if isinstance(each.operation, Source)]
                got = {digest: self._tasks[digest] for digest in sources if digest in self._tasks}
                self._tasks = {digest: task for digest, task in got.items() if _succeeded(task)}

    async def _solve(self, outputs: Sequence[Output | None], *, layers: bool) -> list[Result]:
        vertices = ordered(outputs)
        try:
            if self._imported is not None:
                await self._prefer(self._imported, vertices)
            self._begin(vertices)
            await self._watch({self._tasks[each.vertex.digest] for each in outputs if each})
            results = [await self._of(each) for each in outputs]
            if layers:
                results = [
                    await self._layered(result, each.vertex) if each else result
                    for result, each in zip(results, outputs, strict=True)
                ]
            await self._bring(*results)
            return results
        finally:
            for task in self._tasks.values():
                task.cancel()
            await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    def _begin(self, vertices: Sequence[Vertex]) -> None:
        for vertex in vertices:
            if vertex.digest not in self._tasks:
                task = asyncio.get_running_loop().create_task(self._vertex(vertex))
                self._tasks[vertex.digest] = task

    async def _prefer(self, imported: Imported, vertices: Sequence[Vertex]) -> None:
        """Decides who is asked first, when all sources are there."""
        from daemon.build.remotecache.preferring import Probe, Unknown

        async def unknown(tree: Result) -> None:
            if not self._bench.store.has_layer(tree.chain):
                raise Unknown()

        sources = [vertex for vertex in vertices if isinstance(vertex.operation, Source)]
        self._begin(sources)
        await self._watch({self._tasks[each.digest] for each in sources})
        known = {each.digest: self._tasks[each.digest].result() for each in sources}
        probe = Probe(self._bench, Keys(self._bench, self._job, unknown), imported)
        self._imported_first = await probe.imported_first(vertices, known)

    async def _watch(self, targets: set[asyncio.Task[Results]]) -> None:
        """The first failure of any vertex is the build's, even while others run."""
        waiting = set(self._tasks.values())
        while waiting and not all(target.done() for target in targets):
            done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                if not task.cancelled() and isinstance(error := task.exception(), StepFailed | _Lost):
                    raise error

    async def _of(self, output: Output | None) -> Result:
        if output is None:
            return SCRATCH
        results = await self._tasks[output.vertex.digest]
        if output.index >= len(results):
            raise InvalidArgument(f"invalid output {output.index} of a step that has {len(results)}")
        return results[output.index]

    async def _vertex(self, vertex: Vertex) -> Results:
        inputs = [await self._of(each) for each in vertex.inputs]
        progress = self._job.of(vertex)
        try:
            results, cached = await self._work(vertex, inputs, progress)
        except (StepFailed, _Lost):
            raise
        except PydError as error:
            progress.finish("failed", str(error))
            raise StepFailed(error, vertex, progress) from error
        except asyncio.CancelledError:
            progress.finish("failed", "context canceled")
            raise
        except Exception as error:
            progress.finish("failed", str(error))
            raise StepFailed(Internal(f"{type(error).__name__}: {error}"), vertex, progress) from error
        progress.finish("cached" if cached else "done")
        return results

    async def _work(self, vertex: Vertex, inputs: list[Result], progress: Progress) -> tuple[Results, bool]:
        match vertex.operation:
            case Source() as source:
                found, here = await Origins(self._bench, self._job).get(source, progress)
                return (found,), here
            case Merge() | Diff():
                inputs = [await self._layered(each, vertex) for each in inputs]
                return await self._stacked(vertex, inputs, progress)
            case File() as file:
                inputs[0] = await self._layered(inputs[0], vertex)
                key = await self._key(lambda claims: self._keys.file(file, inputs, claims), vertex)

                async def make() -> list[Entry]:
                    return [await self._file(file, inputs, vertex)]

                return await self._cached(key, vertex, progress, make)
            case Exec() as process:
                inputs[0] = await self._layered(inputs[0], vertex)
                for mount in process.mounts:
                    if mount.output > 0 and mount.input >= 0:
                        inputs[mount.input] = await self._layered(inputs[mount.input], vertex)
                count = outputs(process)
                key = await self._key(lambda claims: self._keys.exec(process, inputs, claims), vertex, count)

                async def work() -> list[Entry]:
                    return await self._exec(process, inputs, vertex, progress)

                return await self._cached(key, vertex, progress, work, count)

    async def _layered(self, result: Result, vertex: Vertex) -> Result:
        """A context's or a download's directory as a layer, where layers are needed."""
        if result.directory is None:
            return result
        read = await self._keys.contents(result, ("/",), False, ())
        copied = describe(CopyFiles(1, ("/",), "/", wildcard=False))

        async def work() -> list[Entry]:
            async with _Active(self._bench, SCRATCH) as active:
                trees = [None, self._bench.overlay(result)]
                await self._bench.workshop.call(
                    "file", actions=[copied], target=active.tree(), inputs=trees, own=[False, True]
                )
                return [await self._layer(active, SCRATCH, vertex, "source", [])]

        unseen = Progress(vertex)
        (layered,), _ = await self._cached(digest_of(["tree", read]), vertex, unseen, work)
        return layered

    # -- the cache

    async def _key(self, make: Callable[[bool], Awaitable[str]], vertex: Vertex, count: int = 1) -> str:
        """A key made of what imported caches say of contents, if that is found; else of what the contents are.

        So no step runs and is remembered under a key that nobody here has checked.
        """
        if self._imported is None or vertex.about.no_cache:
            return await make(False)
        claimed = await make(True)
        if await self._found(numbered(claimed, count)) is not None:
            return claimed
        return await make(False)

    async def _cached(
        self,
        key: str,
        vertex: Vertex,
        progress: Progress,
        work: Callable[[], Awaitable[Sequence[Entry]]],
        count: int = 1,
    ) -> tuple[Results, bool]:
        """From the cache, from an equal step under way, or by working. `count`: the step's outputs."""
        bench = self._bench
        fresh = vertex.about.no_cache
        self._job.keys[vertex.digest] = key
        keys = numbered(key, count)
        while True:
            if not fresh and (found := await self._found(keys)) is not None:
                self._note(keys, found)
                return found, True
            other = bench.running.get(key)
            if other is None:
                break
            try:
                shared = await asyncio.shield(other)
                self._note(keys, shared)
                return shared, False
            except asyncio.CancelledError:
                if not other.cancelled():
                    raise  # it is we who were cancelled
            except PydError:
                raise
        mine: asyncio.Future[Results] = asyncio.get_running_loop().create_future()
        mine.add_done_callback(lambda f: f.cancelled() or f.exception())
        bench.running[key] = mine
        try:
            async with bench.slots:
                progress.start()
                made = await work()
            for own, entry in zip(keys, made, strict=True):
                await bench.cache.add(replace(entry, key=own))
                if entry.chain:
                    self._job.lease.add(Layer(entry.chain))
            results = tuple(Result(entry.diff_ids) for entry in made)
            mine.set_result(results)
            self._note(keys, results)
            return results, False
        except asyncio.CancelledError:
            mine.cancel()
            raise
        except Exception as error:
            mine.set_exception(error)
            raise
        finally:
            if bench.running.get(key) is mine:
                del bench.running[key]

    def _note(self, keys: Sequence[str], results: Results) -> None:
        for key, result in zip(keys, results, strict=True):
            self._job.known[key] = result
            if result.diff_ids:
                self._job.lease.add(Layer(result.chain))

    async def _found(self, keys: Sequence[str]) -> Results | None:
        """All outputs, from our own cache or one that was imported."""
        results = []
        for key in keys:
            looks = [self._find] if self._imported is None else [self._find, self._imported.find]
            found = None
            for look in reversed(looks) if self._imported_first else looks:
                found = found or look(key)
            if found is None:
                return None
            results.append(found)
        return tuple(results)

    async def _bring(self, *trees: Result) -> None:
        """Sees to it that layers are here which an imported cache only told of."""
        if self._imported is None:
            return
        for tree in trees:
            if not await self._imported.bring(tree):
                raise _Lost()

    def _find(self, key: str) -> Result | None:
        """Leased first, looked at afterwards."""
        entry = self._bench.cache.entries.get(key)
        if entry is None:
            return None
        if not entry.diff_ids:
            return SCRATCH
        self._job.lease.add(Layer(entry.chain), Blob(entry.blob))
        store = self._bench.store
        if not store.has_layer(entry.chain) or store.blob(entry.diff_ids[-1]) is None:
            return None
        self._bench.cache.find(key)
        return Result(entry.diff_ids)

    # -- layers put elsewhere

    async def _stacked(
        self, vertex: Vertex, inputs: list[Result], progress: Progress
    ) -> tuple[Results, bool]:
        """Merge, and Diff of trees built on one another: the same layers, upon others. Diff of any two: one layer."""
        below, rest = inputs[0].diff_ids, inputs[1:]
        if isinstance(vertex.operation, Diff):
            upper = rest[0].diff_ids
            if upper[: len(below)] != below:
                return await self._difference(vertex, inputs, progress)
            if len(upper) == len(below):
                return (SCRATCH,), True
            return await self._restacked((), [(upper, len(below))], vertex, progress)
        return await self._restacked(below, [(each.diff_ids, 0) for each in rest], vertex, progress)

    async def _restacked(
        self,
        below: tuple[str, ...],
        above: Sequence[tuple[tuple[str, ...], int]],
        vertex: Vertex,
        progress: Progress,
    ) -> tuple[Results, bool]:
        """`below`, and upon it of each stack what lies above its first so many layers."""
        diff_ids = (*below, *(each for stack, begin in above for each in stack[begin:]))
        if not diff_ids:
            return (SCRATCH,), True
        sources = [chain for stack, begin in above for chain in chain_ids(stack)[begin:]]
        key = digest_of(["stack", diff_ids])

        async def work() -> list[Entry]:
            await self._bring(Result(below), *(Result(stack) for stack, _ in above))
            chains = chain_ids(diff_ids)
            for number, source in enumerate(sources, len(below)):
                await self._restack(chains[:number], diff_ids[number], source)
            parent = chains[len(below) - 1] if below else ""
            return [self._entry(diff_ids, chains[-1], 0, "merge", vertex, parent)]

        return await self._cached(key, vertex, progress, work)

    async def _restack(self, below: tuple[str, ...], diff_id: str, source: str) -> None:
        """The layer of the chain `source` upon the chains `below`."""
        store = self._bench.store
        blob = store.blob(diff_id)
        if blob is None:
            raise Internal(f"the blob of layer {diff_id} is gone")
        chain = digest_of_bytes(f"{below[-1]} {diff_id}".encode()) if below else diff_id
        self._job.lease.add(Layer(chain), Blob(blob.digest))
        if store.has_layer(chain):
            return
        key = f"{BUILD_KEY}{secrets.token_hex(12)}"
        store.snapshots.prepare(key, below[-1] if below else None)
        try:
            directories = [str(store.snapshots.layer_dir(each)) for each in (source, key)]
            await self._bench.workshop.call("restack", source=directories[0], target=directories[1])
            with contextlib.suppress(Conflict):  # another build was quicker
                store.snapshots.commit(chain, key)
            await store.add_layer(chain, diff_id, store.layer_size(source), blob)
        finally:
            if store.snapshots.exists(key):
                store.snapshots.remove(key)

    async def _difference(
        self, vertex: Vertex, inputs: list[Result], progress: Progress
    ) -> tuple[Results, bool]:
        lower, upper = inputs
        await self._bring(*inputs)
        key = digest_of(["diff", lower.chain, upper.chain])

        async def work() -> list[Entry]:
            async with _Active(self._bench, SCRATCH) as active:
                below = self._bench.overlay(lower)
                await self._bench.workshop.call(
                    "difference",
                    lower=below["lower"] if below else [],
                    upper=self._bench.overlay(upper),
                    target=str(self._bench.store.snapshots.layer_dir(active.key)),
                )
                return [await self._layer(active, SCRATCH, vertex, "diff", [])]

        return await self._cached(key, vertex, progress, work)

    # -- work

    async def _file(self, file: File, inputs: list[Result], vertex: Vertex) -> Entry:
        parent = inputs[0]
        await self._bring(*inputs)
        async with _Active(self._bench, parent) as active:
            trees = [self._bench.overlay(each) for each in inputs]
            actions = [describe(action) for action in file.actions]
            own = [self._never_changes(each) for each in inputs]
            await self._bench.workshop.call(
                "file", actions=actions, target=active.tree(), inputs=trees, own=own
            )
            return await self._layer(active, parent, vertex, "file", [])

    def _never_changes(self, tree: Result) -> bool:
        """Whether the files of a directory may become a layer's by a link: the build's own, and kept contexts."""
        directory = tree.directory
        if directory is None:
            return False
        return directory.is_relative_to(self._job.directory) or self._bench.sessions.contexts.keeps(directory)

    async def _exec(
        self, process: Exec, inputs: list[Result], vertex: Vertex, progress: Progress
    ) -> list[Entry]:
        """One entry an output, the root's first."""
        parent = inputs[0]
        await self._bring(*inputs)
        async with contextlib.AsyncExitStack() as stack:
            active = await stack.enter_async_context(_Active(self._bench, parent))
            writable: dict[int, tuple[_Active, Result]] = {}
            for mount in process.mounts:
                if mount.output > 0:
                    base = inputs[mount.input] if mount.input >= 0 else SCRATCH
                    writable[mount.output] = (
                        await stack.enter_async_context(_Active(self._bench, base)),
                        base,
                    )
            keys = {number: each.key for number, (each, _) in writable.items()}
            stubs = await run.run(self._bench, self._job, process, inputs, active.key, progress, keys)
            if process.readonly:
                entries = [self._entry(parent.diff_ids, parent.chain, 0, "exec", vertex, "")]
            else:
                entries = [await self._layer(active, parent, vertex, "exec", stubs)]
            for _, (other, base) in sorted(writable.items()):
                entries.append(await self._layer(other, base, vertex, "exec", []))
            return entries

    async def _nothing(self) -> dict[str, Any]:
        """The layer of a step that changed nothing: always the same blob."""
        content = self._bench.store.content
        self._job.lease.add(Blob(EMPTY_BLOB))
        if not content.has(EMPTY_BLOB):
            await asyncio.to_thread(content.add, EMPTY_GZIP, EMPTY_BLOB)
        return {"diff_id": EMPTY_DIFF, "tar_size": len(EMPTY_TAR), "size": 0, "blob": EMPTY_BLOB,
                "blob_size": len(EMPTY_GZIP), "media_type": DOCKER_LAYER}  # fmt: skip

    async def _layer(
        self, active: _Active, parent: Result, vertex: Vertex, kind: str, stubs: list[str]
    ) -> Entry:
        """What the step changed, stored, committed and recorded."""
        store = self._bench.store
        lower = self._bench.overlay(parent)
        upper = store.snapshots.layer_dir(active.key)
        with store.ingesting():
            if os.listdir(upper):
                fields: dict[str, Any] = await self._bench.workshop.call(
                    "layer",
                    upper=str(upper),
                    lower=lower["lower"] if lower else [],
                    stubs=stubs,
                    tidy=kind == "exec",
                )
            else:
                fields = await self._nothing()
            unpacked = Unpacked(store, active.key, fields)
            chain = await unpacked.commit(self._job.lease, parent.diff_ids)
        active.done = True
        diff_ids = (*parent.diff_ids, unpacked.diff_id)
        entry = self._entry(diff_ids, chain, fields["size"], kind, vertex, parent.chain)
        return replace(entry, blob=fields["blob"])

    def _entry(
        self, diff_ids: tuple[str, ...], chain: str, size: int, kind: str, vertex: Vertex, parent: str
    ) -> Entry:
        now = time.time_ns()
        blob = self._bench.store.blob(diff_ids[-1]) if diff_ids else None
        stored = blob.digest if blob else ""
        return Entry("", diff_ids, chain, stored, size, now, now, 1, kind, vertex.about.name, parent)


def _succeeded(task: asyncio.Task[Results]) -> bool:
    return task.done() and not task.cancelled() and task.exception() is None


class _Active:
    """A snapshot to work in; removed unless it was committed."""

    def __init__(self, bench: Bench, parent: Result) -> None:
        self._bench, self._parent = bench, parent
        self.key = f"{BUILD_KEY}{secrets.token_hex(12)}"
        self.done = False

    async def __aenter__(self) -> _Active:
        self._bench.store.snapshots.prepare(self.key, self._parent.chain or None)
        return self

    async def __aexit__(self, *_: object) -> None:
        if not self.done:
            self._bench.store.snapshots.remove(self.key)
            self._bench.ctx.purge_wanted.set()

    def tree(self) -> dict[str, Any]:
        mount = self._bench.store.snapshots.overlay(self.key)
        return {
            "lower": [str(path) for path in mount.lower],
            "upper": str(mount.upper),
            "work": str(mount.work) if mount.work else None,
        }
