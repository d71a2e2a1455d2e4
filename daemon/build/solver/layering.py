"""What a step leaves in its active snapshot becomes a layer."""

from __future__ import annotations

import asyncio
import gzip
import os
import secrets
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from daemon.build.bench import BUILD_KEY, Bench, Job, Result
from daemon.build.graph import Vertex
from daemon.build.upkeep.cache import Entry
from daemon.images.made import Unpacked
from daemon.images.manifests import DOCKER_LAYER
from daemon.images.model import digest_of
from storage.gc import Blob

EMPTY_TAR = bytes(1024)
EMPTY_GZIP = gzip.compress(EMPTY_TAR, mtime=0)
EMPTY_DIFF, EMPTY_BLOB = digest_of(EMPTY_TAR), digest_of(EMPTY_GZIP)


class Active:
    """A snapshot to work in; removed unless it was committed."""

    def __init__(self, bench: Bench, parent: Result) -> None:
        self._bench, self.parent = bench, parent
        self.key = new_key()
        self.done = False

    async def __aenter__(self) -> Active:
        self._bench.store.snapshots.prepare(self.key, self.parent.chain or None)
        return self

    async def __aexit__(self, *_: object) -> None:
        if not self.done:
            self._bench.store.snapshots.remove(self.key)
            self._bench.ctx.purge_wanted.set()

    def tree(self) -> dict[str, Any]:
        """In the worker's form, to be written to."""
        mount = self._bench.store.snapshots.overlay(self.key)
        return {
            "lower": [str(path) for path in mount.lower],
            "upper": str(mount.upper),
            "work": str(mount.work) if mount.work else None,
        }

    def directory(self) -> str:
        """What was changed, without what lies below."""
        return str(self._bench.store.snapshots.layer_dir(self.key))


def new_key() -> str:
    return f"{BUILD_KEY}{secrets.token_hex(12)}"


class Layering:
    """Leases what it makes to one job."""

    def __init__(self, bench: Bench, job: Job) -> None:
        self._bench, self._job = bench, job

    async def layer(self, active: Active, vertex: Vertex, kind: str, stubs: Sequence[str] = ()) -> Entry:
        """What the step changed, stored, committed and recorded. `stubs`: paths made only to mount upon."""
        parent, store = active.parent, self._bench.store
        with store.ingesting():
            fields = await self._packed(active, kind, stubs)
            unpacked = Unpacked(store, active.key, fields)
            chain = await unpacked.commit(self._job.lease, parent.diff_ids)
        active.done = True
        diff_ids = (*parent.diff_ids, unpacked.diff_id)
        entry = self.entry(diff_ids, chain, fields["size"], kind, vertex, parent.chain)
        return replace(entry, blob=fields["blob"])

    async def _packed(self, active: Active, kind: str, stubs: Sequence[str]) -> dict[str, Any]:
        upper = active.directory()
        if not os.listdir(upper):
            return await self._nothing()
        below = self._bench.overlay(active.parent)
        lower = below["lower"] if below else []
        fields: dict[str, Any] = await self._bench.workshop.call(
            "layer", upper=upper, lower=lower, stubs=list(stubs), tidy=kind == "exec"
        )
        return fields

    async def _nothing(self) -> dict[str, Any]:
        """The layer of a step that changed nothing: always the same blob."""
        content = self._bench.store.content
        self._job.lease.add(Blob(EMPTY_BLOB))
        if not content.has(EMPTY_BLOB):
            await asyncio.to_thread(content.add, EMPTY_GZIP, EMPTY_BLOB)
        return {"diff_id": EMPTY_DIFF, "tar_size": len(EMPTY_TAR), "size": 0, "blob": EMPTY_BLOB,
                "blob_size": len(EMPTY_GZIP), "media_type": DOCKER_LAYER}  # fmt: skip

    def entry(
        self, diff_ids: tuple[str, ...], chain: str, size: int, kind: str, vertex: Vertex, parent: str
    ) -> Entry:
        """For the cache, with a key yet to come."""
        now = time.time_ns()
        blob = self._bench.store.blob(diff_ids[-1]) if diff_ids else None
        stored = blob.digest if blob else ""
        return Entry("", diff_ids, chain, stored, size, now, now, 1, kind, vertex.about.name, parent)
