"""The solver: a graph to layers, as much side by side as its edges allow, nothing twice.

Each vertex is a task that awaits its inputs. A step's cache key is the digest of its operation, of its
parent's chain ID, and of the content that it reads; the parent's chain ID is itself a digest of content, so a
step that was run again with the same outcome invalidates nothing behind it. Of equal steps that run at once,
in whichever builds, one works and the others wait; when the one is cancelled another takes over.

Failing or being cancelled, a solve first waits for its own tasks: nothing of them is mounted or running then.
"""

from __future__ import annotations

import asyncio
import gzip
import os
import secrets
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from daemon.build import run
from daemon.build.bench import BUILD_KEY, SCRATCH, Bench, Job, Result
from daemon.build.cache import Entry
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
from daemon.build.steps import Progress
from daemon.images.made import Unpacked
from daemon.images.manifests import DOCKER_LAYER
from daemon.images.model import digest_of as digest_of_bytes
from storage.errors import Internal, NotFound, NotImplementedYet, PydError
from storage.gc import Blob, Layer

_MAX_DIGESTS = 20_000
EMPTY_TAR = bytes(1024)
EMPTY_GZIP = gzip.compress(EMPTY_TAR, mtime=0)
EMPTY_DIFF, EMPTY_BLOB = digest_of_bytes(EMPTY_TAR), digest_of_bytes(EMPTY_GZIP)


class StepFailed(PydError):
    """A vertex failed; the cause is the message, `vertex` says where."""

    status = 400

    def __init__(self, cause: PydError, vertex: Vertex, progress: Progress) -> None:
        self.cause, self.vertex, self.progress = cause, vertex, progress
        super().__init__(str(cause))


class Solver:
    """Solves for one job."""

    def __init__(self, bench: Bench, job: Job) -> None:
        self._bench, self._job = bench, job
        self._tasks: dict[str, asyncio.Task[Result]] = {}

    async def solve(self, output: Output | None) -> Result:
        """The tree of an output. StepFailed names the first vertex that failed."""
        return (await self.solve_all([output]))[0]

    async def solve_all(self, outputs: Sequence[Output | None]) -> list[Result]:
        """Several outputs' trees, in their order; what they share is done once."""
        for vertex in ordered(outputs):
            task = asyncio.get_running_loop().create_task(self._vertex(vertex))
            self._tasks[vertex.digest] = task
        try:
            await self._watch({self._tasks[each.vertex.digest] for each in outputs if each})
            return [SCRATCH if each is None else self._tasks[each.vertex.digest].result() for each in outputs]
        finally:
            for task in self._tasks.values():
                task.cancel()
            await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    async def _watch(self, targets: set[asyncio.Task[Result]]) -> None:
        """The first failure of any vertex is the build's, even while others run."""
        waiting = set(self._tasks.values())
        while waiting and not all(target.done() for target in targets):
            done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                if not task.cancelled() and isinstance(error := task.exception(), StepFailed):
                    raise error

    async def _vertex(self, vertex: Vertex) -> Result:
        inputs = [
            SCRATCH if each is None else await self._tasks[each.vertex.digest] for each in vertex.inputs
        ]
        progress = self._job.of(vertex)
        try:
            result, cached = await self._work(vertex, inputs, progress)
        except StepFailed:
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
        return result

    async def _work(self, vertex: Vertex, inputs: list[Result], progress: Progress) -> tuple[Result, bool]:
        match vertex.operation:
            case Source() as source:
                return await self._source(source, progress), False
            case Merge():
                return Result(tuple(diff for each in inputs for diff in each.diff_ids)), False
            case Diff():
                return self._diff(inputs), False
            case File() as file:
                key = await self._file_key(file, inputs)
                return await self._cached(
                    key, vertex, inputs, progress, lambda: self._file(file, inputs, vertex)
                )
            case Exec() as process:
                key = await self._exec_key(process, inputs)

                async def work() -> Entry:
                    return await self._exec(process, inputs, vertex, progress)

                return await self._cached(key, vertex, inputs, progress, work)

    # -- the cache

    async def _cached(
        self,
        key: str,
        vertex: Vertex,
        inputs: list[Result],
        progress: Progress,
        work: Callable[[], Awaitable[Entry]],
    ) -> tuple[Result, bool]:
        """From the cache, from an equal step under way, or by working."""
        bench = self._bench
        fresh = vertex.about.no_cache
        self._job.keys[vertex.digest] = key
        while True:
            if not fresh and (found := await self._found(key)) is not None:
                return found, True
            other = bench.running.get(key)
            if other is None:
                break
            try:
                return await asyncio.shield(other), False
            except asyncio.CancelledError:
                if not other.cancelled():
                    raise  # it is we who were cancelled
            except PydError:
                raise
        mine: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        mine.add_done_callback(lambda f: f.cancelled() or f.exception())
        bench.running[key] = mine
        try:
            async with bench.slots:
                progress.start()
                made = await work()
            entry = Entry(**{**made.record(), "diff_ids": made.diff_ids, "key": key})
            await bench.cache.add(entry)
            self._job.lease.add(Layer(entry.chain))
            result = Result(entry.diff_ids)
            mine.set_result(result)
            return result, False
        except asyncio.CancelledError:
            mine.cancel()
            raise
        except Exception as error:
            mine.set_exception(error)
            raise
        finally:
            if bench.running.get(key) is mine:
                del bench.running[key]

    async def _found(self, key: str) -> Result | None:
        found = self._find(key)
        if found is None and self._job.imported is not None:
            found = await self._job.imported.find(key)
        return found

    def _find(self, key: str) -> Result | None:
        """Leased first, looked at afterwards."""
        entry = self._bench.cache.entries.get(key)
        if entry is None:
            return None
        self._job.lease.add(Layer(entry.chain), Blob(entry.blob))
        store = self._bench.store
        if not store.has_layer(entry.chain) or store.blob(entry.diff_ids[-1]) is None:
            return None
        self._bench.cache.find(key)
        return Result(entry.diff_ids)

    # -- sources

    async def _source(self, source: Source, progress: Progress) -> Result:
        identifier = source.identifier
        if identifier.startswith("docker-image://"):
            return Result(self._job.images[identifier])
        if identifier.startswith("local://"):
            directory = self._job.contexts.get(identifier.removeprefix("local://"))
            if directory is None:
                raise NotFound(f"no build context {identifier.removeprefix('local://')!r} was sent")
            return Result(directory=directory)
        progress.start()
        directory = self._job.directory / f"source-{secrets.token_hex(8)}"
        directory.mkdir()
        if identifier.startswith("git://"):
            keep = source.attribute("keep-git-dir") == "true"
            url = identifier.removeprefix("git://")
            url = url if "://" in url or url.startswith("git@") else f"git://{url}"
            checksum = source.attribute("checksum")
            await self._bench.workshop.call(
                "clone", url=url, directory=str(directory), keep_git=keep, checksum=checksum
            )
            below = url.partition("#")[2].partition(":")[2]
            return Result(directory=directory / below.strip("/") if below else directory)
        checksum = source.attribute("checksum")
        await self._bench.workshop.call(
            "download", url=identifier, directory=str(directory), checksum=checksum
        )
        return Result(directory=directory)

    def _diff(self, inputs: list[Result]) -> Result:
        lower, upper = inputs
        if upper.diff_ids[: len(lower.diff_ids)] != lower.diff_ids:
            raise NotImplementedYet(
                "a difference of trees that are not built on one another is not supported yet"
            )
        return Result(upper.diff_ids[len(lower.diff_ids) :])

    # -- keys

    async def _contents(
        self, tree: Result, paths: tuple[str, ...], wildcard: bool, excludes: tuple[str, ...]
    ) -> str:
        """Digest of what is read of a tree; remembered for layers."""
        memo = (tree.chain, paths, wildcard, excludes)
        if tree.directory is None and (known := self._bench.digests.get(memo)):
            return known
        found: str = await self._bench.workshop.call(
            "digest",
            tree=self._bench.overlay(tree),
            paths=[path.replace("/./", "/") for path in paths],
            wildcard=wildcard,
            excludes=list(excludes),
        )
        if tree.directory is None:
            if len(self._bench.digests) > _MAX_DIGESTS:
                self._bench.digests.clear()
            self._bench.digests[memo] = found
        return found

    async def _file_key(self, file: File, inputs: list[Result]) -> str:
        read = []
        for action in file.actions:
            if isinstance(action, CopyFiles):
                tree = inputs[action.input]
                read.append(await self._contents(tree, action.sources, action.wildcard, action.excludes))
        return digest_of(["file", describe(file), inputs[0].chain, read])

    async def _exec_key(self, process: Exec, inputs: list[Result]) -> str:
        read = []
        for mount in process.mounts:
            if mount.input >= 0:
                tree = inputs[mount.input]
                read.append(await self._contents(tree, (mount.source,), False, ()))
        described = describe(process)
        described["env"] = [each for each in process.env if not each.startswith("SOURCE_DATE_EPOCH=")]
        return digest_of(["exec", described, inputs[0].chain, read])

    # -- work

    async def _file(self, file: File, inputs: list[Result], vertex: Vertex) -> Entry:
        parent = inputs[0]
        base = SCRATCH if file.link else parent
        async with _Active(self._bench, base) as active:
            trees = [self._bench.overlay(each) for each in inputs]
            actions = [describe(action) for action in file.actions]
            own = [each.directory is not None for each in inputs]
            await self._bench.workshop.call(
                "file", actions=actions, target=active.tree(), inputs=trees, own=own
            )
            return await self._layer(active, parent, base, vertex, "file", [])

    async def _exec(self, process: Exec, inputs: list[Result], vertex: Vertex, progress: Progress) -> Entry:
        parent = inputs[0]
        async with _Active(self._bench, parent) as active:
            stubs = await run.run(self._bench, self._job, process, inputs, active.key, progress)
            return await self._layer(active, parent, parent, vertex, "exec", stubs)

    async def _nothing(self) -> dict[str, Any]:
        """The layer of a step that changed nothing: always the same blob."""
        content = self._bench.store.content
        self._job.lease.add(Blob(EMPTY_BLOB))
        if not content.has(EMPTY_BLOB):
            await asyncio.to_thread(content.add, EMPTY_GZIP, EMPTY_BLOB)
        return {"diff_id": EMPTY_DIFF, "tar_size": len(EMPTY_TAR), "size": 0, "blob": EMPTY_BLOB,
                "blob_size": len(EMPTY_GZIP), "media_type": DOCKER_LAYER}  # fmt: skip

    async def _layer(
        self, active: _Active, parent: Result, base: Result, vertex: Vertex, kind: str, stubs: list[str]
    ) -> Entry:
        """What the step changed, stored, committed and recorded."""
        store = self._bench.store
        lower = self._bench.overlay(base)
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
        now = time.time_ns()
        diff_ids = (*parent.diff_ids, unpacked.diff_id)
        return Entry(
            "",
            diff_ids,
            chain,
            fields["blob"],
            fields["size"],
            now,
            now,
            1,
            kind,
            vertex.about.name,
            parent.chain,
        )


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
