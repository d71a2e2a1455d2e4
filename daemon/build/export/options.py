"""What exporters of images can be told (BuildKit exporter/containerimage/exptypes/keys.go, opts.go).

An attribute that is not known is kept out of the way, as BuildKit does: clients of other ages send more.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from daemon.build.export import attributes
from daemon.build.export.annotations import Annotations
from daemon.images import reference
from daemon.images.reference import Reference
from storage.errors import InvalidArgument, NotImplementedYet

GZIP, ZSTD, UNCOMPRESSED = "gzip", "zstd", "uncompressed"
ARCHIVES = frozenset(("oci", "docker"))
_LEVELS = {GZIP: range(-3, 10), ZSTD: range(-7, 23), UNCOMPRESSED: range(-7, 23)}


@dataclass(frozen=True)
class Compression:
    type: str = GZIP
    level: int | None = None
    """None: as layers are compressed anyway."""
    force: bool = False
    """Of layers that were there before the build as well."""


@dataclass(frozen=True)
class ImageOptions:
    name: str = ""
    """Names with commas between them, as they were given; "*" asks the front end."""
    push: bool = False
    push_by_digest: bool = False
    insecure: bool = False
    store: bool = True
    name_canonical: bool = False
    dangling_prefix: str = ""
    dangling_empty_only: bool = False
    oci: bool = False
    """OCI's media types instead of Docker's."""
    artifact: bool = False
    """Attestations as OCI artifacts."""
    inline_attestations: bool = True
    """Also those that nobody asked for."""
    compression: Compression = Compression()
    rewrite_timestamp: bool = False
    epoch: int | None = None
    """SOURCE_DATE_EPOCH in nanoseconds."""
    annotations: Annotations = field(default_factory=Annotations)
    tar: bool = True
    """An archive; else a directory, through the client's content store."""


def parse(kind: str, attrs: Mapping[str, str], epoch: str | None) -> ImageOptions:
    """`epoch`: SOURCE_DATE_EPOCH of the build, which an attribute goes before."""
    compression = _compression(attrs)
    oci = attributes.boolean(attrs, "oci-mediatypes", kind == "oci")
    artifact = attributes.boolean(attrs, "oci-artifact", False, empty=None)
    attributes.boolean(attrs, "prefer-nondist-layers", False, empty=None)  # there are none such here
    moby, archive = kind == "moby", kind in ARCHIVES
    of_images = {} if archive else attrs
    return ImageOptions(
        name=attrs.get("name", ""),
        push=attributes.boolean(of_images, "push", False),
        push_by_digest=attributes.boolean(of_images, "push-by-digest", False),
        insecure=attributes.boolean(of_images, "registry.insecure", False),
        store=attributes.boolean(of_images, "store", True),
        name_canonical=attributes.boolean(of_images, "name-canonical", False),
        dangling_prefix=of_images.get("dangling-name-prefix", "moby-dangling" if moby else ""),
        dangling_empty_only=moby or attributes.boolean(of_images, "danging-name-empty-only", False),
        oci=oci or artifact,
        artifact=artifact,
        inline_attestations=attributes.boolean(
            attrs, "attestation-inline", kind in ("image", "moby"), empty=None
        ),
        compression=compression,
        rewrite_timestamp=attributes.boolean(attrs, "rewrite-timestamp", False, empty=None),
        epoch=attributes.epoch(attrs.get("source-date-epoch", epoch)),
        annotations=Annotations.of(attrs),
        tar=attributes.boolean(attrs if archive else {}, "tar", True),
    )


@dataclass(frozen=True)
class FileOptions:
    """Of local and tar (BuildKit exporter/local/fs.go)."""

    prefix: str = ""
    """Of attestations' file names."""
    split: bool | None = None
    """A directory for each platform; None: when several were asked for."""
    epoch: int | None = None


def parse_files(attrs: Mapping[str, str], epoch: str | None) -> FileOptions:
    """`mode=delete`, of later clients, is one more attribute that is not known."""
    return FileOptions(
        prefix=attrs.get("attestation-prefix", ""),
        split=attributes.optional_boolean(attrs, "platform-split"),
        epoch=attributes.epoch(attrs.get("source-date-epoch", epoch)),
    )


def _compression(attrs: Mapping[str, str]) -> Compression:
    kind = attrs.get("compression", GZIP)
    if kind == "estargz":
        raise NotImplementedYet(f"compression={kind}: layers are gzip, zstd or uncompressed here")
    if kind not in _LEVELS:
        raise InvalidArgument(f"unsupported compression type {kind}")
    level = attributes.number(attrs, "compression-level")
    if level is not None and kind == GZIP and level not in _LEVELS[kind]:
        raise InvalidArgument(f"invalid compression-level {level} for {kind}")
    if level is not None:
        level = max(_LEVELS[kind][0], min(level, _LEVELS[kind][-1]))
    force = attributes.boolean(
        attrs, "force-compression", False, said="non-bool value {value} specified for {name}"
    )
    return Compression(kind, level, force)


def names(options: ImageOptions, front_end: str = "") -> list[Reference]:
    """With tags, each once. `front_end`: what takes the place of "*". InvalidArgument for what is no name."""
    text = front_end if options.name == "*" else options.name
    found: dict[Reference, None] = {}
    for name in text.split(","):
        if not name:
            continue
        parsed = reference.parse(name)
        if parsed.digest:
            raise InvalidArgument("build tag cannot contain a digest")
        found[parsed if options.push_by_digest else parsed.with_default_tag()] = None
    return list(found)
