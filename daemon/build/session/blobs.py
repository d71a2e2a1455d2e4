"""A client's content stores (containerd's content service): local caches and OCI layouts."""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from google.protobuf.field_mask_pb2 import FieldMask

from daemon.build.proto.content_pb2 import (
    COMMIT,
    STAT,
    WRITE,
    Info,
    InfoRequest,
    InfoResponse,
    ReadContentRequest,
    ReadContentResponse,
    UpdateRequest,
    WriteContentRequest,
    WriteContentResponse,
)
from daemon.build.session.threads import in_thread
from daemon.rpc.calls import Call, call, unary
from daemon.rpc.http2 import Connection
from storage.disk import no_space
from storage.errors import Conflict, DataCorrupted, NotFound

_SERVICE = "/containerd.services.content.v1.Content/"
_PIECE = 1 << 20
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC


class Blobs:
    """One store of one client."""

    def __init__(self, connection: Connection, store: str) -> None:
        self._connection = connection
        self._store = [("buildkit-attachable-store-id", store)]

    async def info(self, digest: str) -> int | None:
        """Size; None when it is not there."""
        request = InfoRequest(digest=digest).SerializeToString()
        try:
            answer = await unary(self._connection, f"{_SERVICE}Info", request, self._store)
        except NotFound:
            return None
        return InfoResponse.FromString(answer).info.size

    async def read(self, digest: str, path: Path | None, limit: int) -> str:
        """Into a new file, or (None) as base64; verified. DataCorrupted beyond `limit` bytes (0: no limit)."""
        request = ReadContentRequest(digest=digest).SerializeToString()
        summed = hashlib.new(_algorithm(digest))
        kept = bytearray()
        fd = -1 if path is None else os.open(path, _CREATE, 0o600)
        size = 0
        try:
            async with await call(self._connection, f"{_SERVICE}Read", self._store) as under_way:
                await under_way.send([request], end=True)
                while batch := await under_way.batch():
                    data = b"".join(ReadContentResponse.FromString(each).data for each in batch)
                    size += len(data)
                    if limit and size > limit:
                        raise DataCorrupted(f"{digest} is larger than {limit} bytes")
                    if fd < 0:
                        kept += data
                        summed.update(data)
                    else:
                        await in_thread(_store, fd, data, summed, str(path))
        finally:
            if fd >= 0:
                os.close(fd)
        if summed.hexdigest() != digest.partition(":")[2]:
            raise DataCorrupted(f"the client's {digest} has another digest")
        return base64.b64encode(kept).decode()

    async def write(self, descriptor: Mapping[str, Any], path: Path | None, data: bytes) -> None:
        """A file's contents, or `data`, as the blob that an OCI descriptor names."""
        digest, size = str(descriptor["digest"]), int(descriptor["size"])
        ref = f"pyd-{digest}"
        labels = {str(key): str(value) for key, value in (descriptor.get("labels") or {}).items()}
        async with await call(self._connection, f"{_SERVICE}Write", self._store) as under_way:
            begin = WriteContentRequest(action=STAT, ref=ref, total=size, expected=digest)
            try:
                offset = (await _answered(under_way, begin)).offset
                if offset:  # left by one that was interrupted: begun anew
                    offset = 0
                pieces = _pieces(path, data)
                while piece := await in_thread(next, pieces, b""):
                    request = WriteContentRequest(action=WRITE, ref=ref, offset=offset, data=piece)
                    offset = (await _answered(under_way, request)).offset
                done = WriteContentRequest(
                    action=COMMIT, ref=ref, total=size, expected=digest, offset=offset, labels=labels
                )
                await _answered(under_way, done)
            except Conflict:  # it is there
                return
            await under_way.end()
            while await under_way.batch():
                pass

    async def labels(self, digest: str, labels: Mapping[str, str]) -> None:
        """Sets labels of a blob, others stay."""
        mask = FieldMask(paths=[f"labels.{key}" for key in labels])
        request = UpdateRequest(info=Info(digest=digest, labels=dict(labels)), update_mask=mask)
        await unary(self._connection, f"{_SERVICE}Update", request.SerializeToString(), self._store)


async def _answered(under_way: Call, request: WriteContentRequest) -> WriteContentResponse:
    await under_way.send([request.SerializeToString()])
    batch = await under_way.batch()
    if not batch:
        raise DataCorrupted("the client's store has ended early")
    return WriteContentResponse.FromString(batch[-1])


def _pieces(path: Path | None, data: bytes) -> Any:
    if path is None:
        for start in range(0, len(data), _PIECE):
            yield data[start : start + _PIECE]
        return
    with path.open("rb", buffering=0) as file:
        while piece := file.read(_PIECE):
            yield piece


def _store(fd: int, data: bytes, summed: Any, what: str) -> None:
    from storage.disk import write_all

    with no_space(what):
        write_all(fd, data)
    summed.update(data)


def _algorithm(digest: str) -> str:
    algorithm = digest.partition(":")[0]
    if algorithm not in ("sha256", "sha384", "sha512"):
        raise NotFound(f"{digest}: unknown algorithm")
    return algorithm
