"""Images in an OCI layout of the client's (`--build-context NAME=oci-layout://DIRECTORY`), over its session."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from daemon.build.bench import Bench, Job
from daemon.build.sources.clientlayers import ClientLayers
from daemon.images import manifests
from daemon.images.layers import Source, Wanted
from daemon.images.manifests import Descriptor, Index
from daemon.images.model import chain_ids
from daemon.images.platforms import Platform
from daemon.images.streams import together
from storage.errors import InvalidArgument, NotFound
from storage.gc import Blob, Layer

LAYOUT = "oci-layout://"
_DEEPEST = 4
"""Indexes within indexes."""


@dataclass(frozen=True)
class Layout:
    identifier: str
    attributes: tuple[tuple[str, str], ...]
    store: str
    config: dict[str, Any]
    layers: tuple[Descriptor, ...]

    @property
    def diff_ids(self) -> tuple[str, ...]:
        return tuple((self.config.get("rootfs") or {}).get("diff_ids") or ())


async def look(job: Job, store: str, digest: str, platform: Platform) -> Layout:
    """The image's configuration. NotFound, InvalidArgument as the documents are."""
    content = _content(job, store)
    media_type = manifests.OCI_INDEX
    found = digest
    for _ in range(_DEEPEST):
        body = await content.read_bytes(found)
        stated = json.loads(body).get("mediaType") or media_type
        decoded = manifests.decode(body, stated, digest)
        if not isinstance(decoded, Index):
            config = json.loads(await content.read_bytes(decoded.config.digest))
            attributes = (("oci.session", job.sessions[0].id), ("oci.store", store))
            layout = Layout(f"{LAYOUT}{store}@{digest}", attributes, store, config, tuple(decoded.layers))
            if len(layout.diff_ids) != len(layout.layers):
                raise InvalidArgument(f"{digest}: as many layers as diff IDs are needed")
            return layout
        candidates = list(decoded.candidates(platform))
        if not candidates:
            raise NotFound(f"no match for platform {platform} in manifest: {digest}")
        found, media_type = candidates[0].digest, manifests.OCI_MANIFEST
    raise InvalidArgument(f"{digest}: indexes within indexes within indexes")


async def bring(bench: Bench, job: Job, layout: Layout) -> tuple[str, ...]:
    """The layers, unpacked and leased to the build; its diff IDs."""
    source = ClientLayers(bench, job, _content(job, layout.store))
    chains = chain_ids(layout.diff_ids)
    job.lease.add(*(Layer(chain) for chain in chains), *(Blob(each.digest) for each in layout.layers))
    missing: list[tuple[Wanted, Source]] = []
    for place, (chain, diff_id) in enumerate(zip(chains, layout.diff_ids, strict=True)):
        if missing or not bench.store.is_complete(chain, diff_id):
            parent = chains[place - 1] if place else None
            missing.append((Wanted(chain, diff_id, parent, layout.layers[place], ""), source))
    with bench.ctx.images.layer_jobs.joined(missing) as joined:
        await together(*(each.wait() for each in joined))
    return layout.diff_ids


def _content(job: Job, store: str) -> Any:
    if not job.sessions:
        raise NotFound(f"no session that has the OCI layout {store}")
    return job.sessions[0].content(f"oci:{store}")
