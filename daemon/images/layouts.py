"""The OCI layout within an archive: what its index.json names, as targets that names may be bound to.

An entry is kept as it is when what it refers to has the form in which layers are kept: compressed. dockerd with
its own store writes layouts of uncompressed layers, which say nothing that manifest.json does not.
Source: OCI image-spec image-layout.md.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Set
from dataclasses import dataclass, field

from daemon.images import manifests, platforms
from daemon.images.manifests import Descriptor
from daemon.images.model import Json
from daemon.images.platforms import Platform
from daemon.images.targets import Target
from daemon.images.transfer.parent import Worker
from storage.errors import InvalidArgument, NotFound

NAME, REF_NAME = "io.containerd.image.name", "org.opencontainers.image.ref.name"
_DEEPEST, _MOST = 4, 1000
_COMPRESSED = ("gzip", "zstd")


@dataclass(frozen=True)
class LayoutImage:
    """An image whose configuration and layers are all in the archive."""

    config: str
    layers: tuple[str, ...]
    """Digests, as the configuration's."""
    platform: Platform
    compressed: bool


@dataclass
class Entry:
    """One thing that index.json names, perhaps by several names."""

    target: Target
    names: list[str]
    images: list[LayoutImage] = field(default_factory=list)
    blobs: dict[str, int] = field(default_factory=dict)
    """What it refers to and the archive has: digests to sizes, itself included."""

    @property
    def kept(self) -> bool:
        """Whether it can be kept as it is."""
        return bool(self.images) and all(image.compressed for image in self.images)

    def image(self, platform: Platform | None) -> LayoutImage:
        """The one for a platform (None: this machine's, else the first). NotFound."""
        wanted = platform or platforms.local()
        ranked = [
            (place, each) for each in self.images if (place := _rank(wanted, each.platform)) is not None
        ]
        if ranked:
            return min(ranked, key=lambda pair: pair[0])[1]
        if platform is None and self.images:
            return self.images[0]
        raise NotFound(f"no matching manifest for {wanted} in the manifest list entries")


def _rank(wanted: Platform, offered: Platform) -> int | None:
    return 0 if not offered.os and not offered.architecture else platforms.rank(wanted, offered)


def path(digest: str) -> str:
    return "blobs/" + digest.replace(":", "/")


async def read(worker: Worker, members: Set[str]) -> list[Entry]:
    """InvalidArgument: index.json, or what it names, is none."""
    index = parsed(await member(worker, "index.json"), "index.json")
    found: dict[str, Entry] = {}
    for fields in index.get("manifests") or ():
        descriptor = Descriptor.of(fields)
        entry = found.get(descriptor.digest)
        if entry is None:
            target = Target(descriptor.media_type, descriptor.digest, descriptor.size)
            entry = found[descriptor.digest] = Entry(target, [])
            await _walk(worker, members, entry, fields, 0)
        entry.names += _names(fields)
    return list(found.values())


def _names(fields: Json) -> Iterator[str]:
    notes = fields.get("annotations") or {}
    if NAME in notes:
        yield str(notes[NAME])
    elif ":" in (notes.get(REF_NAME) or ""):
        yield str(notes[REF_NAME])


async def _walk(worker: Worker, members: Set[str], entry: Entry, fields: Json, depth: int) -> None:
    descriptor = Descriptor.of(fields)
    if path(descriptor.digest) not in members:
        if depth == 0:
            raise InvalidArgument(f"invalid archive: it does not contain {path(descriptor.digest)}")
        return
    if depth > _DEEPEST or len(entry.blobs) > _MOST:
        raise InvalidArgument("invalid archive: its index is too large")
    body = await member(worker, path(descriptor.digest))
    entry.blobs[descriptor.digest] = len(body)
    document = parsed(body, descriptor.digest)
    if depth == 0:
        manifests.decode(body, descriptor.media_type)  # what is not supported is refused by its name
    if "manifests" in document and "config" not in document:
        for inner in document.get("manifests") or ():
            await _walk(worker, members, entry, inner, depth + 1)
        return
    config, layers = Descriptor.of(document.get("config")), _layers(document)
    here = [blob for blob in (config, *layers) if path(blob.digest) in members]
    entry.blobs |= {blob.digest: blob.size for blob in here}
    if len(here) == 1 + len(layers) and _is_image(fields, layers):
        digests = tuple(layer.digest for layer in layers)
        compressed = all(layer.media_type.endswith(_COMPRESSED) for layer in layers)
        offered = Platform.of(fields.get("platform"))
        entry.images.append(LayoutImage(config.digest, digests, offered, compressed))


def _layers(document: Json) -> list[Descriptor]:
    found = document.get("layers") or []
    if not isinstance(found, list):
        raise InvalidArgument("unsupported manifest format")
    return [Descriptor.of(layer) for layer in found]


def _is_image(fields: Json, layers: list[Descriptor]) -> bool:
    foreign = any("in-toto" in layer.media_type for layer in layers)
    return not foreign and Platform.of(fields.get("platform")).os != "unknown"


async def member(worker: Worker, name: str) -> bytes:
    """A small one. InvalidArgument when there is none."""
    try:
        return base64.b64decode(await worker.call("member", name=name))
    except NotFound as error:
        raise InvalidArgument(f"invalid archive: {error}") from None


def parsed(body: bytes, name: str) -> Json:
    try:
        found = json.loads(body)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise InvalidArgument(f"invalid archive: {name} is not a JSON object")
    return found
