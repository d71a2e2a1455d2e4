"""What is known of a step before it is run: by our cache, by imported ones, by an equal step under way.

Of equal steps that run at once, in whichever builds, one works and the others wait; when the one is cancelled
another takes over.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

from daemon.build.bench import SCRATCH, Bench, Job, Result
from daemon.build.graph import Vertex
from daemon.build.solver.keys import numbered
from daemon.build.steps import Progress
from daemon.build.upkeep.cache import Entry
from storage.gc import Blob, Layer

Results = tuple[Result, ...]
"""A vertex's outputs."""
Work = Callable[[], Awaitable[Sequence[Entry]]]
"""Does a step; gives one entry an output, without their keys."""


class Lost(Exception):
    """An imported cache told of layers that can't be had."""


class Lookup:
    """For one job: what it finds is leased to it."""

    def __init__(self, bench: Bench, job: Job) -> None:
        self._bench, self._job, self.imported = bench, job, job.imported
        self.imported_first = False
        """Whether imported caches are asked before ours."""

    async def key(self, make: Callable[[bool], Awaitable[str]], vertex: Vertex, count: int = 1) -> str:
        """A key made of what imported caches say of contents, if that is found; else of what the contents are.

        So no step runs and is remembered under a key that nobody here has checked.
        """
        if self.imported is None or vertex.about.no_cache:
            return await make(False)
        claimed = await make(True)
        if self._found(numbered(claimed, count)) is not None:
            return claimed
        return await make(False)

    async def once(
        self, key: str, vertex: Vertex, progress: Progress, work: Work, count: int = 1
    ) -> tuple[Results, bool]:
        """From the cache, from an equal step under way, or by working. `count`: the step's outputs.

        With the results comes whether the cache had them.
        """
        self._job.keys[vertex.digest] = key
        keys = numbered(key, count)
        while True:
            if not vertex.about.no_cache and (found := self._found(keys)) is not None:
                self._note(keys, found)
                return found, True
            equal = self._bench.running.get(key)
            if equal is None:
                return await self._worked(keys, progress, work), False
            shared = await _outcome(equal)
            if shared is not None:
                self._note(keys, shared)
                return shared, False

    async def _worked(self, keys: Sequence[str], progress: Progress, work: Work) -> Results:
        """Others see from the first moment on that the step is under way."""
        bench, key = self._bench, keys[0]
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
            return results
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

    def _found(self, keys: Sequence[str]) -> Results | None:
        """All outputs, from our own cache or one that was imported."""
        looks = [self._own] if self.imported is None else [self._own, self.imported.find]
        if self.imported_first:
            looks.reverse()
        results = []
        for key in keys:
            found = next((result for look in looks if (result := look(key)) is not None), None)
            if found is None:
                return None
            results.append(found)
        return tuple(results)

    def _own(self, key: str) -> Result | None:
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

    async def bring(self, *trees: Result) -> None:
        """Sees to it that layers are here which an imported cache only told of. Lost when they can't be had."""
        if self.imported is None:
            return
        for tree in trees:
            if not await self.imported.bring(tree):
                raise Lost()


async def _outcome(equal: asyncio.Future[Results]) -> Results | None:
    """An equal step's results, or what it failed with; None when it was cancelled."""
    try:
        return await asyncio.shield(equal)
    except asyncio.CancelledError:
        if not equal.cancelled():
            raise  # it is we who were cancelled
        return None
