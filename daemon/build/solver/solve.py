"""The solver: a graph to layers, as much side by side as its edges allow, nothing twice.

    solve      each vertex is a task that awaits its inputs; the first failure is the build's
    executing  one vertex whose inputs are there: its key, else its work      run, processes   a RUN's
    lookup     what our cache, imported ones and equal steps under way know of a key
    layering   what a step left in its snapshot becomes a layer               stacking   layers upon others
    preferring whether imported caches or ours are asked first

A step's cache key is the digest of its operation, of its parent's chain ID, and of the content that it reads; the
parent's chain ID is itself a digest of content, so a step that was run again with the same outcome invalidates
nothing behind it.

Failing or being cancelled, a solve first waits for its own tasks: nothing of them is mounted or running then.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from daemon.build.bench import SCRATCH, Bench, Imported, Job, Result
from daemon.build.graph import Output, Source, Vertex, ordered
from daemon.build.solver.executing import Executing
from daemon.build.solver.keys import Keys
from daemon.build.solver.lookup import Lookup, Lost, Results
from daemon.build.solver.preferring import Probe, Unknown
from daemon.build.steps import Progress
from storage.errors import Internal, InvalidArgument, PydError


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
        self._lookup = Lookup(bench, job)
        self._executing = Executing(bench, job, self._lookup)
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
            except Lost:  # which that cache is not asked for again; what was done meanwhile is in ours
                sources = [each.digest for each in ordered(outputs) if isinstance(each.operation, Source)]
                got = {digest: self._tasks[digest] for digest in sources if digest in self._tasks}
                self._tasks = {digest: task for digest, task in got.items() if _succeeded(task)}

    async def _solve(self, outputs: Sequence[Output | None], *, layers: bool) -> list[Result]:
        vertices = ordered(outputs)
        try:
            if self._lookup.imported is not None:
                await self._prefer(self._lookup.imported, vertices)
            self._begin(vertices)
            await self._watch({self._tasks[each.vertex.digest] for each in outputs if each})
            results = [await self._of(each) for each in outputs]
            if layers:
                results = [
                    await self._executing.layered(result, each.vertex) if each else result
                    for result, each in zip(results, outputs, strict=True)
                ]
            await self._lookup.bring(*results)
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

        async def unknown(tree: Result) -> None:
            if not self._bench.store.has_layer(tree.chain):
                raise Unknown()

        sources = [vertex for vertex in vertices if isinstance(vertex.operation, Source)]
        self._begin(sources)
        await self._watch({self._tasks[each.digest] for each in sources})
        known = {each.digest: self._tasks[each.digest].result() for each in sources}
        probe = Probe(self._bench, Keys(self._bench, self._job, unknown), imported)
        self._lookup.imported_first = await probe.imported_first(vertices, known)

    async def _watch(self, targets: set[asyncio.Task[Results]]) -> None:
        """The first failure of any vertex is the build's, even while others run."""
        waiting = set(self._tasks.values())
        while waiting and not all(target.done() for target in targets):
            done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                if not task.cancelled() and isinstance(error := task.exception(), StepFailed | Lost):
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
            results, cached = await self._executing.results(vertex, inputs, progress)
        except (StepFailed, Lost):
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


def _succeeded(task: asyncio.Task[Results]) -> bool:
    return task.done() and not task.cancelled() and task.exception() is None
