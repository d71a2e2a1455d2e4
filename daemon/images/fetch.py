"""A registry's image for a build: its configuration first, its layers when they are needed, no name ever."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from daemon.images import manifests
from daemon.images.layers import Wanted
from daemon.images.pull import Pull
from daemon.images.reference import Reference
from daemon.images.registry.errors import RegistryError
from daemon.images.sessions import Session
from daemon.images.streams import Say
from storage.errors import Internal
from storage.gc import Blob, Layer, Lease


class Fetch(Pull):
    """`look()` asks the registry what there is, `bring()` gets the layers. Raises as a pull does."""

    digest = ""
    """What the reference names: an index or a manifest."""
    config: dict[str, Any]
    _bringing: Lease | None = None

    async def look(self) -> None:
        await self._run()

    async def bring(self, lease: Lease, say: Say) -> None:
        """The layers, held by the lease; says what a pull says."""
        self._bringing, self._say = lease, say
        if self.digest:
            self._reference = self._reference.with_digest(self.digest)
        await self._run()

    async def _run(self) -> None:
        try:
            await self.run()
        except RegistryError as error:
            raise Internal(str(error)) from error

    async def _pull(self, session: Session) -> None:
        await self._pull_one(session, self._reference)

    async def _pull_one(self, session: Session, reference: Reference) -> bool:
        document = await session.manifest(reference.digest or reference.tag)
        decoded = manifests.decode(document.body, document.media_type, str(reference))
        image_id, config, layers = await self._resolve(session, decoded, reference)
        image = self._store.get(image_id)
        if config is not None:
            self.config = json.loads(config)
        elif image is not None:
            self.config = image.config
        if self._bringing is not None:
            await self._into(self._bringing, session, layers)
        self.digest = document.digest
        return False

    async def _into(self, lease: Lease, session: Session, layers: Sequence[Wanted]) -> None:
        lease.add(*(Layer(each.chain_id) for each in layers))
        lease.add(*(Blob(each.descriptor.digest) for each in layers))
        await self._fetch(session, layers)
