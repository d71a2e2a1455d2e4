"""The exporters oci and docker: an OCI layout, as an archive or blob by blob into the client's store.

Docker's form has a manifest.json beside, which docker load of any age reads. Sources: containerd
core/images/archive/exporter.go; BuildKit exporter/oci/export.go.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import time
from collections.abc import Sequence
from typing import Any

from daemon.build.bench import Bench
from daemon.build.export.image import Committed
from daemon.build.export.options import ImageOptions
from daemon.build.session.sessions import Session
from daemon.build.steps import Progress
from daemon.images import targets, times
from daemon.images.manifests import OCI_INDEX, encode
from daemon.images.model import Json, digest_of
from daemon.images.reference import Reference
from daemon.images.transfer.parent import Worker
from storage.errors import Conflict, InvalidArgument

LAYOUT = b'{"imageLayoutVersion":"1.0.0"}'
CREATED = "org.opencontainers.image.created"
NAME, REF_NAME = "io.containerd.image.name", "org.opencontainers.image.ref.name"
Member = dict[str, Any]


class Archive:
    """To one client."""

    def __init__(
        self, bench: Bench, progress: Progress, session: Session | None, exporter_id: int | str
    ) -> None:
        self._bench, self._progress = bench, progress
        self._session, self._exporter_id = session, exporter_id

    async def send(
        self, kind: str, options: ImageOptions, names: Sequence[Reference], committed: Committed
    ) -> dict[str, str]:
        """The exporter's answer, which the client gets before the data."""
        if self._session is None:
            raise InvalidArgument(f"the exporter {kind} needs a session to send its archive over")
        notes = committed.descriptor.get("annotations") or {}
        moment = options.epoch if options.epoch is not None else time.time_ns() // 10**9 * 10**9
        descriptor = {
            **committed.descriptor,
            "annotations": dict(sorted({CREATED: times.rfc3339(moment), **notes}.items())),
        }
        answer = committed.answer(stored=False) | {
            "containerimage.descriptor": base64.b64encode(_compact(descriptor)).decode()
        }
        if names:
            answer["image.name"] = ",".join(map(str, names))
        digests = await asyncio.to_thread(targets.blobs, self._bench.store.content, committed.target)
        if options.tar:
            members = list(_members(kind, digests, descriptor, names, committed))
            await self._send_archive(members, answer)
        else:
            await self._send_blobs(digests)
        return answer

    async def _send_archive(self, members: list[Member], answer: dict[str, str]) -> None:
        root = self._bench.store.content.root

        async def produce(fd: int) -> None:
            worker = Worker(root, os.dup(fd))
            try:
                await worker.call("save", members=members)
            finally:
                await worker.close(kill=True)

        assert self._session is not None
        with self._progress.status("sending tarball"):
            try:
                await self._session.send_file(self._exporter_id, produce, answer)
            except Conflict:  # the client has it already
                return

    async def _send_blobs(self, digests: Sequence[str]) -> None:
        """What others refer to before them."""
        assert self._session is not None
        content, client = self._bench.store.content, self._session.content("export")
        for digest in reversed(digests):
            path = content.path(digest)
            size = await asyncio.to_thread(content.size, digest)
            media_type = "application/octet-stream"
            await client.write({"mediaType": media_type, "digest": digest, "size": size}, path)


def _compact(value: Json) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _members(
    kind: str, digests: Sequence[str], descriptor: Json, names: Sequence[Reference], committed: Committed
) -> list[Member]:
    members: list[Member] = [{"name": name, "mtime": 0} for name in ("blobs", "blobs/sha256")]
    members += [{"name": _path(digest), "mtime": 0, "raw": digest} for digest in sorted(digests)]
    index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": _entries(descriptor, names)}
    members.append(_document("index.json", encode(index)))
    if kind == "docker":
        image = committed.main
        listed = {
            "Config": _path(digest_of(image.config)),
            "RepoTags": [name.familiar for name in names] or None,
            "Layers": [_path(layer.blob.digest) for layer in image.layers],
        }
        members.append(_document("manifest.json", encode([listed])))
    members.append(_document("oci-layout", LAYOUT) | {"mode": 0o444})
    return members


def _entries(descriptor: Json, names: Sequence[Reference]) -> list[Json]:
    if not names:
        return [_ordered(descriptor)]
    return [
        _ordered(
            {
                **descriptor,
                "annotations": dict(
                    sorted({**descriptor["annotations"], NAME: str(name), REF_NAME: name.tag}.items())
                ),
            }
        )
        for name in names
    ]


def _ordered(descriptor: Json) -> Json:
    known = ("mediaType", "digest", "size", "annotations", "platform")
    return {name: descriptor[name] for name in known if name in descriptor}


def _path(digest: str) -> str:
    return "blobs/" + digest.replace(":", "/")


def _document(name: str, body: bytes) -> Member:
    return {"name": name, "mtime": 0, "body": base64.b64encode(body).decode()}
