"""Which layers there are: records in SQLite, an index of them in memory.

    layers       chain ID          → {diff_id, size}
    blobs        diff ID           → {digest, size, tar_size, media_type, repositories}

A layer has a committed snapshot and the blob that it came in. Each may be there without the other: a container
keeps the snapshot of an image that was removed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from daemon.images.model import Json
from storage.content import ContentStore
from storage.records import Delete, Put, Records
from storage.snapshots import Snapshotter

UNPACKING = "unpack-"
"""Begin of the names of active snapshots that layers are unpacked into."""
_OTHERS = 9
"""Repositories that are remembered beside the newest."""


@dataclass(frozen=True)
class LayerBlob:
    """The compressed form in which a layer is kept."""

    digest: str
    size: int
    tar_size: int
    media_type: str
    repositories: tuple[str, ...] = ()
    """Normalised repositories known to hold it, newest last: where a push may mount it from."""

    def fields(self) -> Json:
        return {
            "digest": self.digest,
            "size": self.size,
            "tar_size": self.tar_size,
            "media_type": self.media_type,
            "repositories": list(self.repositories),
        }

    @classmethod
    def of(cls, fields: Json) -> LayerBlob:
        values = {**fields, "repositories": tuple(fields["repositories"])}
        return cls(**values)


class LayerStore:
    """Readers use the index and never wait. Writers go one at a time."""

    def __init__(self, content: ContentStore, snapshots: Snapshotter, records: Records):
        self.content, self.snapshots, self.records = content, snapshots, records
        self._sizes: dict[str, int] = {}
        self._blobs: dict[str, LayerBlob] = {}
        self._writing = asyncio.Lock()

    def _load_layers(self) -> None:
        self._sizes = {chain: int(record["size"]) for chain, record in self.records.load("layers").items()}
        self._blobs = {diff: LayerBlob.of(record) for diff, record in self.records.load("blobs").items()}

    def has_layer(self, chain_id: str) -> bool:
        return chain_id in self._sizes and self.snapshots.exists(chain_id)

    def is_complete(self, chain_id: str, diff_id: str) -> bool:
        """Layer and blob: a container may keep the layer of a removed image, whose blob is gone."""
        return self.has_layer(chain_id) and self.blob(diff_id) is not None

    def layer_size(self, chain_id: str) -> int:
        return self._sizes.get(chain_id, 0)

    def blob(self, diff_id: str) -> LayerBlob | None:
        """The layer's blob, if it is still in the content store."""
        blob = self._blobs.get(diff_id)
        return blob if blob and self.content.has(blob.digest) else None

    def recorded_blob(self, diff_id: str) -> LayerBlob | None:
        """The layer's blob whether or not it is there still: for a lease, which is taken before looking."""
        return self._blobs.get(diff_id)

    def diff_ids_of_blobs(self) -> dict[str, str]:
        """Blobs that layers are kept in, to the layers' diff IDs."""
        return {blob.digest: diff_id for diff_id, blob in list(self._blobs.items())}

    async def add_layer(self, chain_id: str, diff_id: str, size: int, blob: LayerBlob) -> None:
        """Records a layer whose snapshot is committed and whose blob is stored."""
        known = self._blobs.get(diff_id)
        if known and known.digest == blob.digest:
            blob = known
        await self._write(
            [
                Put("layers", chain_id, {"diff_id": diff_id, "size": size}),
                Put("blobs", diff_id, blob.fields()),
            ]
        )
        self._sizes[chain_id] = size
        self._blobs[diff_id] = blob

    async def note_repository(self, diff_id: str, repository: str) -> None:
        """Remembers that a repository holds the layer's blob."""
        blob = self._blobs.get(diff_id)
        if blob is None or (blob.repositories and blob.repositories[-1] == repository):
            return
        others = tuple(each for each in blob.repositories if each != repository)[-_OTHERS:]
        changed = LayerBlob(blob.digest, blob.size, blob.tar_size, blob.media_type, (*others, repository))
        await self._write([Put("blobs", diff_id, changed.fields())])
        self._blobs[diff_id] = changed

    async def _forget_lost(self, used: Collection[str]) -> None:
        """Records of snapshots and blobs that were collected. `used`: diff IDs whose records stay in any case."""
        gone = [chain for chain in self._sizes if not self.snapshots.exists(chain)]
        lost = [
            diff
            for diff, blob in self._blobs.items()
            if diff not in used and not self.content.has(blob.digest)
        ]
        if gone or lost:
            await self._write(
                [Delete("layers", key) for key in gone] + [Delete("blobs", key) for key in lost]
            )
        for chain in gone:
            self._sizes.pop(chain, None)
        for diff in lost:
            self._blobs.pop(diff, None)

    async def _write(self, mutations: Sequence[Any]) -> None:
        async with self._writing:
            await self.records.write(mutations)
