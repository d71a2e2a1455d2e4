"""A layer in another form: compressed otherwise, or with nothing in it younger than a given time."""

from __future__ import annotations

import hashlib
import zlib
from dataclasses import replace
from typing import Any, Protocol

from isal import isal_zlib

from daemon.images.transfer.compression import LEVEL, Decompressed
from daemon.images.transfer.ingest import PIECE, WorkerStore
from storage.archive import TarReader, TarWriter
from storage.content import BlobWriter
from storage.streams import Readable, Writable

_ZSTD_LEVEL = 3


def convert(
    store: WorkerStore, blob: str, compression: str, level: int | None, epoch: int | None
) -> dict[str, Any]:
    """Stores it; {"digest", "size", "tar_size", "diff_id"}. `compression`: gzip, zstd or uncompressed.

    With `epoch` (nanoseconds) it is another layer, with another diff ID.
    """
    with store.open(blob) as source, store.writer() as out:
        sink = _Sink(out, _compressor(compression, level))
        plain = Decompressed(source)
        if epoch is None:
            while piece := plain.read(PIECE):
                sink.write(piece)
        else:
            clamp(plain, sink, epoch)
        diff_id = sink.finish()
        size = out.tell()
        return {"digest": out.commit(), "size": size, "tar_size": sink.size, "diff_id": diff_id}


def clamp(source: Readable, out: Writable, epoch: int) -> None:
    """The same archive, times after `epoch` set to it."""
    reader, writer = TarReader(source), TarWriter(out)
    for entry in reader:
        writer.header(replace(entry, mtime=min(entry.mtime, epoch)))
        for piece in reader.chunks():
            writer.write(piece)
    reader.drain()
    writer.close()


class _Compressor(Protocol):
    def compress(self, data: bytes, /) -> bytes: ...

    def flush(self) -> bytes: ...


class _Plain:
    def compress(self, data: bytes, /) -> bytes:
        return data

    def flush(self) -> bytes:
        return b""


def _compressor(compression: str, level: int | None) -> _Compressor:
    if compression == "uncompressed":
        return _Plain()
    if compression == "zstd":
        import zstandard

        packer: _Compressor = zstandard.ZstdCompressor(
            level=_ZSTD_LEVEL if level is None else level
        ).compressobj()
        return packer
    if level is None:
        fast: _Compressor = isal_zlib.compressobj(level=LEVEL, wbits=31)
        return fast
    return zlib.compressobj(max(level, -1), zlib.DEFLATED, 31)


class _Sink:
    """An archive on its way into the store: small pieces are gathered, a call of the compressor costs."""

    def __init__(self, blob: BlobWriter, compressor: _Compressor) -> None:
        self._blob, self._compressor = blob, compressor
        self._hash = hashlib.sha256()
        self._waiting: list[bytes] = []
        self._gathered = 0
        self.size = 0

    def write(self, data: bytes | memoryview) -> int:
        self._waiting.append(bytes(data))
        self._gathered += len(data)
        if self._gathered >= PIECE:
            self._pass()
        return len(data)

    def _pass(self) -> None:
        data = b"".join(self._waiting)
        self._waiting, self._gathered = [], 0
        self._hash.update(data)
        self.size += len(data)
        if packed := self._compressor.compress(data):
            self._blob.write(packed)

    def finish(self) -> str:
        """The diff ID."""
        self._pass()
        if packed := self._compressor.flush():
            self._blob.write(packed)
        return "sha256:" + self._hash.hexdigest()
