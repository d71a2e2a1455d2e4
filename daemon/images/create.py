"""Images made here: docker import (from a tar) and docker commit (from a container)."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from daemon.images import archive, changes, platforms, times
from daemon.images.made import unpack
from daemon.images.manifests import encode
from daemon.images.model import BASE_CONFIG, Image, Json
from daemon.images.platforms import Platform
from daemon.images.reference import Reference
from daemon.images.store import ImageStore


async def import_archive(
    store: ImageStore,
    stream: AsyncIterator[bytes],
    name: Reference | None,
    message: str,
    change: Sequence[str],
    platform: Platform | None,
) -> Image:
    """An image of one layer: the archive."""
    config = changes.apply({}, change)
    platform = platform or platforms.local()

    async with archive.receiving(store.content.root, stream) as worker:

        async def ingest(directory: str) -> Json:
            answer: Json = await worker.call("ingest_stream", directory=directory)
            return answer

        layer = await unpack(store, ingest)
    created = times.rfc3339(time.time_ns())
    document: Json = {
        **({"comment": message} if message else {}),
        "created": created,
        "config": {**BASE_CONFIG, **config},
        **_platform_fields(platform),
        "rootfs": {"type": "layers", "diff_ids": [layer.diff_id]},
        "history": [{"created": created, **({"comment": message} if message else {})}],
    }
    with store.lease() as lease:
        await layer.commit(lease, ())
        return await store.add_image(encode(document), [name] if name else [], tagged=True)


async def commit_container(
    store: ImageStore,
    key: str,
    parent: Image | None,
    config: Mapping[str, Any],
    *,
    container_id: str,
    container_config: Mapping[str, Any],
    author: str,
    message: str,
    change: Sequence[str],
    name: Reference | None,
) -> Image:
    """The container's changes as a layer on top of its image."""
    merged = _merged(changes.apply({}, change), config)
    upper = store.snapshots.layer_dir(key)
    layer = await unpack(store, lambda directory: _ingest_upper(store, upper, directory))
    created = times.rfc3339(time.time_ns())
    base = parent.config if parent else {}
    below = parent.diff_ids if parent else ()
    history: Json = {
        "created": created,
        **({"author": author} if author else {}),
        "created_by": " ".join(container_config.get("Cmd") or ()),
        **({"comment": message} if message else {}),
    }
    document: Json = {
        **({"comment": message} if message else {}),
        "created": created,
        **({"container": container_id} if container_id else {}),
        "container_config": {**BASE_CONFIG, **container_config},
        **({"author": author} if author else {}),
        "config": {**BASE_CONFIG, **merged},
        **_platform_fields(Platform.of(base) if parent else platforms.local()),
        **({"os.version": base["os.version"]} if base.get("os.version") else {}),
        "rootfs": {"type": "layers", "diff_ids": [*below, layer.diff_id]},
        "history": [*(base.get("history") or ()), history],
    }
    with store.lease() as lease:
        await layer.commit(lease, below)
        return await store.add_image(
            encode(document), [name] if name else [], parent=parent.id if parent else "", tagged=True
        )


async def _ingest_upper(store: ImageStore, upper: Path, directory: str) -> Json:
    async with archive.alone(store.content.root) as worker:
        answer: Json = await worker.call("ingest_upper", upper=str(upper), directory=directory)
        return answer


def _platform_fields(platform: Platform) -> Json:
    variant = {"variant": platform.variant} if platform.variant else {}
    return {"architecture": platform.architecture, **variant, "os": platform.os or "linux"}


def _merged(user: Mapping[str, Any], image: Mapping[str, Any]) -> Json:
    """What the changes say, completed by the container's Config (moby daemon/commit.go, merge)."""
    result: Json = {**image, **{key: value for key, value in user.items() if value not in (None, "", [], {})}}
    for key in ("ExposedPorts", "Labels", "Volumes"):
        if user.get(key):
            result[key] = {**(image.get(key) or {}), **user[key]}
    if user.get("Env"):
        named = {entry.partition("=")[0] for entry in user["Env"]}
        kept = [entry for entry in image.get("Env") or () if entry.partition("=")[0] not in named]
        result["Env"] = [*user["Env"], *kept]
    if user.get("Entrypoint") and not user.get("Cmd"):
        result["Cmd"] = None
    return result
