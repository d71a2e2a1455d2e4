"""Layers that don't come from a registry: out of an archive, or out of a container."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

from daemon.images.layerstore import UNPACKING, LayerBlob
from daemon.images.model import Json, chain_ids
from daemon.images.store import ImageStore
from storage.errors import Conflict, NotFound
from storage.gc import Blob, Layer, Lease

Ingest = Callable[[str], Awaitable[Json]]
"""Unpacks into the directory given and returns the worker's answer (ingest.Layer's fields)."""


class Unpacked:
    """A layer unpacked into an active snapshot, not yet committed."""

    def __init__(self, store: ImageStore, key: str, fields: dict[str, Any]):
        self._store, self._key, self.diff_id = store, key, str(fields["diff_id"])
        self.size = int(fields["size"])
        self._blob = LayerBlob(fields["blob"], fields["blob_size"], fields["tar_size"], fields["media_type"])

    async def commit(self, lease: Lease, below: tuple[str, ...]) -> str:
        """As the layer on top of `below` (diff IDs); returns its chain ID."""
        chains = chain_ids([*below, self.diff_id])
        lease.add(Blob(self._blob.digest), Layer(chains[-1]))
        try:
            self._store.snapshots.commit(chains[-1], self._key, parent=chains[-2] if below else None)
        except Conflict:  # the layer is there already
            self.drop()
        await self._store.add_layer(chains[-1], self.diff_id, self.size, self._blob)
        return chains[-1]

    def drop(self) -> None:
        with suppress(NotFound):
            self._store.snapshots.remove(self._key)


async def unpack(store: ImageStore, ingest: Ingest) -> Unpacked:
    key = f"{UNPACKING}{secrets.token_hex(8)}"
    store.snapshots.prepare(key, None)
    try:
        fields = await ingest(str(store.snapshots.layer_dir(key)))
    except BaseException:
        store.snapshots.remove(key)
        store.collect_soon()
        raise
    return Unpacked(store, key, fields)
