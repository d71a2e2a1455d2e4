"""A snapshot's upper directory as a layer: what a step only touched is taken back, the rest becomes a blob."""

from __future__ import annotations

import contextlib
import hashlib
import os
import queue
import stat
import threading
from collections.abc import Sequence
from pathlib import Path

from isal import isal_zlib

from daemon.build.files.packing import Mirror, Packing, Stale
from daemon.images.manifests import DOCKER_LAYER
from daemon.images.transfer.compression import LEVEL
from daemon.images.transfer.ingest import Layer
from storage.archive import CreateOptions, Root
from storage.archive.layer import Graft, pack_layer
from storage.archive.options import is_opaque
from storage.content import BlobWriter, ContentStore

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


_DEEPEST = 100
_PIECE = 1 << 18
_AHEAD = 8
"""Pieces that wait to be compressed."""


class _Sink:
    """The archive on its way: hashed, compressed, stored.

    Beyond the first piece, compressing and storing are a thread's work while this one reads and hashes: both leave
    the interpreter to others meanwhile.
    """

    def __init__(self, blob: BlobWriter) -> None:
        self._blob = blob
        self._hash = hashlib.sha256()
        self._compressor = isal_zlib.compressobj(level=LEVEL, wbits=31)
        self._pieces: list[bytes] = []
        self._waiting = 0
        self._queue: queue.Queue[bytes | None] = queue.Queue(_AHEAD)
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self.size = 0

    @property
    def position(self) -> int:
        return self.size + self._waiting

    def write(self, data: bytes | memoryview) -> int:
        self._pieces.append(bytes(data))
        self._waiting += len(data)
        if self._waiting >= _PIECE:
            self._flush(more=True)
        return len(data)

    def _flush(self, *, more: bool) -> None:
        """Pieces are all of one size: how an archive compresses depends on them, and shall on its bytes alone."""
        data = b"".join(self._pieces)
        end = len(data) - len(data) % _PIECE if more else len(data)
        for at in range(0, end, _PIECE):
            self._put(data[at : min(at + _PIECE, end)], more=more)
        self._pieces = [data[end:]]
        self._waiting = len(data) - end

    def _put(self, data: bytes, *, more: bool) -> None:
        self.size += len(data)
        if self._thread is None and more:
            self._thread = threading.Thread(target=self._work, daemon=True)
            self._thread.start()
        if self._thread is None:
            self._pack(data)
        else:
            self._queue.put(data)
        self._hash.update(data)
        if self._error is not None:
            raise self._error

    def _pack(self, data: bytes) -> None:
        if packed := self._compressor.compress(data):
            self._blob.write(packed)

    def _work(self) -> None:
        while (data := self._queue.get()) is not None:
            if self._error is None:
                try:
                    self._pack(data)
                except BaseException as error:
                    self._error = error  # raised where the archive is written

    def close(self) -> None:
        """The thread has ended; idempotent."""
        if self._thread is not None:
            self._queue.put(None)
            self._thread.join()
            self._thread = None

    def finish(self) -> str:
        self._flush(more=False)
        self.close()
        if self._error is not None:
            raise self._error
        self._blob.write(self._compressor.flush())
        return "sha256:" + self._hash.hexdigest()


def make(upper: Path, store: ContentStore, mirror: Mirror | None = None) -> Layer:
    """Stores the directory as a layer; what it holds, not when it was made, decides its digest.

    `mirror`: what is known of where it came from (daemon.build.files.packing).
    """
    if mirror is not None:
        with contextlib.suppress(Stale):
            return _made(upper, store, mirror)
    return _made(upper, store, None)


def _made(upper: Path, store: ContentStore, mirror: Mirror | None) -> Layer:
    with store.writer() as blob:
        sink = _Sink(blob)
        packing = Packing(mirror, sink, store) if mirror else None
        graft = Graft(mirror.target, packing.write) if mirror and packing else None
        with contextlib.closing(sink):
            files = pack_layer(sink, upper, options=CreateOptions(), graft=graft)
            diff_id = sink.finish()
        size = blob.tell()
        digest = blob.commit()
    if packing is not None:
        packing.keep(digest)
    return Layer(diff_id, sink.size, files, digest, size, DOCKER_LAYER)


def tidy(upper: Path, lower: Sequence[Path], stubs: Sequence[str]) -> None:
    """Takes back what was only made to mount upon, and directories that were copied up but not changed."""
    with Root(upper) as root:
        for path in stubs:
            _remove_stub(root, path, lower)
    fd = os.open(upper, _DIRECTORY)
    try:
        _drop_unchanged(fd, [str(each) for each in lower])
    finally:
        os.close(fd)


def _remove_stub(root: Root, path: str, lower: Sequence[Path]) -> None:
    """The mount point if it is empty still and lay not in the image; then its parents likewise."""
    parts = [part for part in path.split("/") if part]
    while parts:
        name = "/".join(parts)
        if any(os.path.lexists(directory / name) for directory in lower):
            return
        try:
            parent = root.open("/".join(parts[:-1]) or ".", os.O_PATH | os.O_DIRECTORY)
        except OSError:
            return
        try:
            found = os.stat(parts[-1], dir_fd=parent, follow_symlinks=False)
            if stat.S_ISDIR(found.st_mode):
                os.rmdir(parts[-1], dir_fd=parent)
            elif stat.S_ISREG(found.st_mode) and found.st_size == 0:
                os.unlink(parts[-1], dir_fd=parent)
            else:
                return
        except OSError:
            return
        finally:
            os.close(parent)
        parts.pop()


def _drop_unchanged(fd: int, lower: list[str], depth: int = 0) -> bool:
    """Removes empty directories that look as they did below; True when nothing is left in this one.

    Overlay copies a directory up before anything in it changes; if that was taken back it says nothing. Only
    depths that people use are looked at: recursion stays shallow.
    """
    empty = True
    for name in os.listdir(fd):
        found = os.stat(name, dir_fd=fd, follow_symlinks=False)
        if not stat.S_ISDIR(found.st_mode) or depth > _DEEPEST:
            empty = False
            continue
        below = [
            path
            for directory in lower
            if os.path.isdir(path := f"{directory}/{name}") and not os.path.islink(path)
        ]
        if not below:
            empty = False
            continue
        child = os.open(name, _DIRECTORY, dir_fd=fd)
        try:
            bare = _drop_unchanged(child, below, depth + 1)
            same = _same(os.fstat(child), os.lstat(below[0])) and not is_opaque(
                child, "trusted.overlay.opaque"
            )
        finally:
            os.close(child)
        if bare and same:
            with contextlib.suppress(OSError):
                os.rmdir(name, dir_fd=fd)
                continue
        empty = False
    return empty


def _same(one: os.stat_result, other: os.stat_result) -> bool:
    return (one.st_mode, one.st_uid, one.st_gid) == (other.st_mode, other.st_uid, other.st_gid)
