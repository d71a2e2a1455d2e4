"""What a directory held when it was last synchronised: a file of records in fsutil's order.

    record   length (4 bytes) of what follows, inode (8), SHA-256 of the contents (32), fsutil's Stat as it came

Comparing records is comparing bytes. The digest and the inode are of regular files; they are filled in when the
contents have come, and zero where there are none.

    digests  the same by inode, for daemon.build.files.hashing: sorted, to be mapped and searched

fsutil's order is that of paths with "/" before all other bytes: parents first, then what is beneath.
"""

from __future__ import annotations

import bisect
import mmap
import os
import stat
import struct
from collections.abc import Iterator
from pathlib import Path

from daemon.build.proto.fsutil_pb2 import Listed
from storage.disk import write_all

_LENGTH = struct.Struct("<I")
_FILLED = struct.Struct("<Q32s")
HEAD = _LENGTH.size + _FILLED.size
NONE = bytes(32)
_EMPTY = bytes(_FILLED.size)
_BUFFER = 1 << 17
_LARGEST = 1 << 24

GO_DIRECTORY, GO_SYMLINK, GO_DEVICE, GO_FIFO, GO_SOCKET = 1 << 31, 1 << 27, 1 << 26, 1 << 25, 1 << 24
GO_SETUID, GO_SETGID, GO_CHARACTER, GO_STICKY, GO_IRREGULAR = 1 << 23, 1 << 22, 1 << 21, 1 << 20, 1 << 19
GO_TYPES = GO_DIRECTORY | GO_SYMLINK | GO_DEVICE | GO_FIFO | GO_SOCKET | GO_CHARACTER | GO_IRREGULAR
"""Go's os.FileMode. Without any of the types it is a regular file, whose contents may be asked for."""


def permissions(mode: int) -> int:
    """Go's mode to chmod's."""
    special = ((GO_SETUID, stat.S_ISUID), (GO_SETGID, stat.S_ISGID), (GO_STICKY, stat.S_ISVTX))
    return mode & 0o777 | sum(bit for flag, bit in special if mode & flag)


def go_mode(mode: int) -> int:
    """st_mode to Go's."""
    types = {
        stat.S_IFDIR: GO_DIRECTORY,
        stat.S_IFLNK: GO_SYMLINK,
        stat.S_IFIFO: GO_FIFO,
        stat.S_IFSOCK: GO_SOCKET,
        stat.S_IFBLK: GO_DEVICE,
        stat.S_IFCHR: GO_DEVICE | GO_CHARACTER,
    }
    special = ((stat.S_ISUID, GO_SETUID), (stat.S_ISGID, GO_SETGID), (stat.S_ISVTX, GO_STICKY))
    return mode & 0o777 | types.get(stat.S_IFMT(mode), 0) | sum(flag for bit, flag in special if mode & bit)


def is_kept(attribute: str) -> bool:
    """Whether an attribute comes to the file: file capabilities and users' own ones.

    Not overlay's, which would speak to the kernel where layers are made.
    """
    return attribute == "security.capability" or (
        attribute.startswith("user.") and not attribute.startswith("user.overlay.")
    )


def order(path: bytes) -> bytes:
    """By which records are sorted."""
    return path.replace(b"/", b"\0")


class Reader:
    """Records one after the other; `at` is where the current one begins."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb", _BUFFER)
        self.at = 0
        self._following = 0
        self.filled = _EMPTY
        self.stat = b""
        self.over = False
        self.next()

    def next(self) -> None:
        head = self._file.read(HEAD)
        self.at = self._following
        if len(head) < HEAD:
            self.over, self.stat = True, b""
            return
        length = _LENGTH.unpack_from(head)[0]
        self.filled = head[_LENGTH.size :]
        self.stat = self._file.read(length - _FILLED.size)
        self._following = self.at + _LENGTH.size + length

    def close(self) -> None:
        self._file.close()


class Writer:
    """Records to a new file; those that are still to be filled in are found by where they begin."""

    def __init__(self, path: Path) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        self._fd = os.open(path, flags, 0o600)
        self._written = 0
        self._buffer = bytearray()

    def copy(self, source: Path, size: int) -> None:
        """The first bytes of another listing, before anything else is added."""
        with source.open("rb") as file:
            while size and (data := file.read(min(size, 1 << 20))):
                write_all(self._fd, data)
                self._written += len(data)
                size -= len(data)

    def add(self, found: bytes, filled: bytes = _EMPTY) -> int:
        """Where the record begins."""
        at = self._written + len(self._buffer)
        self._buffer += _LENGTH.pack(len(found) + _FILLED.size) + filled + found
        if len(self._buffer) >= _BUFFER:
            self._flush()
        return at

    def stat_at(self, at: int) -> Listed:
        if at >= self._written:
            start = at - self._written
            length = _LENGTH.unpack_from(self._buffer, start)[0]
            return Listed.FromString(bytes(self._buffer[start + HEAD : start + _LENGTH.size + length]))
        data = os.pread(self._fd, 1024, at)
        length = _LENGTH.unpack_from(data)[0]
        if len(data) < _LENGTH.size + length:
            data = os.pread(self._fd, _LENGTH.size + length, at)
        return Listed.FromString(data[HEAD : _LENGTH.size + length])

    def fill(self, at: int, inode: int, digest: bytes) -> None:
        filled = _FILLED.pack(inode, digest)
        if at >= self._written:
            start = at - self._written + _LENGTH.size
            self._buffer[start : start + len(filled)] = filled
        else:
            os.pwrite(self._fd, filled, at + _LENGTH.size)

    def close(self) -> None:
        self._flush()
        os.close(self._fd)
        self._fd = -1

    def abandon(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _flush(self) -> None:
        write_all(self._fd, bytes(self._buffer))
        self._written += len(self._buffer)
        self._buffer.clear()


def records(path: Path) -> Iterator[tuple[Listed, int, bytes]]:
    """(stat, inode, digest) of all records."""
    reader = Reader(path)
    try:
        while not reader.over:
            inode, digest = _FILLED.unpack(reader.filled)
            yield Listed.FromString(reader.stat), inode, digest
            reader.next()
    finally:
        reader.close()


# -- digests by inode

_ROW = struct.Struct("<Qqq32s")
"""Inode, size, modification time, SHA-256; a size below zero says that there are attributes (-1 - size)."""
_COUNT = struct.Struct("<Q")


def write_digests(listing: Path, path: Path) -> tuple[int, int]:
    """Makes the table of a listing: inodes first, then rows in the same order. Returns (entries, bytes of files)."""
    rows: dict[int, bytes] = {}
    entries = size = 0
    for found, inode, digest in records(listing):
        entries += 1
        if not inode or digest == NONE:
            continue
        size += found.size
        marked = -1 - found.size if found.xattrs else found.size
        rows[inode] = _ROW.pack(inode, marked, found.mod_time, digest)
    inodes = sorted(rows)
    with path.open("xb") as file:
        file.write(_COUNT.pack(len(inodes)))
        for inode in inodes:
            file.write(_COUNT.pack(inode))
        for inode in inodes:
            file.write(rows[inode])
    return entries, size


class Digests:
    """The table, as hashing asks it."""

    def __init__(self, path: Path) -> None:
        with path.open("rb") as file:
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        count = _COUNT.unpack_from(self._map)[0]
        self._start = _COUNT.size * (1 + count)
        self._view = memoryview(self._map)
        self._inodes = self._view[_COUNT.size : self._start].cast("Q")

    def find(self, status: os.stat_result) -> tuple[bytes, bool] | None:
        """(SHA-256, whether the file has attributes) of a file that is as it was when it came."""
        at = bisect.bisect_left(self._inodes, status.st_ino)
        if at == len(self._inodes) or self._inodes[at] != status.st_ino:
            return None
        _, size, modified, digest = _ROW.unpack_from(self._map, self._start + at * _ROW.size)
        if modified != status.st_mtime_ns or status.st_size != (size if size >= 0 else -1 - size):
            return None
        return digest, size < 0

    def close(self) -> None:
        self._inodes.release()
        self._view.release()
        self._map.close()
