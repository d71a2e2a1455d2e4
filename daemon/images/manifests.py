"""What a registry stores about an image: manifests and indexes, in Docker's and in OCI's spelling.

Sources: OCI image-spec manifest.md and image-index.md; distribution docs/content/spec/manifest-v2-2.md.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from daemon.images import platforms
from daemon.images.model import Json
from daemon.images.platforms import Platform
from daemon.images.reference import validate_digest
from storage.errors import InvalidArgument, NotFound

DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"
DOCKER_FOREIGN = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
SCHEMA1 = "application/vnd.docker.distribution.manifest.v1+json"
SCHEMA1_SIGNED = "application/vnd.docker.distribution.manifest.v1+prettyjws"

ACCEPTED = (DOCKER_MANIFEST, DOCKER_LIST, OCI_INDEX, OCI_MANIFEST, SCHEMA1_SIGNED, SCHEMA1)
"""Accept header of manifest requests. Schema 1 is asked for only to refuse it by its name."""

LARGEST_MANIFEST = 4 << 20
_CONFIGS = frozenset((DOCKER_CONFIG, OCI_CONFIG, "application/octet-stream", "text/html", ""))
_CONFIG_CLASSES = {
    "application/vnd.docker.plugin.v1+json": "plugin",
    "application/vnd.docker.plugin.image.v0+json": "plugin",
}
_SUPPORTED = (
    "application/vnd.oci.image.",
    "application/vnd.docker.image.rootfs.",
    "application/vnd.docker.container.image.",
    "application/octet-stream",
    "application/json",
)


@dataclass(frozen=True)
class Descriptor:
    media_type: str
    digest: str
    size: int

    @classmethod
    def of(cls, fields: Any) -> Descriptor:
        if not isinstance(fields, dict) or not isinstance(fields.get("size", 0), int):
            raise InvalidArgument("unsupported manifest format")
        return cls(
            str(fields.get("mediaType") or ""),
            validate_digest(str(fields.get("digest") or "")),
            int(fields.get("size") or 0),
        )

    def fields(self) -> Json:
        return {"mediaType": self.media_type, "size": self.size, "digest": self.digest}


@dataclass(frozen=True)
class Manifest:
    config: Descriptor
    layers: tuple[Descriptor, ...]


@dataclass(frozen=True)
class Index:
    entries: tuple[tuple[Descriptor, Platform], ...]

    def candidates(self, platform: Platform | None) -> list[Descriptor]:
        """Entries that run on the platform (this machine when None), best first; NotFound when none does."""
        wanted = platform or platforms.local()
        ranked = [
            (place, entry)
            for entry, offered in self.entries
            if (place := platforms.rank(wanted, offered)) is not None
        ]
        if not ranked and wanted.architecture == "arm":
            same = (entry for entry, offered in self.entries if offered.normalized().architecture == "arm")
            ranked = [(0, entry) for entry in same]
        if not ranked:
            raise NotFound(f"no matching manifest for {wanted} in the manifest list entries")
        return [entry for _, entry in sorted(ranked, key=lambda pair: pair[0])]


def decode(body: bytes, media_type: str, reference: str = "") -> Manifest | Index:
    """Reads a manifest; the media type of the answer decides, else what the document says of itself."""
    try:
        fields = json.loads(body)
    except ValueError:
        raise InvalidArgument("unsupported manifest format") from None
    if not isinstance(fields, dict):
        raise InvalidArgument("unsupported manifest format")
    declared = media_type.partition(";")[0].strip()
    kind = declared if declared in ACCEPTED else str(fields.get("mediaType") or declared)
    if kind in (SCHEMA1, SCHEMA1_SIGNED) or fields.get("schemaVersion") == 1:
        raise InvalidArgument(schema1_refused(reference))
    if kind in (DOCKER_LIST, OCI_INDEX) or (not fields.get("config") and "manifests" in fields):
        return _index(fields)
    if isinstance(fields.get("config"), dict) and isinstance(fields.get("layers", []), list):
        return _manifest(fields)
    raise InvalidArgument("unsupported manifest format")


def schema1_refused(reference: str) -> str:
    advice = (
        f" Suggest the author of {reference} to upgrade the image to the OCI Format or Docker Image"
        " manifest v2, schema 2."
    )
    return (
        "Docker Image Format v1 and Docker Image manifest version 2, schema 1 support has been removed."
        f"{advice if reference else ''}"
        " More information at https://docs.docker.com/go/deprecated-image-specs/"
    )


def _manifest(fields: Mapping[str, Any]) -> Manifest:
    config = Descriptor.of(fields["config"])
    _check_config(config.media_type)
    layers = tuple(Descriptor.of(layer) for layer in fields.get("layers") or ())
    for layer in layers:
        check_supported(layer.media_type)
    return Manifest(config, layers)


def _check_config(media_type: str) -> None:
    """dockerd validates Docker configurations by class, OCI ones by the list of supported types."""
    if media_type in _CONFIG_CLASSES:
        raise InvalidArgument(
            f'Encountered remote "{media_type}"({_CONFIG_CLASSES[media_type]}) when fetching'
        )
    if media_type not in _CONFIGS:
        check_supported(media_type)


def check_supported(media_type: str) -> None:
    lowered = media_type.lower()
    if lowered.startswith("application/vnd.docker.ai."):
        raise InvalidArgument(
            'AI models are not yet supported by the Engine, please use "docker model pull/run" instead'
        )
    if lowered and not lowered.startswith(_SUPPORTED):
        raise InvalidArgument(f"unsupported media type {media_type}")


def _index(fields: Mapping[str, Any]) -> Index:
    entries = fields.get("manifests")
    if not isinstance(entries, list):
        raise InvalidArgument("unsupported manifest format")
    return Index(tuple((Descriptor.of(entry), Platform.of(entry.get("platform"))) for entry in entries))


def docker_manifest(config: Descriptor, layers: Sequence[Descriptor]) -> bytes:
    """A schema 2 manifest byte for byte as dockerd marshals it (three spaces, its order of members)."""
    document = {
        "schemaVersion": 2,
        "mediaType": DOCKER_MANIFEST,
        "config": config.fields(),
        "layers": [layer.fields() for layer in layers],
    }
    return json.dumps(document, indent=3).encode()


def encode(value: Any) -> bytes:
    """JSON as Go's encoder writes it: compact, UTF-8, with <, > and & escaped."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    for char in "<>&\u2028\u2029":
        text = text.replace(char, f"\\u{ord(char):04x}")
    return text.encode()
