"""Imported caches of one build: claims about keys, and layers that come when somebody needs them.

A claim gives a stack of diff IDs at once. Its layers are got by the image service's layer jobs, which take nothing
whose digest or diff ID is another than announced. A layer that can't be had makes bring() answer False, and the
solver runs the step: a cache may be wrong, unreachable or empty, a build only gets slower by it.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field

from daemon.build.bench import Bench, Job, Memo, Result
from daemon.build.remotecache.config import Table
from daemon.images.layers import Here, LayerJob, Source, Wanted
from daemon.images.manifests import Descriptor
from daemon.images.model import chain_ids
from daemon.images.registry.errors import RegistryError
from daemon.images.streams import together
from storage.errors import NotFound, PydError
from storage.gc import Blob, Layer


@dataclass
class Cache:
    """One cache that was read: what it claims, and where its layers are by diff ID."""

    table: Table
    layers: dict[str, Descriptor] = field(default_factory=dict)
    source: Source | None = None
    repository: str = ""


class ImportedCaches:
    """`job.imported`. The first cache that knows a key counts."""

    def __init__(self, bench: Bench, job: Job) -> None:
        self._bench, self._job = bench, job
        self.caches: list[Cache] = []
        self._sources: list[Source] = []
        self._broken: set[str] = set()
        """Digests of blobs that were not what they should be, or did not come."""
        self._lost: set[str] = set()
        """Chain IDs that can't be had: nobody is told of them again."""

    def add(self, cache: Cache) -> None:
        self.caches.append(cache)

    def keep(self, source: Source) -> None:
        """Releases it when the build is over."""
        self._sources.append(source)

    async def close(self) -> None:
        for source in self._sources:
            with suppress(PydError, RegistryError):
                await source.release()
        self._sources.clear()

    def find(self, key: str) -> Result | None:
        for cache in self.caches:
            step = cache.table.find(key)
            if step is not None and step.chain not in self._lost:
                self._job.times.setdefault(step.chain, step.created)
                return Result(step.diff_ids)
        return None

    def read(self, memo: Memo) -> str | None:
        for cache in self.caches:
            if (found := cache.table.reads.get(memo)) is not None:
                return found
        return None

    def where(self, diff_id: str) -> tuple[Descriptor, Cache] | None:
        """A blob that may still be got, and the cache that has it."""
        for cache in self.caches:
            found = cache.layers.get(diff_id)
            if found is not None and cache.source is not None and found.digest not in self._broken:
                return found, cache
        return None

    # -- layers

    async def bring(self, result: Result) -> bool:
        if result.directory is not None or not result.diff_ids:
            return True
        try:
            await self._fetch(self._plan(result.diff_ids))
        except (PydError, RegistryError):
            self._lost.update(self._out_of_reach(result.diff_ids))
            return False
        return True

    def _out_of_reach(self, diff_ids: tuple[str, ...]) -> list[str]:
        """Chains from the first layer on that can't be had; at least the last one."""
        chains = chain_ids(diff_ids)
        for place, (chain, diff_id) in enumerate(zip(chains, diff_ids, strict=True)):
            if not self._bench.store.is_complete(chain, diff_id) and self.where(diff_id) is None:
                return list(chains[place:])
        return [chains[-1]]

    def _plan(self, diff_ids: tuple[str, ...]) -> list[tuple[Wanted, Source]]:
        """The layers that are not here, each with where it comes from. NotFound when one comes from nowhere.

        Leased first, looked at afterwards.
        """
        store, lease = self._bench.store, self._job.lease
        chains = chain_ids(diff_ids)
        lease.add(*(Layer(chain) for chain in chains))
        plan: list[tuple[Wanted, Source]] = []
        for place, (chain, diff_id) in enumerate(zip(chains, diff_ids, strict=True)):
            parent = chains[place - 1] if place else None
            blob = store.blob(diff_id)
            if blob is not None:
                lease.add(Blob(blob.digest))
                if not plan and store.is_complete(chain, diff_id):
                    continue
                if store.content.has(blob.digest):
                    descriptor = Descriptor(blob.media_type, blob.digest, blob.size)
                    plan.append((Wanted(chain, diff_id, parent, descriptor, ""), Here()))
                    continue
            found = self.where(diff_id)
            if found is None:
                raise NotFound(f"layer {diff_id} is in no imported cache")
            descriptor, cache = found
            assert cache.source is not None
            lease.add(Blob(descriptor.digest))
            plan.append((Wanted(chain, diff_id, parent, descriptor, cache.repository), cache.source))
        return plan

    async def _fetch(self, plan: list[tuple[Wanted, Source]]) -> None:
        """Every layer that fails is remembered, so that nobody asks for it again."""

        async def wait(job: LayerJob) -> None:
            try:
                await job.wait()
            except (PydError, RegistryError):
                self._broken.add(job.wanted.descriptor.digest)
                raise

        with self._bench.ctx.images.layer_jobs.joined(plan) as joined:
            await together(*(wait(job) for job in joined))
