"""Manifests, indexes and attestation manifests, byte for byte as BuildKit writes them.

Source: BuildKit exporter/containerimage/writer.go, docs/attestations/attestation-storage.md; the order of
members is that of OCI image-spec's Go types, which everybody's JSON has.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic_core import to_json

from daemon.images import manifests
from daemon.images.manifests import Descriptor
from daemon.images.model import Json, digest_of
from daemon.images.platforms import Platform
from daemon.images.targets import ATTESTATION, REFERENCE_DIGEST, REFERENCE_TYPE

IN_TOTO = "application/vnd.in-toto+json"
PREDICATE_TYPE = "in-toto.io/predicate-type"
ARTIFACT = "application/vnd.docker.attestation.manifest.v1+json"
EMPTY_JSON = "application/vnd.oci.empty.v1+json"
UNKNOWN = {"architecture": "unknown", "os": "unknown"}
_ESCAPED = str.maketrans({char: f"\\u{ord(char):04x}" for char in "<>&\u2028\u2029"})
_DOCKER_LAYERS = {
    manifests.OCI_LAYER: "application/vnd.docker.image.rootfs.diff.tar",
    f"{manifests.OCI_LAYER}+gzip": manifests.DOCKER_LAYER,
    f"{manifests.OCI_LAYER}+zstd": "application/vnd.docker.image.rootfs.diff.tar.zstd",
}
_OCI_LAYERS = {docker: oci for oci, docker in _DOCKER_LAYERS.items()}


def indented(value: Any) -> bytes:
    """As Go's MarshalIndent with two spaces."""
    return to_json(value, indent=2).decode().translate(_ESCAPED).encode()


def reindented(document: bytes) -> bytes:
    """For people to read."""
    return indented(json.loads(document))


def platform_fields(platform: Platform) -> Json:
    fields = {"architecture": platform.architecture, "os": platform.os}
    return fields | ({"variant": platform.variant} if platform.variant else {})


def descriptor(
    media_type: str,
    body: bytes,
    *,
    annotations: Mapping[str, str] | None = None,
    platform: Json | None = None,
) -> Json:
    fields: Json = {"mediaType": media_type, "digest": digest_of(body), "size": len(body)}
    if annotations:
        fields["annotations"] = dict(sorted(annotations.items()))
    return fields | ({"platform": platform} if platform else {})


def layer_type(media_type: str, *, oci: bool) -> str:
    """The same kind of layer in the other spelling; one that has none stays."""
    if oci:
        return _OCI_LAYERS.get(media_type, media_type)
    return _DOCKER_LAYERS.get(media_type, media_type)


def manifest(
    config: bytes,
    layers: Sequence[tuple[Descriptor, Mapping[str, str]]],
    *,
    oci: bool,
    annotations: Mapping[str, str],
) -> tuple[bytes, str]:
    """(document, its media type); layers with annotations, for which Docker's form has no place."""
    kind = manifests.OCI_MANIFEST if oci else manifests.DOCKER_MANIFEST
    document: Json = {
        "schemaVersion": 2,
        "mediaType": kind,
        "config": descriptor(manifests.OCI_CONFIG if oci else manifests.DOCKER_CONFIG, config),
        "layers": [_layer(layer, notes if oci else {}, oci=oci) for layer, notes in layers],
    }
    if annotations:
        document["annotations"] = dict(sorted(annotations.items()))
    return indented(document), kind


def _layer(layer: Descriptor, notes: Mapping[str, str], *, oci: bool) -> Json:
    media_type = layer_type(layer.media_type, oci=oci)
    fields: Json = {"mediaType": media_type, "digest": layer.digest, "size": layer.size}
    return fields | ({"annotations": dict(sorted(notes.items()))} if notes else {})


def index(entries: Sequence[Json], *, oci: bool, annotations: Mapping[str, str]) -> tuple[bytes, str]:
    """(document, its media type); entries are descriptors."""
    kind = manifests.OCI_INDEX if oci else manifests.DOCKER_LIST
    document: Json = {"schemaVersion": 2, "mediaType": kind, "manifests": list(entries)}
    if annotations:
        document["annotations"] = dict(sorted(annotations.items()))
    return indented(document), kind


def attestation_manifest(
    statements: Sequence[tuple[str, bytes]], subject: Json, *, artifact: bool
) -> tuple[bytes, bytes, Json]:
    """(document, its configuration, its descriptor in the index). `statements`: (predicate type, document)."""
    layers = [
        descriptor(IN_TOTO, body, annotations={PREDICATE_TYPE: predicate}) for predicate, body in statements
    ]
    config = b"{}" if artifact else _attestation_config([layer["digest"] for layer in layers])
    document: Json = {"schemaVersion": 2, "mediaType": manifests.OCI_MANIFEST}
    if artifact:
        document["artifactType"] = ARTIFACT
        document["config"] = {**descriptor(EMPTY_JSON, config), "data": "e30="}
    else:
        document["config"] = descriptor(manifests.OCI_CONFIG, config)
    document["layers"] = layers
    if artifact:
        document["subject"] = {name: subject[name] for name in ("mediaType", "digest", "size")}
    body = indented(document)
    notes = {REFERENCE_TYPE: ATTESTATION, REFERENCE_DIGEST: subject["digest"]}
    return body, config, descriptor(manifests.OCI_MANIFEST, body, annotations=notes, platform=UNKNOWN)


def _attestation_config(diff_ids: Sequence[str]) -> bytes:
    return manifests.encode(
        {**UNKNOWN, "config": {}, "rootfs": {"type": "layers", "diff_ids": list(diff_ids)}}
    )
