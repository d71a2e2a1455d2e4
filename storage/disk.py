"""What has to be done so that a file is there, whole, after a crash; and a full disk as our own error.

The pattern everywhere in storage is: write aside, fsync, rename, fsync the directory. rename(2) is atomic
towards other processes; only the two fsyncs make it so towards a power cut (ext4 and XFS may otherwise
commit the new name before the data it names).
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from storage.errors import NoSpace

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_SYNC_FILE_RANGE_WRITE = 2
_FALLOC_FL_KEEP_SIZE = 1
_FS_IOC_GETFLAGS, _FS_IOC_SETFLAGS, _FS_TOPDIR_FL = 0x80086601, 0x40086602, 0x20000

_libc = ctypes.CDLL(None, use_errno=True)
_libc.sync_file_range.argtypes = [ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint]
_libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]


@contextmanager
def no_space(what: str | Path) -> Iterator[None]:
    """Turns ENOSPC and EDQUOT into NoSpace naming what was being written; other errors pass."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise NoSpace(f"write {what}: {os.strerror(error.errno or 0)}") from error
        raise


def is_full(error: OSError) -> bool:
    return error.errno in _FULL


def write_all(fd: int, data: bytes | memoryview) -> None:
    """write(2) until nothing is left: it may take less than asked for, near the end of a disk for one."""
    written = os.write(fd, data)
    while written < len(data):
        data = memoryview(data)[written:]
        written = os.write(fd, data)


def start_writeback(fd: int, offset: int, length: int) -> None:
    """Asks the kernel to begin writing a range out, so that a later fsync finds little to do."""
    _libc.sync_file_range(fd, offset, length, _SYNC_FILE_RANGE_WRITE)


def reserve(path: Path, length: int) -> None:
    """Takes the blocks of the file's first `length` bytes without changing its size; where that can't be, nothing."""
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        _libc.fallocate(fd, _FALLOC_FL_KEEP_SIZE, 0, length)
    finally:
        os.close(fd)


def spread(directory: Path) -> None:
    """Lets the file system put directories that are made in this one far from one another: they are unrelated.

    ext4 (as `chattr +T`) then begins each in a part of the disk with room of its own. Beside trees that were deleted
    a moment ago it creates files five to twenty times slower: it looks at each of their inodes before it takes
    another (ext4's recently_deleted). Elsewhere nothing.
    """
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        flags = int.from_bytes(fcntl.ioctl(fd, _FS_IOC_GETFLAGS, bytes(4)), sys.byteorder)
        fcntl.ioctl(fd, _FS_IOC_SETFLAGS, (flags | _FS_TOPDIR_FL).to_bytes(4, sys.byteorder))
    except OSError:
        pass
    finally:
        os.close(fd)


def sync_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def sync_filesystem(path: Path) -> None:
    """syncfs(2): everything on the file system that holds `path`. Raises OSError for a failed write-back."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if _libc.syncfs(fd) < 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code), str(path))
    finally:
        os.close(fd)


def write_aside(path: Path, data: bytes) -> None:
    """Replaces a small file in one step towards crashes of this process (not towards power cuts)."""
    aside = f"{path}.tmp"
    fd = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        write_all(fd, data)
    finally:
        os.close(fd)
    os.rename(aside, path)
