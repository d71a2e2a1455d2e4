"""Layers that a build's client has."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

from daemon.build.bench import Bench, Job
from daemon.build.session.sessions import Content
from daemon.images.manifests import Descriptor
from daemon.images.model import Json


class ClientLayers:
    """Layers in a content store of the client's, each taken to this machine whole and verified, then unpacked."""

    def __init__(self, bench: Bench, job: Job, content: Content) -> None:
        self._bench, self._job, self._content = bench, job, content

    def acquire(self) -> None:
        pass

    async def release(self) -> None:
        pass

    async def layer(
        self, layer: Descriptor, directory: str, progress: Callable[[dict[str, Any]], None]
    ) -> Json:
        await self.blob(layer)
        worker = self._bench.ctx.images.layer_jobs.worker
        found: Json = await worker.call(
            "unpack", digest=layer.digest, media_type=layer.media_type, directory=directory
        )
        return found

    async def blob(self, layer: Descriptor) -> None:
        """Into the content store, leased by the caller. DataCorrupted unless digest and size are right."""
        spool = self._job.directory / f"layer-{secrets.token_hex(8)}"
        try:
            await self._content.read(layer.digest, spool)
            await asyncio.to_thread(self._store, layer, spool)
        finally:
            await asyncio.to_thread(spool.unlink, True)

    def _store(self, layer: Descriptor, spool: Path) -> None:
        content = self._bench.store.content
        with open(spool, "rb", buffering=0) as file, content.writer(layer.digest, layer.size) as writer:
            while piece := file.read(1 << 20):
                writer.write(piece)
            writer.commit()
