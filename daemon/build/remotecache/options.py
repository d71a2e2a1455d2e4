"""What --cache-to and --cache-from may say.

Source: BuildKit control/control.go (Solve, findDuplicateCacheOptions), cache/remotecache/*, util/compression.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from daemon import parsebool
from daemon.images import reference
from daemon.images.reference import Reference
from storage.errors import InvalidArgument, NotImplementedYet

_COMPRESSIONS = ("uncompressed", "gzip", "zstd")
EXPORTERS = ("registry", "local", "inline")
IMPORTERS = ("registry", "local")


@dataclass(frozen=True)
class Export:
    """--cache-to, understood."""

    type: str
    all: bool
    """mode=max: the layers of every step, not only of the result."""
    ignore_error: bool
    reference: Reference | None = None
    store: str = ""
    """The client's directory."""
    insecure: bool = False
    oci: bool = True
    manifest: bool = True
    """An image manifest, else an index."""
    compression: str = ""
    """As kept when empty."""
    level: int | None = None
    force: bool = False


def parse(kind: str, attributes: Mapping[str, str]) -> Export:
    """InvalidArgument in BuildKit's words."""
    if kind not in EXPORTERS:
        raise InvalidArgument(f'unknown cache exporter: "{kind}"')
    try:
        return _parse(kind, attributes)
    except InvalidArgument as error:
        raise InvalidArgument(f"failed to configure {kind} cache exporter: {error}") from None


def _parse(kind: str, attributes: Mapping[str, str]) -> Export:
    oci = boolean(attributes, "oci-mediatypes", True)
    manifest = boolean(attributes, "image-manifest", oci)
    if manifest and not oci:
        raise InvalidArgument(
            "invalid configuration for remote cache, OCI mediatypes are required for image-manifest cache format"
        )
    name = canonical(attributes) if kind == "registry" else None
    if kind == "local" and not attributes.get("dest"):
        raise InvalidArgument("local cache exporter requires dest")
    compression = attributes.get("compression", "")
    if compression == "estargz":
        raise NotImplementedYet("compression=estargz: layers are gzip, zstd or uncompressed here")
    if compression and compression not in _COMPRESSIONS:
        raise InvalidArgument(f"unsupported compression type {compression}")
    return Export(
        type=kind,
        all=attributes.get("mode") == "max",
        ignore_error=attributes.get("ignore-error") in parsebool.TRUE,
        reference=name,
        store=attributes.get("dest", ""),
        insecure=boolean(attributes, "registry.insecure", False),
        oci=oci,
        manifest=manifest,
        compression=compression,
        level=_level(attributes),
        force=boolean(attributes, "force-compression", False),
    )


def _level(attributes: Mapping[str, str]) -> int | None:
    text = attributes.get("compression-level", "")
    if not text:
        return None
    try:
        return int(text)
    except ValueError:
        raise InvalidArgument(f'non-integer value {text} specified for compression-level: "{text}"') from None


def boolean(attributes: Mapping[str, str], name: str, default: bool) -> bool:
    """Go's strconv.ParseBool."""
    text = attributes.get(name)
    if text is None:
        return default
    if text not in parsebool.TRUE | parsebool.FALSE:
        raise InvalidArgument(f"failed to parse {name}: {parsebool.invalid(text)}")
    return text in parsebool.TRUE


def canonical(attributes: Mapping[str, str]) -> Reference:
    text = attributes.get("ref", "")
    if not text:
        raise InvalidArgument("missing ref")
    return reference.parse(text).with_default_tag()


def check(specs: Sequence[tuple[str, Mapping[str, str]]]) -> None:
    """All exports of a build; see parse(). One destination twice is refused."""
    seen: set[str] = set()
    twice = []
    for kind, attributes in specs:
        place = json.dumps([kind, dict(attributes)], sort_keys=True)
        if place in seen:
            twice.append(kind)
        seen.add(place)
    if twice:
        raise InvalidArgument(f"duplicate cache exports [{' '.join(twice)}]")
    for kind, attributes in specs:
        parse(kind, attributes)


def imported_name(kind: str, attributes: Mapping[str, str]) -> str:
    """What the step of an import is called by: the reference, or the type and a digest."""
    if kind == "registry":
        return str(canonical(attributes))
    return f"{kind}:{attributes.get('digest', '')}"
