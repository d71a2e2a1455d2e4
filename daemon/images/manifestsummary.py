"""What `manifests=1` shows of an image: the manifests of what its name is bound to.

Source: moby api/types/image/manifest.go, daemon/containerd/image_manifest.go.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from daemon.images import targets
from daemon.images.model import ImageUse, Json
from daemon.images.platforms import Platform
from daemon.images.store import ImageStore
from daemon.images.targets import Part, Target
from storage.errors import PydError

InUse = Callable[[str], Sequence[ImageUse]]


def summaries(store: ImageStore, target: Target, in_use: InUse) -> list[Json]:
    """Blocking: reads the manifests."""
    try:
        return [_summary(store, part, in_use) for part in targets.parts(store.content, target)]
    except PydError:
        return []


def _summary(store: ImageStore, part: Part, in_use: InUse) -> Json:
    blobs = {part.digest: int(part.descriptor.get("size") or 0)}
    blobs |= {blob.digest: blob.size for blob in part.blobs}
    here = {digest: size for digest, size in blobs.items() if store.content.has(digest)}
    content = sum(here.values())
    shown: Json = {
        "ID": part.digest,
        "Descriptor": part.descriptor,
        "Available": part.manifest is not None and len(here) == len(blobs),
        "Size": {"Content": content, "Total": content},
        "Kind": part.kind,
    }
    if part.kind == "attestation":
        shown["AttestationData"] = {"For": part.subject}
    elif part.kind == "image":
        image = store.get(part.config)
        unpacked = image.size if image else 0
        offered = Platform.of(image.config) if image else part.platform
        containers = [use.container_id for use in in_use(part.config)] if image else []
        shown["Size"] = {"Content": content, "Total": content + unpacked}
        shown["ImageData"] = {
            "Platform": _platform(offered),
            "Size": {"Unpacked": unpacked},
            "Containers": containers or None,
        }
    return shown


def _platform(platform: Platform) -> Json:
    fields = {"architecture": platform.architecture, "os": platform.os}
    return fields | ({"variant": platform.variant} if platform.variant else {})
