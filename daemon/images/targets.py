"""What a name stands for beside its image: a manifest or an index, kept as it was made.

    target      a descriptor: the manifest or index that a registry has, or would have, under the name
    part        a manifest of an index: an image for one platform, an attestation, or something unknown
    bound       a target together with the IDs of the images in it that are here

An image that was pulled has no target: its manifest is made anew when it is pushed. One that a build made, or
that came in an OCI archive, has: what was signed and told by its digest must go out with that digest.
Sources: OCI image-spec image-index.md, manifest.md; BuildKit docs/attestations/attestation-storage.md.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from daemon.images import manifests, platforms
from daemon.images.model import Json
from daemon.images.platforms import Platform
from storage.content import ContentStore
from storage.errors import InvalidArgument, NotFound, PydError

REFERENCE_TYPE = "vnd.docker.reference.type"
REFERENCE_DIGEST = "vnd.docker.reference.digest"
ATTESTATION = "attestation-manifest"
_INDEXES = frozenset((manifests.DOCKER_LIST, manifests.OCI_INDEX))
_DEEPEST = 4
"""Indexes within indexes."""


@dataclass(frozen=True)
class Target:
    media_type: str
    digest: str
    size: int

    @property
    def is_index(self) -> bool:
        return self.media_type in _INDEXES

    def fields(self) -> Json:
        return {"mediaType": self.media_type, "digest": self.digest, "size": self.size}

    @classmethod
    def of(cls, fields: Mapping[str, Any]) -> Target:
        return cls(str(fields["mediaType"]), str(fields["digest"]), int(fields["size"]))


@dataclass(frozen=True)
class Bound:
    target: Target
    images: tuple[str, ...]
    """IDs of the images in it that are complete here; the one that the name resolves to is among them."""

    def fields(self) -> Json:
        return {"target": self.target.fields(), "parts": list(self.images)}

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Bound | None:
        """From a record that may have none."""
        if not record.get("target"):
            return None
        return cls(Target.of(record["target"]), tuple(record.get("parts") or ()))


@dataclass(frozen=True)
class Part:
    descriptor: Json
    """As it stands in the index (for a target that is a manifest, the target itself)."""
    manifest: Json | None
    """None: it is not here."""

    @property
    def digest(self) -> str:
        return str(self.descriptor["digest"])

    @property
    def annotations(self) -> Json:
        return self.descriptor.get("annotations") or {}

    @property
    def platform(self) -> Platform:
        return Platform.of(self.descriptor.get("platform"))

    @property
    def kind(self) -> str:
        """image, attestation or unknown: the API's words."""
        if self.annotations.get(REFERENCE_TYPE) == ATTESTATION:
            return "attestation"
        if self.manifest is None:
            return "image" if self.platform.os not in ("", "unknown") else "unknown"
        layers = self.manifest.get("layers") or ()
        foreign = any("in-toto" in str(layer.get("mediaType")) for layer in layers)
        return "unknown" if foreign or self.platform.os == "unknown" else "image"

    @property
    def subject(self) -> str:
        """Of an attestation: the digest of the manifest that it speaks of."""
        return str(self.annotations.get(REFERENCE_DIGEST) or "")

    @property
    def config(self) -> str:
        return str(((self.manifest or {}).get("config") or {}).get("digest") or "")

    @property
    def layers(self) -> tuple[manifests.Descriptor, ...]:
        return tuple(manifests.Descriptor.of(layer) for layer in (self.manifest or {}).get("layers") or ())

    @property
    def blobs(self) -> list[manifests.Descriptor]:
        """Configuration and layers."""
        if self.manifest is None:
            return []
        return [manifests.Descriptor.of(self.manifest.get("config")), *self.layers]


def parts(content: ContentStore, target: Target) -> list[Part]:
    """The manifests of a target in its order. Blocking. NotFound, DataCorrupted, InvalidArgument: it is damaged."""
    return list(_parts(content, {**target.fields()}, target.is_index, 0))


def _parts(content: ContentStore, descriptor: Json, index: bool, depth: int) -> Iterator[Part]:
    if not index:
        yield Part(descriptor, _document(content, str(descriptor["digest"])))
        return
    if depth > _DEEPEST:
        raise InvalidArgument("indexes are nested too deeply")
    for entry in _document(content, str(descriptor["digest"])).get("manifests") or ():
        manifests.Descriptor.of(entry)
        try:
            yield from _parts(content, entry, entry.get("mediaType") in _INDEXES, depth + 1)
        except NotFound:
            yield Part(entry, None)


def part_for(content: ContentStore, target: Target, platform: Platform) -> Part:
    """The image of a target for a platform, best first. NotFound."""
    ranked = [
        (place, part)
        for part in parts(content, target)
        if part.kind == "image" and (place := platforms.rank(platform, _offered(content, part))) is not None
    ]
    if not ranked:
        raise NotFound(f"no suitable export target found for platform {platform}")
    return min(ranked, key=lambda pair: pair[0])[1]


def _offered(content: ContentStore, part: Part) -> Platform:
    if part.platform.os:
        return part.platform
    return Platform.of(_document(content, part.config)) if content.has(part.config) else part.platform


def blobs(content: ContentStore, target: Target) -> list[str]:
    """Digests of all that a target refers to, whether it is here or not; itself alone when it is damaged."""
    found = dict.fromkeys([target.digest])
    try:
        found.update(dict.fromkeys(digest for digest, _ in nested(content, target)))
        for part in parts(content, target):
            found.update(dict.fromkeys([part.digest, *(blob.digest for blob in part.blobs)]))
    except PydError:
        pass
    return list(found)


def nested(content: ContentStore, target: Target) -> list[tuple[str, str]]:
    """(digest, media type) of the indexes within an index, those first that others have. Mostly there are none."""
    return list(_nested(content, target.digest, target.is_index, 0))


def _nested(content: ContentStore, digest: str, index: bool, depth: int) -> Iterator[tuple[str, str]]:
    if not index or depth > _DEEPEST or not content.has(digest):
        return
    for entry in _document(content, digest).get("manifests") or ():
        inner = entry.get("mediaType") in _INDEXES
        yield from _nested(content, str(entry["digest"]), inner, depth + 1)
        if inner:
            yield str(entry["digest"]), str(entry["mediaType"])


def missing(content: ContentStore, target: Target) -> list[str]:
    """What of it is not here."""
    return [digest for digest in blobs(content, target) if not content.has(digest)]


def _document(content: ContentStore, digest: str) -> Json:
    try:
        found = json.loads(content.read(digest))
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise InvalidArgument(f"{digest} is no manifest")
    return found
