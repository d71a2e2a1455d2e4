"""docker save: what dockerd 28 writes, one archive that both docker load and OCI tools read.

    blobs/sha256/<diff ID>        layers, uncompressed
    blobs/sha256/<image ID>       configurations
    blobs/sha256/<digest>         OCI manifests
    index.json, oci-layout        the OCI layout
    manifest.json, repositories   Docker's

A name that is bound to a target (targets.py) is saved as that: its blobs as they are, compressed, and its index
or manifest in index.json. With a platform only that one's manifest of an index.

Not written: the configurations in the form of Docker before 1.10, which nothing reads any more.
Source: moby image/tarexport/save.go.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

from daemon.images import manifests, platforms, reference, targets, times
from daemon.images.manifests import Descriptor, encode
from daemon.images.model import Image, Json, digest_of
from daemon.images.platforms import Platform
from daemon.images.reference import Reference
from daemon.images.store import ImageStore
from daemon.images.targets import Target
from storage.errors import Internal, NotFound

LAYOUT = b'{"imageLayoutVersion": "1.0.0"}'
Member = dict[str, Any]


class Plan:
    """The members of an archive for some names, in order."""

    def __init__(self, store: ImageStore, platform: Platform | None):
        self._store, self._platform = store, platform
        self._wanted: dict[tuple[str, Target | None], list[Reference]] = {}

    def add(self, name: str) -> None:
        """A name, a repository (all its tags) or an ID. NotFound when there is no such image."""
        parsed = reference.parse_any(name)
        if isinstance(parsed, str):
            self._want(self._store.find(name), None)
        elif parsed.is_name_only and (tags := self._tags(parsed)):
            for tag, image_id in tags:
                self._want(self._image(image_id), tag)
        else:
            found = self._store.get(self._store.image_of(parsed) or "")
            image = found or self._store.find(name)
            named = found is not None and not parsed.digest
            self._want(image, parsed.with_default_tag() if named else None)

    def _tags(self, repository: Reference) -> list[tuple[Reference, str]]:
        return [(ref, target) for ref, target in self._store.references_in(repository) if not ref.digest]

    def _image(self, image_id: str) -> Image:
        image = self._store.get(image_id)
        if image is None:
            raise NotFound(f"No such image: {image_id}")
        return image

    def _want(self, image: Image, name: Reference | None) -> None:
        bound = self._store.bound_of(name) if name else self._store.bound(image.id)
        target = bound.target if bound else None
        if not image.diff_ids and target is None:
            raise Internal("empty export - not implemented")
        if self._platform is not None and target is not None:
            image, target = self._part(target, self._platform)
        if self._platform and not platforms.satisfies(self._platform, image.config):
            raise NotFound(f"no suitable export target found for platform {self._platform}")
        names = self._wanted.setdefault((image.id, target), [])
        if name is not None and name not in names:
            names.append(name)

    def _part(self, target: Target, platform: Platform) -> tuple[Image, Target]:
        part = targets.part_for(self._store.content, target, platform)
        return self._image(part.config), Target.of(part.descriptor)

    @property
    def images(self) -> list[str]:
        return list(dict.fromkeys(image_id for image_id, _ in self._wanted))

    def blobs(self) -> list[str]:
        """Digests that must stay in the store while the archive is written. Blocking."""
        found: list[str] = []
        for image_id, target in self._wanted:
            if target is not None:
                found += [each for each in self._target_blobs(target) if self._store.content.has(each)]
            else:
                diff_ids = self._image(image_id).diff_ids
                found += [image_id, *(self._layer_blob(diff).digest for diff in diff_ids)]
        return found

    def _target_blobs(self, target: Target) -> list[str]:
        return targets.blobs(self._store.content, target)

    def _layer_blob(self, diff_id: str) -> Any:
        blob = self._store.blob(diff_id)
        if blob is None:
            raise NotFound(f"layer {diff_id} is not in the content store")
        return blob

    def members(self) -> list[Member]:
        """Blocking: reads configurations."""
        blobs: dict[str, Member] = {}
        listed: list[Json] = []
        index: list[Json] = []
        repositories: dict[str, dict[str, str]] = {}
        for (image_id, target), names in self._wanted.items():
            image = self._image(image_id)
            if target is None:
                manifest = self._image_members(image, blobs)
                descriptor = Descriptor(manifests.OCI_MANIFEST, digest_of(manifest), len(manifest))
                blobs[_path(descriptor.digest)] = _document(_path(descriptor.digest), manifest)
                listed.append(self._listed(image, names))
            else:
                descriptor = Descriptor(target.media_type, target.digest, target.size)
                listed.append(self._listed_as(image, target, names, blobs))
            index += _index_entries(descriptor, names)
            for name in names:
                tags = repositories.setdefault(name.familiar_name, {})
                tags[name.tag] = image.diff_ids[-1].partition(":")[2] if image.diff_ids else ""
        created = max((member["mtime"] for member in blobs.values()), default=0)
        head: list[Member] = [{"name": name, "mtime": created} for name in ("blobs", "blobs/sha256")]
        tail = [_document("index.json", encode(_index(index)))]
        tail.append(_document("manifest.json", encode(listed) + b"\n"))
        tail.append(_document("oci-layout", LAYOUT))
        if repositories:
            tail.append(_document("repositories", encode(repositories) + b"\n"))
        return head + [blobs[name] for name in sorted(blobs)] + tail

    def _image_members(self, image: Image, blobs: dict[str, Member]) -> bytes:
        """Adds configuration and layers; returns the OCI manifest."""
        mtime = times.nanoseconds(image.created)
        config = self._store.content.read(image.id)
        blobs[_path(image.id)] = _document(_path(image.id), config, mtime)
        for diff_id in image.diff_ids:
            blob = self._layer_blob(diff_id)
            member = {"name": _path(diff_id), "mtime": mtime, "blob": blob.digest, "size": blob.tar_size}
            blobs[_path(diff_id)] = member
        layers = [self._layer(diff_id).fields() for diff_id in image.diff_ids]
        head = {"mediaType": manifests.OCI_CONFIG, "digest": image.id, "size": len(config)}
        document = {
            "schemaVersion": 2,
            "mediaType": manifests.OCI_MANIFEST,
            "config": head,
            "layers": [_ordered(layer) for layer in layers],
        }
        return encode(document)

    def _layer(self, diff_id: str) -> Descriptor:
        return Descriptor(manifests.OCI_LAYER, diff_id, self._layer_blob(diff_id).tar_size)

    def _listed_as(
        self, image: Image, target: Target, names: Sequence[Reference], blobs: dict[str, Member]
    ) -> Json:
        """Adds all of a target that is here; the entry in manifest.json is its image for this machine."""
        mtime = times.nanoseconds(image.created)
        for digest in self._target_blobs(target):
            if self._store.content.has(digest):
                blobs[_path(digest)] = {"name": _path(digest), "mtime": mtime, "raw": digest}
        parts = targets.parts(self._store.content, target)
        layers = next((part.layers for part in parts if part.config == image.id), ())
        return {
            "Config": _path(image.id),
            "RepoTags": [name.familiar for name in names] or None,
            "Layers": [_path(layer.digest) for layer in layers],
        }

    def _listed(self, image: Image, names: Sequence[Reference]) -> Json:
        """The image's entry in manifest.json."""
        entry: Json = {
            "Config": _path(image.id),
            "RepoTags": [name.familiar for name in names] or None,
            "Layers": [_path(diff_id) for diff_id in image.diff_ids],
        }
        if image.parent in self.images:
            entry["Parent"] = image.parent
        entry["LayerSources"] = {diff_id: self._layer(diff_id).fields() for diff_id in image.diff_ids}
        return entry


def _index(entries: list[Json]) -> Json:
    return {"schemaVersion": 2, "mediaType": manifests.OCI_INDEX, "manifests": entries}


def _index_entries(descriptor: Descriptor, names: Sequence[Reference]) -> list[Json]:
    plain = _ordered(descriptor.fields())
    if not names:
        return [plain]
    return [
        {
            **plain,
            "annotations": {
                "io.containerd.image.name": str(name),
                "org.opencontainers.image.ref.name": name.tag,
            },
        }
        for name in names
    ]


def _ordered(fields: Json) -> Json:
    return {name: fields[name] for name in ("mediaType", "digest", "size")}


def _path(digest: str) -> str:
    return "blobs/" + digest.replace(":", "/")


def _document(name: str, body: bytes, mtime: int = 0) -> Member:
    return {"name": name, "mtime": mtime, "body": base64.b64encode(body).decode()}
