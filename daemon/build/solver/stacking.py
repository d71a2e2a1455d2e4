"""Merge and Diff: layers put upon others than those that they were made on."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from daemon.build.bench import SCRATCH, Bench, Job, Result
from daemon.build.graph import Diff, Merge, Vertex, digest_of
from daemon.build.solver.layering import Active, Layering, new_key
from daemon.build.solver.lookup import Lookup, Results
from daemon.build.steps import Progress
from daemon.build.upkeep.cache import Entry
from daemon.images.model import chain_ids
from daemon.images.model import digest_of as digest_of_bytes
from storage.errors import Conflict, Internal
from storage.gc import Blob, Layer

Stack = tuple[str, ...]
"""Diff IDs, the lowest first."""


class Stacking:
    def __init__(self, bench: Bench, job: Job, lookup: Lookup, layering: Layering) -> None:
        self._bench, self._job, self._lookup, self._layering = bench, job, lookup, layering

    async def work(
        self, operation: Merge | Diff, vertex: Vertex, inputs: list[Result], progress: Progress
    ) -> tuple[Results, bool]:
        """Merge, and Diff of trees built on one another: the same layers, upon others. Diff of any two: one layer."""
        below, rest = inputs[0].diff_ids, inputs[1:]
        if isinstance(operation, Merge):
            return await self._restacked(below, [(each.diff_ids, 0) for each in rest], vertex, progress)
        upper = rest[0].diff_ids
        if upper[: len(below)] != below:
            return await self._difference(inputs[0], inputs[1], vertex, progress)
        return await self._restacked((), [(upper, len(below))], vertex, progress)

    async def _restacked(
        self, below: Stack, above: Sequence[tuple[Stack, int]], vertex: Vertex, progress: Progress
    ) -> tuple[Results, bool]:
        """`below`, and upon it of each stack what lies above its first so many layers."""
        diff_ids = (*below, *(each for stack, begin in above for each in stack[begin:]))
        if not diff_ids:
            return (SCRATCH,), True
        sources = [chain for stack, begin in above for chain in chain_ids(stack)[begin:]]

        async def work() -> list[Entry]:
            await self._lookup.bring(Result(below), *(Result(stack) for stack, _ in above))
            chains = chain_ids(diff_ids)
            for number, source in enumerate(sources, len(below)):
                await self._restack(chains[:number], diff_ids[number], source)
            parent = chains[len(below) - 1] if below else ""
            return [self._layering.entry(diff_ids, chains[-1], 0, "merge", vertex, parent)]

        return await self._lookup.once(digest_of(["stack", diff_ids]), vertex, progress, work)

    async def _restack(self, below: Stack, diff_id: str, source: str) -> None:
        """The layer of the chain `source` upon the chains `below`."""
        store = self._bench.store
        blob = store.blob(diff_id)
        if blob is None:
            raise Internal(f"the blob of layer {diff_id} is gone")
        chain = digest_of_bytes(f"{below[-1]} {diff_id}".encode()) if below else diff_id
        self._job.lease.add(Layer(chain), Blob(blob.digest))
        if store.has_layer(chain):
            return
        key = new_key()
        store.snapshots.prepare(key, below[-1] if below else None)
        try:
            made, target = (str(store.snapshots.layer_dir(each)) for each in (source, key))
            await self._bench.workshop.call("restack", source=made, target=target)
            with contextlib.suppress(Conflict):  # another build was quicker
                store.snapshots.commit(chain, key)
            await store.add_layer(chain, diff_id, store.layer_size(source), blob)
        finally:
            if store.snapshots.exists(key):
                store.snapshots.remove(key)

    async def _difference(
        self, lower: Result, upper: Result, vertex: Vertex, progress: Progress
    ) -> tuple[Results, bool]:
        """What makes the one tree of the other, as a layer on nothing."""
        await self._lookup.bring(lower, upper)

        async def work() -> list[Entry]:
            async with Active(self._bench, SCRATCH) as active:
                below = self._bench.overlay(lower)
                await self._bench.workshop.call(
                    "difference",
                    lower=below["lower"] if below else [],
                    upper=self._bench.overlay(upper),
                    target=active.directory(),
                )
                return [await self._layering.layer(active, vertex, "diff")]

        key = digest_of(["diff", lower.chain, upper.chain])
        return await self._lookup.once(key, vertex, progress, work)
